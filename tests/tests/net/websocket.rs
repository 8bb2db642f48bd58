//! MQTT over WebSocket, with tungstenite as the client.

use std::net::TcpStream;

use lapwing_tests::program::Program;
use lapwing_tests::wire::{self, Fields};
use tungstenite::client::IntoClientRequest;
use tungstenite::http::{HeaderValue, StatusCode};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Error, HandshakeError, Message, WebSocket};

fn broker(more: &str) -> Program {
    Program::with("").listener(&format!("transport = 'ws'\n{more}")).start()
}

fn open(
    broker: &Program,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Result<(WebSocket<TcpStream>, Option<String>), StatusCode> {
    let address = broker.address("ws");
    let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, HeaderValue::from_str(value).unwrap());
    }
    match tungstenite::client(request, TcpStream::connect(&address).unwrap()) {
        Ok((socket, response)) => {
            let chosen = response.headers().get("Sec-WebSocket-Protocol");
            Ok((socket, chosen.map(|chosen| chosen.to_str().unwrap().to_owned())))
        }
        Err(HandshakeError::Failure(Error::Http(response))) => Err(response.status()),
        Err(error) => panic!("{error}"),
    }
}

fn fields(words: &[(&str, &str)]) -> Fields {
    words.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// The next packets, whatever frames they come in.
fn receive(socket: &mut WebSocket<TcpStream>, bytes: &mut Vec<u8>) -> (&'static str, Fields) {
    loop {
        if let Some(len) = wire::packet_len(bytes) {
            let packet: Vec<u8> = bytes.drain(..len).collect();
            return wire::decode(&packet, "3.1.1");
        }
        match socket.read().expect("a frame") {
            Message::Binary(frame) => bytes.extend(&frame),
            other => panic!("not a binary frame: {other:?}"),
        }
    }
}

// 3.1.1: [MQTT-6.0.0-3] [MQTT-6.0.0-4]  5.0: [MQTT-6.0.0-3] [MQTT-6.0.0-4]
#[test]
fn the_subprotocol_mqtt_is_chosen_and_nothing_else_is_served() {
    let broker = broker("");
    for (path, offered, chosen) in
        [("/mqtt", "mqtt", "mqtt"), ("/", "mqttv3.1", "mqttv3.1"), ("/mqtt", "chat, mqtt", "mqtt")]
    {
        let (_, protocol) = open(&broker, path, &[("Sec-WebSocket-Protocol", offered)]).unwrap();
        assert_eq!(protocol.as_deref(), Some(chosen));
    }
    assert_eq!(open(&broker, "/mqtt", &[]).unwrap_err(), StatusCode::BAD_REQUEST);
    assert_eq!(
        open(&broker, "/mqtt", &[("Sec-WebSocket-Protocol", "chat")]).unwrap_err(),
        StatusCode::BAD_REQUEST
    );
    assert_eq!(
        open(&broker, "/other", &[("Sec-WebSocket-Protocol", "mqtt")]).unwrap_err(),
        StatusCode::NOT_FOUND
    );
}

#[test]
fn pages_of_unlisted_origins_are_refused() {
    let broker = broker("websocket_origins = ['https://good.example']\n");
    let from =
        |origin| open(&broker, "/mqtt", &[("Sec-WebSocket-Protocol", "mqtt"), ("Origin", origin)]).map(drop);
    assert_eq!(from("https://good.example"), Ok(()));
    assert_eq!(from("https://bad.example"), Err(StatusCode::FORBIDDEN));
    assert!(open(&broker, "/mqtt", &[("Sec-WebSocket-Protocol", "mqtt")]).is_ok(), "no browser, no origin");
}

/// Any page in a browser of this machine can reach a listener on loopback.
#[test]
fn a_listener_that_only_loopback_protects_is_for_pages_of_this_machine() {
    let from = |broker: &Program, origin| {
        open(broker, "/mqtt", &[("Sec-WebSocket-Protocol", "mqtt"), ("Origin", origin)]).map(drop)
    };
    let open_to_all = broker("");
    for own in ["http://localhost:8080", "https://127.0.0.1", "http://[::1]:3000"] {
        assert_eq!(from(&open_to_all, own), Ok(()), "{own}");
    }
    for other in ["https://evil.example", "http://localhost.evil.example", "null"] {
        assert_eq!(from(&open_to_all, other), Err(StatusCode::FORBIDDEN), "{other}");
    }
    // With users, the page needs a password.
    assert_eq!(from(&broker("allow_anonymous = false\n"), "https://good.example"), Ok(()));
}

// 3.1.1: [MQTT-6.0.0-2]  5.0: [MQTT-6.0.0-2]
#[test]
fn packets_may_be_split_over_frames_or_share_one_frame() {
    let broker = broker("");
    let dialogue: Vec<u8> = [
        ("connect", fields(&[("id", "x")])),
        ("subscribe", fields(&[("filters", "t@1")])),
        ("publish", fields(&[("topic", "t"), ("payload", "rep:70000"), ("qos", "1"), ("id", "5")])),
    ]
    .iter()
    .flat_map(|(name, fields)| wire::encode(name, fields, "3.1.1"))
    .collect();
    for size in [1, 3, 1_000, dialogue.len()] {
        let (mut socket, _) = open(&broker, "/mqtt", &[("Sec-WebSocket-Protocol", "mqtt")]).unwrap();
        for chunk in dialogue.chunks(size) {
            socket.write(Message::binary(chunk.to_vec())).unwrap();
        }
        socket.flush().unwrap();
        let mut bytes = Vec::new();
        assert_eq!(receive(&mut socket, &mut bytes).0, "connack");
        assert_eq!(receive(&mut socket, &mut bytes).0, "suback");
        let mut names = Vec::new();
        for _ in 0..2 {
            let (name, fields) = receive(&mut socket, &mut bytes);
            assert!(name == "puback" || fields["payload"] == "rep:70000", "{name}");
            names.push(name);
        }
        names.sort_unstable();
        assert_eq!(names, ["puback", "publish"], "frames of {size}");
    }
}

// 3.1.1: [MQTT-6.0.0-1]  5.0: [MQTT-6.0.0-1]
#[test]
fn a_text_frame_closes_the_connection_with_1003() {
    let broker = broker("");
    let (mut socket, _) = open(&broker, "/mqtt", &[("Sec-WebSocket-Protocol", "mqtt")]).unwrap();
    socket.send(Message::text("hello")).unwrap();
    match socket.read() {
        Ok(Message::Close(Some(frame))) => assert_eq!(frame.code, CloseCode::Unsupported),
        other => panic!("{other:?}"),
    }
}

#[test]
fn pings_are_answered() {
    let broker = broker("");
    let (mut socket, _) = open(&broker, "/mqtt", &[("Sec-WebSocket-Protocol", "mqtt")]).unwrap();
    socket.send(Message::Ping(b"there?".to_vec().into())).unwrap();
    socket.send(Message::binary(wire::encode("connect", &fields(&[("id", "x")]), "3.1.1"))).unwrap();
    let mut seen = [socket.read().unwrap(), socket.read().unwrap()];
    seen.sort_by_key(Message::is_binary);
    assert_eq!(seen[0], Message::Pong(b"there?".to_vec().into()));
}

/// First line of the answer to a plain HTTP request.
fn http(broker: &Program, request: &[u8]) -> String {
    use std::io::{Read, Write};
    let mut stream = TcpStream::connect(broker.address("ws")).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn a_plain_http_request_is_told_to_upgrade() {
    let broker = broker("");
    let answer = http(&broker, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(answer, "HTTP/1.1 426 Upgrade Required");
}

#[test]
fn endless_headers_are_refused() {
    let broker = broker("");
    let request = [b"GET /mqtt HTTP/1.1\r\nX-Long: ".as_slice(), &[b'x'; 100_000]].concat();
    assert_eq!(http(&broker, &request), "HTTP/1.1 431 Request Header Fields Too Large");
}
