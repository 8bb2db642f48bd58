//! Responses of the API: a value, a stream of lines, or an error.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

pub(super) const TEXT: &str = "text/plain; charset=utf-8";
pub(super) const JSON: &str = "application/json";
/// Content type of a stream: a JSON value a line, as long as the client listens.
pub(super) const LINES: &str = "application/x-ndjson";

/// Body of a response.
pub(super) enum ResponseBody {
    Whole(Bytes),
    /// Bytes as they come. It ends when the sender is dropped; the sender notices when the client
    /// is gone.
    Stream {
        from: mpsc::Receiver<Bytes>,
        _permit: Option<OwnedSemaphorePermit>,
    },
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            ResponseBody::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            ResponseBody::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            ResponseBody::Stream { from, .. } => {
                from.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, ResponseBody::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            ResponseBody::Stream { .. } => SizeHint::default(),
        }
    }
}

/// Result of a route.
pub(super) enum ApiResponse {
    Value(Value),
    /// JSON values with a newline each, as they come.
    Lines(mpsc::Receiver<Bytes>, Option<OwnedSemaphorePermit>),
}

impl ApiResponse {
    /// Adds the permit that a stream keeps until it ends.
    pub fn with(self, permit: Option<OwnedSemaphorePermit>) -> ApiResponse {
        match self {
            ApiResponse::Lines(from, _) => ApiResponse::Lines(from, permit),
            answer => answer,
        }
    }

    pub fn is_stream(&self) -> bool {
        matches!(self, ApiResponse::Lines(..))
    }

    pub fn response(self) -> Response<ResponseBody> {
        match self {
            ApiResponse::Value(value) => response(StatusCode::OK, JSON, format!("{value}\n")),
            ApiResponse::Lines(from, permit) => {
                with_content(StatusCode::OK, LINES, ResponseBody::Stream { from, _permit: permit })
            }
        }
    }
}

/// Error of the API, with its remedy.
#[derive(Debug)]
pub(super) struct ApiError {
    pub status: StatusCode,
    pub error: String,
    pub remedy: String,
}

impl ApiError {
    fn new(status: StatusCode, error: impl Into<String>, remedy: impl Into<String>) -> ApiError {
        ApiError { status, error: error.into(), remedy: remedy.into() }
    }

    /// The request is malformed.
    pub fn bad(error: impl Into<String>, remedy: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, error, remedy)
    }

    /// The thing does not exist.
    pub fn missing(error: impl Into<String>, remedy: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, error, remedy)
    }

    /// The request contradicts the state of the broker.
    pub fn conflict(error: impl Into<String>, remedy: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::CONFLICT, error, remedy)
    }

    /// The broker failed to do it; the request is fine.
    pub fn unavailable(error: impl Into<String>, remedy: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, error, remedy)
    }

    /// The client has to wait.
    pub fn too_many(error: impl Into<String>, remedy: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, error, remedy)
    }

    /// The path exists, with these methods.
    pub fn method(allow: &str) -> ApiError {
        ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this path has no such method", format!("use {allow}"))
    }

    /// The request is too large.
    pub fn too_large(error: impl Into<String>, remedy: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, error, remedy)
    }

    /// The body has another content type than expected.
    pub fn media_type(error: impl Into<String>, remedy: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, error, remedy)
    }

    /// The request was meant for another host.
    pub fn misdirected(error: impl Into<String>, remedy: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::MISDIRECTED_REQUEST, error, remedy)
    }

    /// The request has no valid token.
    pub fn unauthorized(error: impl Into<String>, remedy: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::UNAUTHORIZED, error, remedy)
    }

    /// The broker does not do this for any client.
    pub fn forbidden(error: impl Into<String>, remedy: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::FORBIDDEN, error, remedy)
    }

    /// Returns its schema for the OpenAPI document.
    pub fn schema() -> Value {
        json!({
            "type": "object",
            "title": "Failure",
            "properties": {
                "error": { "type": "string", "description": "The error." },
                "remedy": { "type": "string", "description": "The remedy." },
            },
            "required": ["error", "remedy"],
            "additionalProperties": false,
        })
    }

    pub fn response(self) -> Response<ResponseBody> {
        let ApiError { status, error, remedy } = self;
        let body = json!({ "error": error, "remedy": remedy });
        let mut response = response(status, JSON, format!("{body}\n"));
        let headers = response.headers_mut();
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        let methods = remedy.strip_prefix("use ").filter(|_| status == StatusCode::METHOD_NOT_ALLOWED);
        if let Some(allow) = methods.and_then(|methods| HeaderValue::from_str(methods).ok()) {
            headers.insert(ALLOW, allow);
        }
        response
    }
}

/// Makes a response of a whole body.
pub(super) fn response(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<ResponseBody> {
    with_content(status, content_type, ResponseBody::Whole(body.into()))
}

fn with_content(
    status: StatusCode,
    content_type: &'static str,
    content: ResponseBody,
) -> Response<ResponseBody> {
    let mut response = Response::new(content);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
