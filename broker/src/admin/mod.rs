//! What operators and their machines look at: figures, health, readiness and version, over HTTP on a listener of its own.
//!
//! It only reads, and it is bounded: one request per connection, few connections, little time and small heads.

mod exposition;
mod process;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use self::exposition::Form;
use crate::core::Core;
use crate::store::Health;

/// How many connections there are at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 16;
/// How long the head of a request may take.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// How long a connection may take in all.
const CONNECTION_TIME: Duration = Duration::from_secs(30);
/// The longest head, in bytes; the least that hyper takes.
const HEAD_BYTES_MAX: usize = 8_192;
/// The most fields of a head.
const HEADERS_MAX: usize = 64;
/// How long accepting rests when the process has no file descriptor left.
const EXHAUSTED: Duration = Duration::from_millis(100);

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const PATHS: &str = "There are /metrics, /healthz, /readyz and /version.\n";

/// What it is about.
#[derive(Clone)]
pub(crate) struct Admin {
    core: Arc<Core>,
    listeners: watch::Receiver<Vec<Arc<str>>>,
    stopped: watch::Receiver<bool>,
}

impl Admin {
    /// `listeners` are those that are open, `stopped` says that the broker ends.
    pub(crate) fn new(
        core: Arc<Core>,
        listeners: watch::Receiver<Vec<Arc<str>>>,
        stopped: watch::Receiver<bool>,
    ) -> Admin {
        Admin { core, listeners, stopped }
    }

    /// Serves until it is dropped: what becomes of a broker that stops can be seen, too.
    pub(crate) async fn run(self, socket: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                _ = connections.join_next(), if !connections.is_empty() => continue,
                accepted = socket.accept(), if connections.len() < CONNECTIONS_MAX => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(self.clone().serve(stream, peer));
                }
                Err(error) => {
                    warn!("a connection to admin.address could not be accepted: {error}");
                    tokio::time::sleep(EXHAUSTED).await;
                }
            }
        }
    }

    async fn serve(self, stream: TcpStream, peer: SocketAddr) {
        let service = service_fn(|request| self.answer(request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .keep_alive(false)
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .serve_connection(TokioIo::new(stream), service);
        match tokio::time::timeout(CONNECTION_TIME, connection).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%peer, "admin: {error}"),
            Err(_) => debug!(%peer, "admin: closed after {CONNECTION_TIME:?}"),
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<String>, Infallible> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let text = "Everything here is read with GET.\n".to_owned();
            let mut response = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, text);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return Ok(response);
        }
        Ok(match request.uri().path() {
            "/metrics" => self.metrics(form(request.headers())).await,
            "/healthz" => judged(self.unhealthy()),
            "/readyz" => judged(self.unready()),
            "/version" => {
                let version = serde_json::json!({ "name": "lapwing", "version": crate::VERSION });
                response(StatusCode::OK, JSON, format!("{version}\n"))
            }
            _ => response(StatusCode::NOT_FOUND, TEXT, PATHS.to_owned()),
        })
    }

    /// The kernel is asked for some figures, and takes its time where there are many open files: on a thread of its own.
    async fn metrics(&self, form: Form) -> Response<String> {
        let core = self.core.clone();
        match tokio::task::spawn_blocking(move || exposition::write(&core, form)).await {
            Ok(text) => response(StatusCode::OK, form.content_type(), text),
            Err(error) => response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
        }
    }

    /// Why the broker should be started anew.
    fn unhealthy(&self) -> Option<&'static str> {
        (self.core.store.figures().health == Health::Failed).then_some(
            "the store has failed: a write or a sync did not succeed, and nothing more is acknowledged",
        )
    }

    /// Why no client should be sent here now.
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
                Some("the disk of the store is full: no new message is taken that has to be kept")
            }
            Health::Failed => self.unhealthy(),
        }
    }
}

fn judged(problem: Option<&'static str>) -> Response<String> {
    match problem {
        None => response(StatusCode::OK, TEXT, "good\n".to_owned()),
        Some(problem) => response(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{problem}\n")),
    }
}

fn response(status: StatusCode, content_type: &'static str, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// OpenMetrics, unless somebody can only read what was before it.
fn form(headers: &HeaderMap) -> Form {
    let accepted: Vec<&str> =
        headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let names = |name: &str| accepted.iter().any(|value| value.contains(name));
    match names("text/plain") && !names("application/openmetrics-text") {
        true => Form::Plain,
        false => Form::OpenMetrics,
    }
}
