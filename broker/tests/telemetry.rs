//! Spans of messages, as a collector of OpenTelemetry gets them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use lapwing::Broker;
use lapwing::internals::config::Config;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A collector that answers the first requests with these statuses and all others with 200; its
/// URL, and the heads and bodies of those that it took.
fn collector(statuses: Vec<u16>) -> (String, Receiver<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (send, taken) = channel();
    let mut statuses = statuses.into_iter();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(stream);
            let Some((head, body)) = request(&mut lines) else { continue };
            let status = statuses.next().unwrap_or(200);
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}");
            // First here: who has the answer may look at once.
            let heard = status != 200 || send.send((head, serde_json::from_str(&body).unwrap())).is_ok();
            lines.get_mut().write_all(answer.as_bytes()).unwrap();
            if !heard {
                return;
            }
        }
    });
    (url, taken)
}

fn request(lines: &mut impl BufRead) -> Option<(String, String)> {
    let (mut head, mut len) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.to_lowercase();
        if let Some(n) = line.strip_prefix("content-length:") {
            len = n.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
        head.push_str(&line);
    }
    let mut body = vec![0; len];
    lines.read_exact(&mut body).ok()?;
    Some((head, String::from_utf8(body).unwrap()))
}

/// The next spans, by their name and client.
fn spans(taken: &Receiver<(String, Value)>, count: usize) -> Vec<Value> {
    let mut all = Vec::new();
    while all.len() < count {
        let (_, body) = taken.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("only {all:#?}"));
        all.extend(body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().clone());
    }
    assert_eq!(all.len(), count, "{all:#?}");
    all.sort_by_key(|span| format!("{}{}", attribute(span, "messaging.operation.type"), client_of(span)));
    all
}

fn attribute(span: &Value, key: &str) -> String {
    let all = span["attributes"].as_array().unwrap();
    let value = all.iter().find(|attribute| attribute["key"] == key).map(|found| &found["value"]);
    let text =
        |value: &Value| value["stringValue"].as_str().or(value["intValue"].as_str()).map(str::to_owned);
    value.and_then(text).unwrap_or_default()
}

fn client_of(span: &Value) -> String {
    attribute(span, "messaging.client.id")
}

struct Running {
    runtime: tokio::runtime::Runtime,
    broker: Broker,
    address: String,
}

fn start(telemetry: &str, more: &str) -> Running {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let toml = format!(
        "[telemetry]\n{telemetry}\n[mqtt]\nsys_interval_s = 0\n[store]\nin_memory = true\n[admin]\naddress = '127.0.0.1:0'\n\
         [[listener]]\naddress = '127.0.0.1:0'\n{more}"
    );
    let config = Config::from_toml(&toml, "test").unwrap();
    let broker = runtime.block_on(Broker::builder().config(config).start()).unwrap();
    let address = broker.listeners()[0].strip_prefix("mqtt://").unwrap().to_owned();
    Running { runtime, broker, address }
}

impl Running {
    fn stop(self) {
        self.runtime.block_on(self.broker.stop());
    }

    fn figure(&self, name: &str) -> u64 {
        let mut stream = TcpStream::connect(self.broker.admin().unwrap()).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in {page}")).parse().unwrap()
    }
}

/// A client of MQTT 5.
struct Client(TcpStream);

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}

/// A block of properties with its length.
fn block(properties: &[u8]) -> Vec<u8> {
    [&varint(properties.len()), properties].concat()
}

fn varint(n: usize) -> Vec<u8> {
    if n < 128 { vec![n as u8] } else { vec![(n % 128) as u8 | 0x80, (n / 128) as u8] }
}

impl Client {
    /// Its session stays for an hour.
    fn connect(broker: &Running, id: &str) -> Client {
        let stream = TcpStream::connect(&broker.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = Client(stream);
        let expiry = [&[0x11][..], &3_600u32.to_be_bytes()].concat();
        client.send(0x10, &[b"\0\x04MQTT\x05\x02\0\0", &block(&expiry)[..], &text(id)].concat());
        assert_eq!(client.receive().0, 0x20);
        client
    }

    fn send(&mut self, first: u8, body: &[u8]) {
        self.0.write_all(&[&[first], &varint(body.len())[..], body].concat()).unwrap();
    }

    fn receive(&mut self) -> (u8, Vec<u8>) {
        let mut byte = [0];
        self.0.read_exact(&mut byte).unwrap();
        let (first, mut len, mut shift) = (byte[0], 0, 0);
        loop {
            self.0.read_exact(&mut byte).unwrap();
            len |= usize::from(byte[0] & 0x7f) << shift;
            shift += 7;
            if byte[0] < 0x80 {
                break;
            }
        }
        let mut body = vec![0; len];
        self.0.read_exact(&mut body).unwrap();
        (first, body)
    }

    fn subscribe(&mut self, filter: &str) {
        self.send(0x82, &[&[0, 1, 0][..], &text(filter), &[1]].concat());
        assert_eq!(self.receive().1[3], 1);
    }

    /// QoS 1; the reason code of PUBACK.
    fn publish(&mut self, topic: &str, user_properties: &[u8]) -> u8 {
        self.send(0x32, &[&text(topic)[..], &[0, 1], &block(user_properties), b"payload"].concat());
        let (first, body) = self.receive();
        assert_eq!(first, 0x40);
        body.get(2).copied().unwrap_or(0)
    }

    /// A message of QoS 1, which is acknowledged with this reason code; its properties.
    fn take(&mut self, topic: &str, reason: u8) -> Vec<u8> {
        let (first, body) = self.receive();
        assert_eq!((first, &body[2..2 + topic.len()]), (0x32, topic.as_bytes()));
        let rest = &body[2 + topic.len()..];
        self.send(0x40, &[rest[0], rest[1], reason, 0]);
        rest[3..3 + usize::from(rest[2])].to_vec()
    }

    /// It goes, and its session stays.
    fn leave(mut self) {
        self.send(0xe0, &[]);
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).unwrap();
    }
}

fn user(name: &str, value: &str) -> Vec<u8> {
    [&[0x26][..], &text(name), &text(value)].concat()
}

fn traceparent(trace: &str, flags: &str) -> Vec<u8> {
    user("traceparent", &format!("00-{trace}-{PARENT}-{flags}"))
}

#[test]
fn a_sampled_message_has_a_span_of_the_broker_and_one_of_each_subscriber() {
    let (url, taken) = collector(Vec::new());
    let telemetry = format!(
        "otlp_endpoint = '{url}'\notlp_headers = 'x-key=hush'\nservice_name = 'hub'\ninterval_ms = 10"
    );
    let broker = start(&telemetry, "[limits]\nqueued_messages_max = 1\n");
    let mut reader = Client::connect(&broker, "reader");
    reader.subscribe("home/+");
    let mut away = Client::connect(&broker, "away");
    away.subscribe("home/temp");
    away.leave();
    let mut sensor = Client::connect(&broker, "sensor");
    // Its place in the queue of who is away is the last one. Nobody traces it.
    assert_eq!(sensor.publish("home/temp", &[]), 0);
    reader.take("home/temp", 0);

    let properties = [user("b", "1"), traceparent(TRACE, "01"), user("tracestate", "x=y"), user("a", "2")];
    let properties = properties.concat();
    assert_eq!(sensor.publish("home/temp", &properties), 0);
    assert_eq!(reader.take("home/temp", 0), properties, "user properties go on as they are, in their order");
    let all = spans(&taken, 3);
    let [route, to_away, to_reader] = &all[..] else { panic!("{all:#?}") };
    for span in &all {
        assert_eq!(span["traceId"], TRACE);
        assert_eq!(attribute(span, "messaging.system"), "mqtt");
        assert_eq!(attribute(span, "messaging.destination.name"), "home/temp");
        assert_eq!(attribute(span, "messaging.message.body.size"), "7");
        assert_eq!(attribute(span, "mqtt.qos"), "1");
        let moment = |name: &str| span[name].as_str().unwrap().parse::<u64>().unwrap();
        assert!(moment("startTimeUnixNano") <= moment("endTimeUnixNano"));
        assert!(!span.to_string().contains("payload"), "payloads are nobody's business");
    }
    assert_eq!((&route["name"], &route["kind"]), (&"route".into(), &5.into()));
    assert_eq!((&route["parentSpanId"], &route["status"]["code"]), (&PARENT.into(), &Value::Null));
    assert_eq!(client_of(route), "sensor");
    for deliver in [to_away, to_reader] {
        assert_eq!((&deliver["name"], &deliver["kind"]), (&"deliver".into(), &4.into()));
        assert_eq!(deliver["parentSpanId"], route["spanId"]);
    }
    assert_ne!(to_away["spanId"], to_reader["spanId"]);
    assert_eq!((client_of(to_reader).as_str(), &to_reader["status"]["code"]), ("reader", &Value::Null));
    assert_eq!((client_of(to_away).as_str(), &to_away["status"]["code"]), ("away", &2.into()));
    assert_eq!(attribute(to_away, "error.type"), "session_queue_full");

    // What nobody samples, or is no traceparent, is not traced: the next spans are those of the one
    // behind it.
    for properties in [traceparent(TRACE, "00"), traceparent("0", "01"), Vec::new()] {
        sensor.publish("home/temp", &properties);
        reader.take("home/temp", 0);
    }
    let other = TRACE.replace('0', "1");
    sensor.publish("home/door", &traceparent(&other, "01"));
    reader.take("home/door", 0x83);
    let all = spans(&taken, 2);
    assert!(all.iter().all(|span| span["traceId"] == other.as_str()), "{all:#?}");
    assert_eq!((attribute(&all[1], "error.type").as_str(), &all[1]["status"]["code"]), ("0x83", &2.into()));
    assert_eq!(broker.figure("lapwing_telemetry_spans_dropped_total"), 0);
    broker.stop();
}

#[test]
fn a_refused_message_has_a_span_with_the_reason_and_the_configured_resource() {
    let (url, taken) = collector(Vec::new());
    let telemetry = format!(
        "otlp_endpoint = '{url}/v1/traces'\notlp_headers = 'x-key=hush'\nservice_name = 'hub'\ninterval_ms = 10"
    );
    let broker = start(&telemetry, "[limits]\ntopic_levels_max = 2\n");
    let mut sensor = Client::connect(&broker, "sensor");
    assert_eq!(sensor.publish("a/b/c", &traceparent(TRACE, "01")), 0x90);
    let (head, body) = taken.recv_timeout(PATIENCE).unwrap();
    assert!(head.starts_with("post /v1/traces ") && head.contains("x-key: hush"), "{head}");
    let of_resource = &body["resourceSpans"][0]["resource"];
    assert_eq!(attribute(of_resource, "service.name"), "hub");
    let span = &body["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
    assert_eq!((attribute(span, "error.type").as_str(), &span["status"]["code"]), ("topic_limit", &2.into()));
    broker.stop();
}

#[test]
fn without_a_traceparent_as_many_messages_begin_a_trace_as_were_asked_for() {
    let (url, taken) = collector(Vec::new());
    let telemetry = format!("otlp_endpoint = '{url}'\nuntraced_per_million = 1000000\ninterval_ms = 10");
    let broker = start(&telemetry, "");
    let mut reader = Client::connect(&broker, "reader");
    reader.subscribe("t");
    Client::connect(&broker, "sensor").publish("t", &[]);
    assert_eq!(reader.take("t", 0), b"", "messages are not altered");
    let all = spans(&taken, 2);
    assert_eq!((&all[0]["parentSpanId"], &all[1]["parentSpanId"]), (&Value::Null, &all[0]["spanId"]));
    assert_eq!(all[0]["traceId"], all[1]["traceId"]);
    assert_eq!(all[0]["traceId"].as_str().unwrap().len(), 32);
    broker.stop();
}

#[test]
fn a_collector_that_is_down_holds_nobody_up_and_what_does_not_fit_is_counted() {
    // Nobody listens there, and nobody else can.
    let held = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    held.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    let gone = held.local_addr().unwrap().as_socket().unwrap();
    let broker = start(&format!("otlp_endpoint = 'http://{gone}'\ninterval_ms = 10\nspans_max = 2"), "");
    let mut sensor = Client::connect(&broker, "sensor");
    for _ in 0..10 {
        assert_eq!(sensor.publish("t", &traceparent(TRACE, "01")), 0x10);
    }
    // Two may wait, and two more may be on their way.
    assert!(broker.figure("lapwing_telemetry_spans_dropped_total") >= 6);
    assert_eq!(broker.figure("lapwing_telemetry_spans_sent_total"), 0);
    broker.stop();
}

#[test]
fn what_a_busy_collector_did_not_take_is_sent_again() {
    let (url, taken) = collector(vec![503]);
    let broker = start(&format!("otlp_endpoint = '{url}'\ninterval_ms = 10"), "");
    Client::connect(&broker, "sensor").publish("t", &traceparent(TRACE, "01"));
    assert_eq!(spans(&taken, 1)[0]["traceId"], TRACE);
    broker.stop();
}

#[test]
fn what_waits_is_sent_before_the_broker_has_stopped() {
    let (url, taken) = collector(Vec::new());
    let broker = start(&format!("otlp_endpoint = '{url}'\ninterval_ms = 60000"), "");
    Client::connect(&broker, "sensor").publish("t", &traceparent(TRACE, "01"));
    broker.stop();
    let (_, body) = taken.try_recv().expect("it was sent by now");
    assert_eq!(body["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["traceId"], TRACE);
}
