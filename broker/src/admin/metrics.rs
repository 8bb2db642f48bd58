//! Pages for monitoring: metrics, health, readiness and version.

use hyper::header::{ACCEPT, ALLOW, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::Admin;
use super::exposition::{self, Form};
use super::response::{JSON, ResponseBody, TEXT, response};
use crate::store::Health;

const PATHS: &str = "There are /metrics, /healthz, /readyz and /version; and /api/v1/openapi.json, which describes the API.\n";

impl Admin {
    pub(super) async fn figures<T>(&self, request: &Request<T>) -> Response<ResponseBody> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let text = "Everything here is read with GET.\n";
            let mut response = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, text);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/metrics" => self.metrics(form(request.headers())).await,
            "/healthz" => judged(self.unhealthy()),
            "/readyz" => judged(self.unready()),
            "/version" => {
                let version = serde_json::json!({ "name": "lapwing", "version": crate::VERSION });
                response(StatusCode::OK, JSON, format!("{version}\n"))
            }
            _ => response(StatusCode::NOT_FOUND, TEXT, PATHS),
        }
    }

    /// Some figures come from the kernel, which is slow where many files are open. So they are read
    /// on a blocking thread.
    async fn metrics(&self, form: Form) -> Response<ResponseBody> {
        let core = self.core.clone();
        match tokio::task::spawn_blocking(move || exposition::write(&core, form)).await {
            Ok(text) => response(StatusCode::OK, form.content_type(), text),
            Err(error) => response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
        }
    }

    /// Returns the reason to restart the broker, if there is one.
    fn unhealthy(&self) -> Option<&'static str> {
        (self.core.store.figures().health == Health::Failed).then_some(
            "the store has failed: a write or a sync failed, and no message is acknowledged any more",
        )
    }

    /// Returns the reason to send no client here now, if there is one.
    fn unready(&self) -> Option<&'static str> {
        if *self.stopped.borrow() {
            return Some("the broker stops");
        }
        if self.listeners.borrow().is_empty() {
            return Some("the broker starts: no listener is open yet");
        }
        match self.core.store.figures().health {
            Health::Good => None,
            Health::Full => {
                Some("the disk of the store is full: new messages that must be stored are refused")
            }
            Health::Failed => self.unhealthy(),
        }
    }
}

fn judged(problem: Option<&'static str>) -> Response<ResponseBody> {
    match problem {
        None => response(StatusCode::OK, TEXT, "good\n"),
        Some(problem) => response(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{problem}\n")),
    }
}

/// Returns OpenMetrics, unless the client accepts only the older format.
fn form(headers: &HeaderMap) -> Form {
    let accepted: Vec<&str> =
        headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let names = |name: &str| accepted.iter().any(|value| value.contains(name));
    match names("text/plain") && !names("application/openmetrics-text") {
        true => Form::Plain,
        false => Form::OpenMetrics,
    }
}
