//! A service over HTTP that says who may come in, and keys that are published by a URL.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lapwing::Broker;
use lapwing::internals::config::Config;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Answer of the service to a body: a status and a text, or nothing for ever.
type Judge = Box<dyn Fn(&str) -> Option<(u16, String)> + Send>;

/// A service; its address, and the bodies that it was sent.
fn service(judge: Judge) -> (String, Arc<Mutex<Vec<String>>>) {
    serve("http", |stream| stream, judge)
}

/// The same over HTTPS, with a certificate for 127.0.0.1 that it signs itself; also that
/// certificate, PEM.
fn service_over_tls(judge: Judge) -> (String, Arc<Mutex<Vec<String>>>, String) {
    let own = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let chain = vec![CertificateDer::from(own.cert.der().to_vec())];
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap());
    let open = move |stream| StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
    let (url, asked) = serve("https", open, judge);
    (url, asked, own.cert.pem())
}

fn serve<S: Read + Write + Send + 'static>(
    scheme: &str,
    open: impl Fn(TcpStream) -> S + Send + 'static,
    judge: Judge,
) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, asked) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let bodies = asked.clone();
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(open(stream));
            // A client that does not trust the certificate is gone by now.
            let Ok(body) = request(&mut lines) else { continue };
            bodies.lock().unwrap().push(body.clone());
            match judge(&body) {
                Some((status, answer)) => {
                    let head = format!(
                        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                        answer.len()
                    );
                    lines.get_mut().write_all(format!("{head}{answer}").as_bytes()).unwrap();
                    lines.get_mut().flush().unwrap();
                }
                None => silent.push(lines),
            }
        }
    });
    (format!("{scheme}://{address}/"), asked)
}

/// The body of one request.
fn request(lines: &mut impl BufRead) -> std::io::Result<String> {
    let mut len = 0;
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(n) = line.to_lowercase().strip_prefix("content-length:") {
            len = n.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; len];
    lines.read_exact(&mut body)?;
    Ok(String::from_utf8(body).unwrap())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn start(runtime: &tokio::runtime::Runtime, auth: &str) -> (Broker, String) {
    let toml = format!("[auth]\n{auth}\n[store]\nin_memory = true\n[[listener]]\naddress = '127.0.0.1:0'\n");
    let config = Config::from_toml(&toml, "test").unwrap();
    let broker = runtime.block_on(Broker::builder().config(config).start()).unwrap();
    let address = broker.listeners()[0].strip_prefix("mqtt://").unwrap().to_owned();
    (broker, address)
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u16).to_be_bytes());
    out.extend(text.as_bytes());
}

/// CONNECT of 5.0; the stream and the reason code of CONNACK.
fn connect(address: &str, user: &str, password: &str) -> (TcpStream, u8) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut body = b"\0\x04MQTT\x05\xc2\0\0\0".to_vec();
    for part in [user, user, password] {
        text(&mut body, part);
    }
    let len = match body.len() {
        n if n < 128 => vec![n as u8],
        n => vec![(n % 128) as u8 | 0x80, (n / 128) as u8],
    };
    stream.write_all(&[&[0x10], &len[..], &body].concat()).unwrap();
    let connack = packet(&mut stream);
    assert_eq!(connack.0, 0x20);
    (stream, connack.1[1])
}

fn packet(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    stream.read_exact(&mut head).unwrap();
    let mut len = usize::from(head[1] & 0x7f);
    if head[1] & 0x80 != 0 {
        let mut more = [0];
        stream.read_exact(&mut more).unwrap();
        len += usize::from(more[0]) << 7;
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).unwrap();
    (head[0], body)
}

/// PUBLISH with QoS 1; the reason code of PUBACK.
fn publish(stream: &mut TcpStream, topic: &str) -> u8 {
    let mut body = Vec::new();
    text(&mut body, topic);
    body.extend([0, 1, 0, b'x']);
    stream.write_all(&[&[0x32, body.len() as u8][..], &body].concat()).unwrap();
    let puback = packet(stream);
    assert_eq!(puback.0, 0x40);
    puback.1.get(2).copied().unwrap_or(0)
}

#[test]
fn a_service_lets_in_refuses_grants_and_is_not_asked_twice_about_what_it_allowed() {
    let (url, asked) = service(Box::new(|body| {
        Some(if body.contains("\"good\"") {
            (200, "{\"allow\":true,\"acl\":{\"publish\":[\"of/%u\"]}}".to_owned())
        } else if body.contains("\"forbidden\"") {
            (403, String::new())
        } else {
            (200, "{\"allow\":false}".to_owned())
        })
    }));
    let runtime = runtime();
    let (broker, address) = start(&runtime, &format!("http_url = '{url}'"));
    let (mut ann, code) = connect(&address, "ann", "good");
    assert_eq!(code, 0);
    assert_eq!((publish(&mut ann, "of/ann"), publish(&mut ann, "of/bob")), (0x10, 0x87));
    let body = asked.lock().unwrap()[0].clone();
    for word in [
        "\"user\":\"ann\"",
        "\"password\":\"good\"",
        "\"client_id\":\"ann\"",
        "\"address\":\"127.0.0.1:",
        "\"listener\":\"mqtt://",
    ] {
        assert!(body.contains(word), "{word}: {body}");
    }
    assert_eq!(connect(&address, "ann", "good").1, 0);
    assert_eq!(asked.lock().unwrap().len(), 1, "it is remembered");
    assert_eq!(connect(&address, "bob", "good").1, 0);
    assert_eq!(asked.lock().unwrap().len(), 2, "for the same user only");
    let began = Instant::now();
    assert_eq!((connect(&address, "ann", "bad").1, connect(&address, "ann", "forbidden").1), (0x86, 0x86));
    assert!(began.elapsed() >= Duration::from_secs(2), "a refusal waits");
    assert_eq!(connect(&address, "ann", "bad").1, 0x86);
    assert_eq!(asked.lock().unwrap().len(), 5, "a refusal is not remembered");
    runtime.block_on(broker.stop());
}

#[test]
fn a_service_that_fails_is_late_or_is_not_understood_lets_nobody_in() {
    let (url, _) = service(Box::new(|body| {
        ["500", "302"]
            .iter()
            .find(|status| body.contains(**status))
            .map(|status| (status.parse().unwrap(), "{\"allow\":true}".to_owned()))
            .or_else(|| {
                let word = |word: &str| body.contains(word);
                match () {
                    () if word("silence") => None,
                    () if word("nonsense") => Some((200, "allow".to_owned())),
                    () if word("yes") => Some((200, "{\"allow\":\"yes\"}".to_owned())),
                    () => Some((200, "{\"allow\":true,\"user\":\"a\\nb\"}".to_owned())),
                }
            })
    }));
    let runtime = runtime();
    let (broker, address) = start(&runtime, &format!("http_url = '{url}'\nhttp_timeout_ms = 500"));
    for what in ["500", "302", "silence", "nonsense", "yes", "badname"] {
        assert_eq!(connect(&address, "ann", what).1, 0x88, "{what}");
    }
    runtime.block_on(broker.stop());
    let (broker, address) = start(&runtime, "http_url = 'http://127.0.0.1:1/'");
    assert_eq!(connect(&address, "ann", "x").1, 0x88, "nobody is there");
    runtime.block_on(broker.stop());
}

const SECRET: &str = "a secret of thirty-two bytes and more";

/// A token of ann's, signed with [`SECRET`].
fn token() -> String {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
    let signed = format!(
        "{}.{}",
        BASE64.encode("{\"alg\":\"HS256\"}"),
        BASE64.encode("{\"sub\":\"ann\",\"exp\":4000000000}")
    );
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes());
    format!("{signed}.{}", BASE64.encode(ring::hmac::sign(&key, signed.as_bytes())))
}

#[test]
fn keys_are_fetched_by_a_url_and_the_last_ones_count_where_it_fails() {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
    let up = Arc::new(Mutex::new(true));
    let is_up = up.clone();
    let set = format!("{{\"keys\":[{{\"kty\":\"oct\",\"k\":\"{}\"}}]}}", BASE64.encode(SECRET));
    let (url, _) = service(Box::new(move |_| {
        Some(if *is_up.lock().unwrap() { (200, set.clone()) } else { (500, String::new()) })
    }));
    let token = token();
    let runtime = runtime();
    let (broker, address) = start(&runtime, &format!("jwks_url = '{url}'"));
    assert_eq!(connect(&address, "ann", &token).1, 0);
    *up.lock().unwrap() = false;
    assert_eq!(runtime.block_on(broker.reload()).map(drop), Ok(()));
    assert_eq!(connect(&address, "ann", &token).1, 0);
    runtime.block_on(broker.stop());
    let config = Config::from_toml(&format!("[auth]\njwks_url = '{url}'\n"), "test").unwrap();
    assert!(
        lapwing::check_files(&config).unwrap_err().contains("auth.jwks_url"),
        "without any it does not start"
    );
}

#[test]
fn a_service_over_https_is_believed_only_with_a_certificate_of_the_authority() {
    let (url, asked, pem) = service_over_tls(Box::new(|body| {
        Some((200, format!("{{\"allow\":{}}}", body.contains("\"good\""))))
    }));
    let ca = std::env::temp_dir().join(format!("lapwing-http-ca-{}.pem", std::process::id()));
    std::fs::write(&ca, pem).unwrap();
    let runtime = runtime();
    let keys = format!("http_url = '{url}'\nhttp_ca_file = '{}'", ca.display());
    let (broker, address) = start(&runtime, &keys);
    assert_eq!((connect(&address, "ann", "good").1, connect(&address, "ann", "bad").1), (0, 0x86));
    assert_eq!(asked.lock().unwrap().len(), 2);
    runtime.block_on(broker.stop());
    std::fs::remove_file(&ca).unwrap();
    let (broker, address) = start(&runtime, &format!("http_url = '{url}'"));
    assert_eq!(connect(&address, "ann", "good").1, 0x88, "no authority of the Web has signed it");
    assert_eq!(asked.lock().unwrap().len(), 2, "no password was sent");
    runtime.block_on(broker.stop());
    let none = format!("[auth]\nhttp_url = '{url}'\nhttp_ca_file = '/nowhere.pem'\n");
    let config = Config::from_toml(&none, "test").unwrap();
    assert!(lapwing::check_files(&config).unwrap_err().contains("http_ca_file"));
}

#[test]
fn keys_are_fetched_over_https() {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
    let set = format!("{{\"keys\":[{{\"kty\":\"oct\",\"k\":\"{}\"}}]}}", BASE64.encode(SECRET));
    let (url, _, pem) = service_over_tls(Box::new(move |_| Some((200, set.clone()))));
    let ca = std::env::temp_dir().join(format!("lapwing-jwks-ca-{}.pem", std::process::id()));
    std::fs::write(&ca, pem).unwrap();
    let runtime = runtime();
    let (broker, address) =
        start(&runtime, &format!("jwks_url = '{url}'\nhttp_ca_file = '{}'", ca.display()));
    assert_eq!(connect(&address, "ann", &token()).1, 0);
    runtime.block_on(broker.stop());
    std::fs::remove_file(&ca).unwrap();
    let config = Config::from_toml(&format!("[auth]\njwks_url = '{url}'\n"), "test").unwrap();
    assert!(lapwing::check_files(&config).unwrap_err().contains("auth.jwks_url"), "it is not trusted");
}
