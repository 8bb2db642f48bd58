//! HTTP for operators and their machines: figures, health and version ([`metrics`]) for all that
//! can connect to the address; the API (`/api/v1`, [`routes`]) with the token, or through the Unix
//! socket.
//!
//! Everything is bounded: one request per connection, few connections, short times, small heads and
//! bodies, pages. No request stalls the broker: state is looked at briefly, and copied in pieces.
//! Browsers are kept out: the API needs an Authorization header, there are no cookies, and no other
//! origin is allowed.

mod bans;
mod busiest;
mod clients;
mod explain;
mod exposition;
mod listeners;
mod log;
mod metrics;
mod openapi;
mod pattern;
mod process;
mod reload;
mod request;
mod response;
mod retained;
mod route;
mod routes;
mod schema;
mod sessions;
mod subscriptions;
mod trace;

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hyper::body::{Body, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use subtle::ConstantTimeEq;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use self::request::{ApiRequest, Operator};
use self::response::{ApiError, ApiResponse, JSON, LINES, ResponseBody};
use crate::auth::audit;
use crate::config::is_loopback_host;
use crate::core::Core;
use crate::core::control::{ControlRequest as Reload, ListenerName};
use crate::net::ControlSocket;

/// Concurrent connections on each of the two listeners; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 16;
/// Concurrent streams in all, which last as long as their clients like.
const STREAMS_MAX: usize = 8;
/// Time limit for the head of a request.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// Time limit for an answer.
const ANSWER_TIME: Duration = Duration::from_secs(25);
/// Time limit for a connection.
const CONNECTION_TIME: Duration = Duration::from_secs(30);
/// Longest head, in bytes; the least that hyper takes.
const HEAD_BYTES_MAX: usize = 8_192;
/// Most fields of a head.
const HEADERS_MAX: usize = 64;
/// Longest body, in bytes.
const BODY_BYTES_MAX: usize = 65_536;
/// Wrong tokens of one address within a minute; then its requests are answered 429.
const FAILURES_PER_MINUTE_MAX: u32 = 10;
/// Pause of the accept loop when the process has no file descriptor left.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// The figures of now, in the text format of Prometheus.
pub(crate) fn exposition(core: &Core) -> String {
    exposition::write(core, exposition::Form::Plain)
}

/// The HTTP service for operators.
#[derive(Clone)]
pub(crate) struct Admin {
    core: Arc<Core>,
    listeners: watch::Receiver<Vec<ListenerName>>,
    stopped: watch::Receiver<bool>,
    reloads: mpsc::Sender<Reload>,
    streams: Arc<Semaphore>,
}

/// Listener of the service.
pub(crate) enum AdminListener {
    /// `admin.address`.
    Address(TcpListener),
    /// `admin.socket`.
    Socket(ControlSocket),
}

/// Peer of a connection.
#[derive(Clone, Debug)]
enum AdminPeer {
    Network(SocketAddr),
    Process { user_id: u32, process_id: Option<i32> },
}

impl Admin {
    /// Creates the service. `listeners` are the open ones, `stopped` turns true when the broker
    /// ends, and `reloads` takes requests for changes.
    pub(crate) fn new(
        core: Arc<Core>,
        listeners: watch::Receiver<Vec<ListenerName>>,
        stopped: watch::Receiver<bool>,
        reloads: mpsc::Sender<Reload>,
    ) -> Admin {
        Admin { core, listeners, stopped, reloads, streams: Arc::new(Semaphore::new(STREAMS_MAX)) }
    }

    /// Serves until it is dropped, so that a stopping broker can be observed, too.
    pub(crate) async fn run(self, listener: AdminListener) {
        let mut connections = JoinSet::new();
        loop {
            let accept = async {
                Ok(match &listener {
                    AdminListener::Address(listener) => {
                        let (stream, peer) = listener.accept().await?;
                        (Box::new(stream) as Box<dyn AdminStream>, AdminPeer::Network(peer))
                    }
                    AdminListener::Socket(socket) => {
                        let stream = socket.accept().await?;
                        let peer = stream.peer_cred()?;
                        let peer = AdminPeer::Process { user_id: peer.uid(), process_id: peer.pid() };
                        (Box::new(stream) as Box<dyn AdminStream>, peer)
                    }
                })
            };
            let accepted: std::io::Result<_> = tokio::select! {
                _ = connections.join_next(), if !connections.is_empty() => continue,
                accepted = accept, if connections.len() < CONNECTIONS_MAX => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(self.clone().serve(stream, peer));
                }
                Err(error) => {
                    warn!("failed to accept a connection at admin.address or admin.socket: {error}");
                    tokio::time::sleep(EXHAUSTED).await;
                }
            }
        }
    }

    async fn serve(self, stream: Box<dyn AdminStream>, peer: AdminPeer) {
        let streams = AtomicBool::new(false);
        let service = service_fn(|request| self.answer(request, &peer, &streams));
        let mut connection = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIME)
                .keep_alive(false)
                .max_buf_size(HEAD_BYTES_MAX)
                .max_headers(HEADERS_MAX)
                .serve_connection(TokioIo::new(stream), service)
        );
        let mut served = tokio::time::timeout(CONNECTION_TIME, &mut connection).await;
        if served.is_err() && streams.load(Ordering::Relaxed) {
            served = Ok(connection.await);
        }
        match served {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(?peer, "admin: {error}"),
            Err(_) => debug!(?peer, "admin: closed after {CONNECTION_TIME:?}"),
        }
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        peer: &AdminPeer,
        streams: &AtomicBool,
    ) -> Result<Response<ResponseBody>, Infallible> {
        let path = request.uri().path();
        if path != "/api" && !path.starts_with("/api/") {
            return Ok(match self.may_read(request.headers(), peer, path) {
                Ok(()) => self.figures(&request).await,
                Err(failure) => failure.response(),
            });
        }
        let answer = match self.who(request.headers(), peer) {
            Ok(who) => match tokio::time::timeout(ANSWER_TIME, self.call(request, who)).await {
                Ok(answer) => answer,
                Err(_) => Err(ApiError::unavailable(
                    format!("this took longer than {} s, and may be done in part", ANSWER_TIME.as_secs()),
                    "ask for less at once",
                )),
            },
            Err(failure) => Err(failure),
        };
        Ok(match answer {
            Ok(answer) => {
                streams.store(answer.is_stream(), Ordering::Relaxed);
                answer.response()
            }
            Err(failure) => failure.response(),
        })
    }

    async fn call(&self, request: Request<Incoming>, who: Operator) -> Result<ApiResponse, ApiError> {
        let (route, names) = routes::find(request.method(), request.uri().path())?;
        let query = request::query(request.uri().query().unwrap_or(""), route.query)?;
        if route.body.is_some() {
            let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
            if kind.split(';').next().is_none_or(|kind| !kind.trim().eq_ignore_ascii_case(JSON)) {
                return Err(ApiError::media_type(
                    "the body must be JSON",
                    format!("send it with Content-Type: {JSON}"),
                ));
            }
        }
        let body = whole(request.into_body()).await?;
        let permit = match route.answer.1 {
            LINES => Some(self.streams.clone().try_acquire_owned().map_err(|_| {
                let error = format!("there are {STREAMS_MAX} streams already");
                ApiError::unavailable(error, "end one of them")
            })?),
            _ => None,
        };
        let answer = (route.run)(ApiRequest::new(self.clone(), who, names, query, body)).await?;
        Ok(answer.with(permit))
    }

    /// Authenticates the operator behind a request to the API.
    fn who(&self, headers: &HeaderMap, peer: &AdminPeer) -> Result<Operator, ApiError> {
        let peer = match *peer {
            AdminPeer::Process { user_id, process_id } => {
                return Ok(Operator::Socket { user_id, process_id });
            }
            AdminPeer::Network(peer) => peer,
        };
        let snapshot = self.core.settings.get();
        let Some(token) = &snapshot.admin_token else {
            let socket = match snapshot.config.control_socket() {
                Some(path) => format!("; `lapwing ctl --socket {}` needs none", path.display()),
                None => String::new(),
            };
            return Err(ApiError::forbidden(
                "the API needs a token, and none is configured",
                format!("set admin.token_file, then reload{socket}"),
            ));
        };
        let remedy = "send Authorization: Bearer TOKEN, as admin.token or admin.token_file has it";
        let Some(given) = bearer(headers) else {
            return Err(ApiError::unauthorized("the API needs a token", remedy));
        };
        let (throttle, now) = (&self.core.operator_throttle, Instant::now());
        if throttle.is_shut(Some(peer.ip()), FAILURES_PER_MINUTE_MAX, now) {
            return Err(ApiError::too_many(
                "too many wrong tokens came from this address",
                "wait a minute; `lapwing ctl` over its socket needs no token",
            ));
        }
        if !same(given, token.reveal()) {
            throttle.failed(Some(peer.ip()), now);
            self.core.metrics.authentication_failures.add(1);
            audit::operator_refused(&self.core.log_pace, self.core.now(), &peer);
            return Err(ApiError::unauthorized("the token is wrong", remedy));
        }
        Ok(Operator::Token(peer))
    }

    /// Checks that a client may read figures: from this machine, with the token, or where
    /// `admin.open` is set. Health is open to all.
    fn may_read(&self, headers: &HeaderMap, peer: &AdminPeer, path: &str) -> Result<(), ApiError> {
        let admin = &self.core.settings.get().config.admin;
        match path {
            "/healthz" | "/readyz" => Ok(()),
            _ if admin.open => Ok(()),
            // A page in a browser of this machine may have a name that leads here.
            _ if admin.is_local() => match headers.get(HOST).and_then(|host| host.to_str().ok()) {
                Some(host) if matches!(peer, AdminPeer::Network(_)) && !is_loopback_host(host) => {
                    Err(ApiError::misdirected(
                        format!(
                            "the request is for the host {host:?}, and this address is for this machine only"
                        ),
                        "ask for it as localhost or 127.0.0.1, or set admin.open = true for other names",
                    ))
                }
                _ => Ok(()),
            },
            _ => self.who(headers, peer).map(drop),
        }
    }
}

/// Bytes of either listener.
trait AdminStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> AdminStream for T {}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

/// Compares in constant time, so that neither content nor length leaks.
fn same(given: &[u8], expected: &[u8]) -> bool {
    let digest = |bytes| ring::digest::digest(&ring::digest::SHA256, bytes);
    digest(given).as_ref().ct_eq(digest(expected).as_ref()).into()
}

/// Reads a body up to the limit.
async fn whole(mut body: Incoming) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame
            .map_err(|error| ApiError::bad(format!("the body is incomplete: {error}"), "send it again"))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > BODY_BYTES_MAX {
            return Err(ApiError::too_large(
                "the body is too large",
                format!("send at most {BODY_BYTES_MAX} bytes"),
            ));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}
