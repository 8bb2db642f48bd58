//! MQTT over WebSocket (`6.0`): a byte stream in binary frames, cut anywhere (`[MQTT-6.0.0-1]` …
//! `[MQTT-6.0.0-4]`).
//!
//! tungstenite does the framing and the upgrade; this adapts its messages to bytes and back.
//! Compression is not offered.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::{Sink, Stream as _};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_tungstenite::WebSocketStream;
#[cfg(feature = "internals")]
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::CapacityError;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode, header};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};

use crate::config;
use crate::net::endpoint::Endpoint;

/// Longest frame and message that is accepted; a packet may span any number of them.
const FRAME_BYTES_MAX: usize = 1 << 20;
/// Payload bytes of one outgoing frame.
const WRITE_BYTES: usize = 64 * 1024;
/// Longest upgrade request, in bytes.
const HEADER_BYTES_MAX: usize = 8 * 1024;
/// Bytes that are still read from a refused client, so that it receives the reason.
const LINGER_BYTES: u64 = 1 << 20;
const PROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// A byte stream in WebSocket frames.
pub struct WebSocket<S> {
    inner: WebSocketStream<Rewound<S>>,
    /// Unread bytes of the last frame.
    rest: Bytes,
    closing: bool,
}

/// A stream whose first bytes were read already and are read once more.
pub struct Rewound<S> {
    head: Bytes,
    stream: S,
}

/// Answers the upgrade request.
///
/// # Errors
/// The reason for the refusal; the client got the HTTP status.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    endpoint: &Endpoint,
) -> Result<WebSocket<S>, String> {
    let head = request_head(&mut stream).await?;
    let stream = Rewound { head: head.into(), stream };
    let config = WebSocketConfig::default()
        .read_buffer_size(4 * 1024)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * WRITE_BYTES)
        .max_message_size(Some(FRAME_BYTES_MAX))
        .max_frame_size(Some(FRAME_BYTES_MAX));
    let mut refused = None;
    #[allow(clippy::result_large_err)] // The shape of tungstenite's callback.
    let answer = |request: &Request, response: Response| {
        judge(request, response, endpoint).map_err(|(status, why)| {
            refused = Some(format!("WebSocket upgrade refused ({status}): {why}"));
            let mut response = ErrorResponse::new(Some(why));
            *response.status_mut() = status;
            response
        })
    };
    match tokio_tungstenite::accept_hdr_async_with_config(stream, answer, Some(config)).await {
        Ok(inner) => Ok(WebSocket { inner, rest: Bytes::new(), closing: false }),
        Err(error) => Err(refused.unwrap_or_else(|| format!("WebSocket upgrade failed: {error}"))),
    }
}

/// Requests the upgrade, as a client.
///
/// # Errors
/// The reason why there is none.
#[cfg(feature = "internals")]
pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    url: &str,
) -> Result<WebSocket<S>, String> {
    let mut request = url.into_client_request().map_err(|error| error.to_string())?;
    request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("mqtt"));
    let stream = Rewound { head: Bytes::new(), stream };
    let config = WebSocketConfig::default().read_buffer_size(4 * 1024).write_buffer_size(0);
    match tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await {
        Ok((inner, _)) => Ok(WebSocket { inner, rest: Bytes::new(), closing: false }),
        Err(error) => Err(error.to_string()),
    }
}

/// Reads the request up to its empty line. A request that is no upgrade, or too long, is answered
/// here: the library would only close.
async fn request_head<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Result<Vec<u8>, String> {
    let mut head = Vec::new();
    let refusal = loop {
        let mut buffer = [0; 1024];
        match stream.read(&mut buffer).await {
            Ok(0) => return Err("closed before the WebSocket upgrade was whole".to_owned()),
            Ok(n) => head.extend_from_slice(buffer.get(..n).unwrap_or(&[])),
            Err(error) => return Err(format!("before the WebSocket upgrade was whole: {error}")),
        }
        if head.windows(4).any(|window| window == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
            let upgrade = text.lines().any(|line| line.starts_with("upgrade:") && line.contains("websocket"));
            if upgrade {
                return Ok(head);
            }
            break "426 Upgrade Required";
        }
        if head.len() > HEADER_BYTES_MAX {
            break "431 Request Header Fields Too Large";
        }
    };
    let body = "This is MQTT over WebSocket: connect with an MQTT client, subprotocol mqtt.\n";
    let answer = format!(
        "HTTP/1.1 {refusal}\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\nContent-Type: text/plain\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    // The client may be gone; the log has the reason either way.
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
    let _ = tokio::io::copy(&mut stream.take(LINGER_BYTES), &mut tokio::io::sink()).await;
    Err(format!("no WebSocket upgrade: answered {refusal}"))
}

/// Returns `true` for the origin of a page that this machine serves.
fn is_local_page(origin: &str) -> bool {
    let host = origin.split_once("://").map_or("", |(_, host)| host);
    config::is_loopback_host(host)
}

fn judge(
    request: &Request,
    mut response: Response,
    endpoint: &Endpoint,
) -> Result<Response, (StatusCode, String)> {
    let listener = &endpoint.listener;
    let path = request.uri().path();
    if !listener.websocket_paths.iter().any(|allowed| allowed == path || allowed == "*") {
        return Err((
            StatusCode::NOT_FOUND,
            format!("the path is '{path}', websocket_paths are {:?}", listener.websocket_paths),
        ));
    }
    if let Some(origin) = request.headers().get(header::ORIGIN)
        && !listener.websocket_origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes())
    {
        if !listener.websocket_origins.is_empty() {
            let text = format!("the origin {origin:?} is not among websocket_origins");
            return Err((StatusCode::FORBIDDEN, text));
        }
        if endpoint.local_pages_only && !is_local_page(origin.to_str().unwrap_or_default()) {
            let text = format!(
                "the origin {origin:?} is a page of another host, and this listener is open to this machine only; \
                 add it to websocket_origins"
            );
            return Err((StatusCode::FORBIDDEN, text));
        }
    }
    let offered = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let mut offered = offered
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim);
    // `[MQTT-6.0.0-3]`
    let Some(protocol) = offered.find(|offered| PROTOCOLS.contains(offered)) else {
        return Err((
            StatusCode::BAD_REQUEST,
            "the subprotocol 'mqtt' is not offered (Sec-WebSocket-Protocol)".to_owned(),
        ));
    };
    if let Ok(protocol) = HeaderValue::from_str(protocol) {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Ok(response)
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.head.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let n = self.head.len().min(buf.remaining());
        buf.put_slice(&self.head.split_to(n));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

fn io_error(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::ConnectionClosed | Error::AlreadyClosed => io::ErrorKind::ConnectionAborted.into(),
        error => io::Error::new(io::ErrorKind::InvalidData, error.to_string()),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Sends a close frame with the reason, as far as that is possible without waiting.
    fn close(&mut self, code: CloseCode, reason: &'static str, cx: &mut Context<'_>) {
        if !std::mem::replace(&mut self.closing, true) {
            let frame = CloseFrame { code, reason: reason.into() };
            let _ = Pin::new(&mut self.inner).start_send(Message::Close(Some(frame)));
            let _ = Pin::new(&mut self.inner).poll_flush(cx);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.rest.is_empty() {
            let message = match ready!(Pin::new(&mut this.inner).poll_next(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(Ok(message)) => message,
                Some(Err(error)) => {
                    match &error {
                        Error::Capacity(CapacityError::MessageTooLong { .. }) => {
                            this.close(CloseCode::Size, "frame too large", cx);
                        }
                        Error::Protocol(_) => this.close(CloseCode::Protocol, "", cx),
                        _ => {}
                    }
                    return Poll::Ready(Err(io_error(error)));
                }
            };
            match message {
                Message::Binary(bytes) => this.rest = bytes,
                // `[MQTT-6.0.0-1]`
                Message::Text(_) => {
                    this.close(CloseCode::Unsupported, "MQTT needs binary frames", cx);
                    let what = "a WebSocket text frame: MQTT needs binary frames";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, what)));
                }
                Message::Close(_) => return Poll::Ready(Ok(())),
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
        let n = this.rest.len().min(buf.remaining());
        buf.put_slice(&this.rest.split_to(n));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.inner).poll_ready(cx)).map_err(io_error)?;
        let mut frame = Vec::new();
        for buf in bufs {
            let room = WRITE_BYTES.saturating_sub(frame.len());
            frame.extend_from_slice(buf.get(..buf.len().min(room)).unwrap_or(&[]));
        }
        let n = frame.len();
        Pin::new(&mut self.inner).start_send(Message::Binary(frame.into())).map_err(io_error)?;
        Poll::Ready(Ok(n))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx).map_err(io_error)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.inner).poll_close(cx)) {
            Ok(()) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(io_error(error))),
        }
    }
}
