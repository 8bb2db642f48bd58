//! Connection to the broker: HTTP over its Unix socket, or over TCP with its token.

use std::future::poll_fn;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use lapwing::internals::config::{Config, Secret, Source};
use serde_json::Value;
use tokio::net::{TcpStream, UnixStream};

use super::{Ctl, Query};

/// Sockets of brokers that were not started here: the installed service, and a container.
const USUAL: [&str; 3] =
    ["/run/lapwing/lapwing.sock", "/var/lib/lapwing/lapwing.sock", "/mosquitto/data/lapwing.sock"];
/// Time limit for connecting.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// Time limit for an answer: a little longer than the broker gives itself.
const ANSWER_TIME: Duration = Duration::from_secs(35);
/// Largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Longest line of a stream, in bytes.
const LINE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Address of the broker, with the token for TCP.
pub enum Link {
    Socket(PathBuf),
    Address { host: String, token: Option<Secret> },
}

/// Reason that there is no answer, or an error in place of it.
pub enum Said {
    /// The broker was not reached, or did not speak HTTP as it should.
    Link(String),
    /// The broker's error: `{error, remedy}`.
    Failure(Value),
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Said::Link(text) => f.write_str(text),
            Said::Failure(failure) => {
                let part = |name: &str| failure[name].as_str().unwrap_or_default();
                write!(f, "{}\nwhat to do: {}", part("error"), part("remedy"))
            }
        }
    }
}

/// A body that is sent whole.
struct Sent(Option<Bytes>);

impl Body for Sent {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        hyper::body::SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

impl Link {
    /// Finds the broker by the arguments and the configuration.
    ///
    /// # Errors
    /// They do not name it.
    pub fn find(ctl: &Ctl, source: &Source) -> Result<Link, String> {
        let config = || source.read().map(|reading| reading.config).map_err(|errors| errors.to_string());
        match (&ctl.socket, &ctl.url) {
            (Some(_), Some(_)) => Err("--socket and --url exclude each other".to_owned()),
            (None, None) if ctl.token_file.is_some() => {
                Err("--token-file is for --url: the socket needs no token".to_owned())
            }
            (Some(path), None) => Ok(Link::Socket(path.clone())),
            (None, Some(url)) => {
                let host = url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
                let host = host.filter(|host| !host.is_empty() && !host.contains('/')).ok_or_else(|| {
                    format!("--url {url}: write http://HOST:PORT. For a broker on another machine use its socket there, by ssh")
                })?;
                let token = match &ctl.token_file {
                    Some(path) => Some(token_of(path)?),
                    None => of_config(&config()?)?,
                };
                let port = if host.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok()) {
                    ""
                } else {
                    ":80"
                };
                Ok(Link::Address { host: format!("{host}{port}"), token })
            }
            (None, None) => {
                let config = config()?;
                let own = config.control_socket();
                let meant =
                    config.admin.socket.is_some() || source.file.is_some() || source.flags.data_dir.is_some();
                let usual = USUAL.iter().map(PathBuf::from).filter(|_| !meant);
                let candidates: Vec<PathBuf> = own.into_iter().chain(usual).collect();
                let there = candidates.iter().find(|path| !matches!(path.try_exists(), Ok(false)));
                there.or(candidates.first()).cloned().map(Link::Socket).ok_or_else(|| {
                    "the configuration has no socket: set admin.socket, or use --url with admin.address and its token"
                        .to_owned()
                })
            }
        }
    }

    /// Sends a request and waits for the whole answer.
    ///
    /// # Errors
    /// Returns [`Said`].
    pub async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value, Said> {
        let answer = async {
            let response = self.send(method, path, body).await?;
            let good = response.status().is_success();
            let bytes = whole(response.into_body()).await?;
            let value = serde_json::from_slice(&bytes).map_err(|_| {
                Said::Link(format!("{self}: this is not Lapwing's API: is another program there?"))
            })?;
            if good { Ok(value) } else { Err(Said::Failure(value)) }
        };
        let slow = || Said::Link(format!("{self}: no answer within {} s", ANSWER_TIME.as_secs()));
        tokio::time::timeout(ANSWER_TIME, answer).await.unwrap_or_else(|_| Err(slow()))
    }

    /// Asks for a stream and passes on each of its values as it comes, until it ends.
    ///
    /// # Errors
    /// Returns [`Said`], or the error of `each`.
    pub async fn lines(
        &self,
        path: &str,
        mut each: impl FnMut(Value) -> Result<(), Said>,
    ) -> Result<(), Said> {
        let response = self.send("GET", path, None).await?;
        let good = response.status().is_success();
        let mut body = response.into_body();
        let mut buffer: Vec<u8> = Vec::new();
        while let Some(data) = next(&mut body).await? {
            buffer.extend_from_slice(&data);
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                let value = serde_json::from_slice(&line);
                let value =
                    value.map_err(|error| Said::Link(format!("{self}: a line is not JSON: {error}")))?;
                if !good {
                    return Err(Said::Failure(value));
                }
                each(value)?;
            }
            if buffer.len() > LINE_BYTES_MAX {
                return Err(Said::Link(format!("{self}: a line is longer than {LINE_BYTES_MAX} bytes")));
            }
        }
        Ok(())
    }

    async fn send(&self, method: &str, path: &str, body: Option<Value>) -> Result<Response<Incoming>, Said> {
        let wrong = |error: &dyn std::fmt::Display| Said::Link(format!("{self}: {error}"));
        let connect = async {
            Ok(match self {
                Link::Socket(path) => {
                    TokioIo::new(Box::new(UnixStream::connect(path).await?) as Box<dyn LinkStream>)
                }
                Link::Address { host, .. } => TokioIo::new(Box::new(TcpStream::connect(host).await?) as _),
            })
        };
        let stream = tokio::time::timeout(CONNECT_TIME, connect).await;
        let stream = stream.unwrap_or_else(|_| Err(Error::from(ErrorKind::TimedOut)));
        let stream = stream.map_err(|error| Said::Link(self.explain(&error)))?;
        let (mut sender, connection) = http1::handshake(stream).await.map_err(|error| wrong(&error))?;
        tokio::spawn(connection);
        let mut request =
            Request::builder().method(method).uri(format!("/api/v1{path}")).header(HOST, self.host());
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Link::Address { token: Some(token), .. } = self {
            let value = HeaderValue::from_bytes(&[b"Bearer ", token.reveal()].concat());
            let mut value = value.map_err(|_| wrong(&"the token has invalid characters"))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let sent = Sent(body.map(|body| Bytes::from(body.to_string())));
        let request = request.body(sent).map_err(|error| wrong(&error))?;
        sender.send_request(request).await.map_err(|error| wrong(&error))
    }

    fn host(&self) -> &str {
        match self {
            Link::Socket(_) => "localhost",
            Link::Address { host, .. } => host,
        }
    }

    fn explain(&self, error: &Error) -> String {
        let remedy = match (self, error.kind()) {
            (Link::Socket(_), ErrorKind::PermissionDenied) => {
                "only the user that runs the broker and root may: try sudo -u lapwing lapwing ctl …, or sudo"
            }
            (Link::Socket(_), _) => {
                "is a broker running? Name its configuration with -c FILE, its folder with -d FOLDER, or its socket with --socket PATH"
            }
            (Link::Address { .. }, _) => "is a broker running, with admin.address there?",
        };
        format!("no broker answers at {self} ({error}): {remedy}")
    }
}

impl std::fmt::Display for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Link::Socket(path) => write!(f, "the socket {}", path.display()),
            Link::Address { host, .. } => write!(f, "http://{host}"),
        }
    }
}

/// Bytes of either transport.
trait LinkStream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> LinkStream for T {}

async fn whole(mut body: Incoming) -> Result<Vec<u8>, Said> {
    let mut bytes = Vec::new();
    while let Some(data) = next(&mut body).await? {
        if bytes.len() + data.len() > ANSWER_BYTES_MAX {
            return Err(Said::Link(format!("the answer is larger than {ANSWER_BYTES_MAX} bytes")));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// Returns the next bytes of an answer.
async fn next(body: &mut Incoming) -> Result<Option<Bytes>, Said> {
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
        let frame = frame.map_err(|error| Said::Link(format!("the answer is incomplete: {error}")))?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

fn token_of(path: &Path) -> Result<Secret, String> {
    let text = std::fs::read(path).map_err(|error| format!("the token {}: {error}", path.display()))?;
    let text = zeroize::Zeroizing::new(text);
    Ok(Secret::new(text.trim_ascii_end()))
}

fn of_config(config: &Config) -> Result<Option<Secret>, String> {
    match &config.admin.token_file {
        Some(path) => token_of(Path::new(path)).map(Some),
        None => Ok(config.admin.token.clone()),
    }
}

/// Returns a path with its query.
pub fn with_query(path: &str, query: &Query<'_>) -> String {
    let said = query.iter().filter_map(|(name, value)| Some(format!("{name}={}", encoded(value.as_ref()?))));
    let said: Vec<String> = said.collect();
    if said.is_empty() { path.to_owned() } else { format!("{path}?{}", said.join("&")) }
}

/// Encodes a text as a part of a URL.
pub fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
