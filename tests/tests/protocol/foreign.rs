//! Clients of others, as their users run them, against the program.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use lapwing_tests::program::{Folder, Program, is_there, root, run};

const PATIENCE: Duration = Duration::from_secs(60);

fn plain() -> Program {
    Program::start("[[listener]]\naddress = 'localhost:0'\n")
}

/// mosquitto_sub in the background; it tells on stderr (`-d`) when it is subscribed.
struct Subscriber(std::process::Child);

impl Subscriber {
    fn start(port: &str, arguments: &[&str]) -> Subscriber {
        use std::io::{BufRead, BufReader};
        let mut child = Command::new("stdbuf")
            .args(["-oL", "mosquitto_sub", "-d", "-h", "localhost", "-p", port, "-W", "60"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("mosquitto_sub");
        let mut output = BufReader::new(child.stdout.take().expect("its output"));
        let mut line = String::new();
        while !line.contains("Subscribed") {
            line.clear();
            assert!(output.read_line(&mut line).unwrap() > 0, "mosquitto_sub ended before it was subscribed");
        }
        // The rest is read by `output`.
        let (send, receive) = channel();
        std::thread::spawn(move || {
            let lines = output.lines().map_while(Result::ok).filter(|line| !line.starts_with("Client "));
            let _ = send.send(lines.collect::<Vec<_>>());
        });
        RECEIVED.with_borrow_mut(|all| all.insert(child.id(), receive));
        Subscriber(child)
    }

    fn output(mut self) -> Vec<String> {
        let lines = RECEIVED.with_borrow_mut(|all| all.remove(&self.0.id())).unwrap().recv_timeout(PATIENCE);
        let _ = self.0.wait();
        lines.expect("mosquitto_sub gets its messages in time")
    }
}

thread_local! {
    static RECEIVED: std::cell::RefCell<std::collections::HashMap<u32, std::sync::mpsc::Receiver<Vec<String>>>> = Default::default();
}

fn mosquitto(tool: &str, port: &str, arguments: &[&str]) -> String {
    run(Command::new(tool).args(["-h", "localhost", "-p", port]).args(arguments))
}

#[test]
fn mosquitto_clients_exchange_messages_at_every_qos_in_every_version() {
    if !is_there("mosquitto-clients", Path::new("mosquitto_pub")) {
        return;
    }
    let broker = plain();
    let port = broker.port("mqtt");
    for version in ["mqttv31", "mqttv311", "mqttv5"] {
        for qos in ["0", "1", "2"] {
            let topic = format!("hello/{version}/{qos}");
            let sub = Subscriber::start(
                &port,
                &["-V", version, "-q", qos, "-t", &topic, "-C", "1", "-F", "%t %q %p"],
            );
            mosquitto("mosquitto_pub", &port, &["-V", version, "-q", qos, "-t", &topic, "-m", "hi"]);
            assert_eq!(sub.output(), [format!("{topic} {qos} hi")]);
        }
    }
}

#[test]
fn mosquitto_clients_see_retained_messages_wills_and_sessions() {
    if !is_there("mosquitto-clients", Path::new("mosquitto_pub")) {
        return;
    }
    let broker = plain();
    let port = broker.port("mqtt");
    for version in ["mqttv311", "mqttv5"] {
        let topic = |name: &str| format!("{version}/{name}");
        mosquitto("mosquitto_pub", &port, &["-V", version, "-q", "1", "-r", "-t", &topic("kept"), "-m", "r"]);
        let got = mosquitto(
            "mosquitto_sub",
            &port,
            &["-V", version, "-t", &topic("kept"), "-C", "1", "--retained-only", "-F", "%r %p"],
        );
        assert_eq!(got, "1 r\n");
        // A session: `-E` ends once subscribed.
        let session = ["-V", version, "-c", "-i", "keeper", "-q", "1", "-x", "100", "-t", &topic("s")];
        let session: &[&str] = if version == "mqttv5" {
            &session
        } else {
            &["-V", version, "-c", "-i", "keeper3", "-q", "1", "-t", &topic("s")]
        };
        mosquitto("mosquitto_sub", &port, &[session, &["-E"]].concat());
        mosquitto("mosquitto_pub", &port, &["-V", version, "-q", "1", "-t", &topic("s"), "-m", "while away"]);
        assert_eq!(mosquitto("mosquitto_sub", &port, &[session, &["-C", "1"]].concat()), "while away\n");
        // A will: the subscriber is killed.
        let watcher = Subscriber::start(&port, &["-V", version, "-t", &topic("will"), "-C", "1"]);
        let mut doomed = Subscriber::start(
            &port,
            &["-V", version, "-t", "x", "--will-topic", &topic("will"), "--will-payload", "gone"],
        );
        doomed.0.kill().unwrap();
        let _ = doomed.0.wait();
        assert_eq!(watcher.output(), ["gone"]);
    }
}

#[test]
fn mosquitto_rr_gets_its_response() {
    if !is_there("mosquitto-clients", Path::new("mosquitto_rr")) {
        return;
    }
    let broker = plain();
    let port = broker.port("mqtt");
    let service = Subscriber::start(&port, &["-V", "mqttv5", "-t", "ask", "-C", "1", "-F", "%R %D"]);
    let asking = Command::new("mosquitto_rr")
        .args([
            "-h",
            "localhost",
            "-p",
            &port,
            "-V",
            "mqttv5",
            "-t",
            "ask",
            "-e",
            "answer/7",
            "-m",
            "?",
            "-W",
            "60",
        ])
        .args(["-D", "publish", "correlation-data", "id-42"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(service.output(), ["answer/7 id-42"]);
    mosquitto(
        "mosquitto_pub",
        &port,
        &["-V", "mqttv5", "-t", "answer/7", "-m", "!", "-D", "publish", "correlation-data", "id-42"],
    );
    assert_eq!(asking.wait_with_output().unwrap().stdout, b"!\n");
}

#[test]
fn mosquitto_clients_over_tls_and_with_certificates() {
    if !is_there("mosquitto-clients", Path::new("mosquitto_pub")) {
        return;
    }
    let broker = Program::with("").all_transports().start();
    let folder = &broker.folder;
    let file = |name: &str| folder.0.join(name).display().to_string();
    let port = broker.port("mqtts");
    mosquitto("mosquitto_pub", &port, &["--cafile", &file("ca.pem"), "-t", "t", "-q", "1", "-m", "x"]);
    let toml = format!(
        "[[listener]]\naddress = 'localhost:0'\ntransport = 'tls'\ncertificate_file = '{}'\nkey_file = '{}'\n\
         client_ca_file = '{}'\nclient_certificate = 'required'\n",
        file("server.pem"),
        file("server.key"),
        file("ca.pem")
    );
    let strict = Program::start(&toml);
    let port = strict.port("mqtts");
    let known = [
        "--cafile",
        &file("ca.pem"),
        "--cert",
        &file("client.pem"),
        "--key",
        &file("client.key"),
        "-t",
        "t",
        "-q",
        "1",
        "-m",
        "x",
    ];
    mosquitto("mosquitto_pub", &port, &known);
    let unknown = Command::new("mosquitto_pub")
        .args(["-h", "localhost", "-p", &port])
        .args(&known[..2])
        .args(&known[6..])
        .output()
        .unwrap();
    assert!(!unknown.status.success(), "no certificate, no connection");
}

fn python(script: &str, arguments: &[&str]) {
    let python = root().join(".venv/bin/python");
    if is_there("the Python environment with paho-mqtt and aiomqtt", &python) {
        print!(
            "{}",
            run(Command::new(python).arg(root().join("tests/foreign").join(script)).args(arguments))
        );
    }
}

#[test]
fn paho_over_tcp_and_tls_in_every_version() {
    let broker = Program::with("").all_transports().start();
    let folder = &broker.folder;
    let ca = folder.0.join("ca.pem").display().to_string();
    python("paho_client.py", &[&broker.port("mqtt"), &broker.port("mqtts"), &ca]);
}

#[test]
fn aiomqtt_gets_5000_retained_configurations_exactly_once() {
    python("aiomqtt_client.py", &[&plain().port("mqtt")]);
}

#[test]
fn gmqtt_in_3_1_1_and_5() {
    python("gmqtt_client.py", &[&plain().port("mqtt")]);
}

/// Falls back to MQTT 3.1 where 3.1.1 is refused, is strict about reserved bits, and publishes what
/// stdin says.
#[test]
fn paho_c_over_tcp_tls_and_websocket_in_every_version() {
    if !is_there("the examples of Paho C", Path::new("paho_c_pub"))
        || !is_there("mosquitto-clients", Path::new("mosquitto_pub"))
    {
        return;
    }
    let broker = Program::with("").all_transports().start();
    let folder = &broker.folder;
    let ca = folder.0.join("ca.pem").display().to_string();
    let urls = [("tcp", "mqtt", ""), ("ssl", "mqtts", ""), ("ws", "ws", "/mqtt"), ("wss", "wss", "/mqtt")]
        .map(|(scheme, ours, path)| format!("{scheme}://localhost:{}{path}", broker.port(ours)));
    for version in ["31", "311", "5"] {
        for url in &urls {
            let topic = format!("paho-c/{version}/{}", &url[..3]);
            let sub =
                Subscriber::start(&broker.port("mqtt"), &["-t", &topic, "-q", "2", "-C", "3", "-F", "%q %p"]);
            for qos in ["0", "1", "2"] {
                let connection = ["-c", url, "--cafile", &ca, "-V", version];
                run(Command::new("paho_c_pub").args(connection).args(["-t", &topic, "-q", qos, "-m", "hi"]));
            }
            assert_eq!(sub.output(), ["0 hi", "1 hi", "2 hi"], "{url} in {version}");
        }
        // And the other way round, from its synchronous twin.
        let topic = format!("paho-c/{version}/kept");
        mosquitto("mosquitto_pub", &broker.port("mqtt"), &["-t", &topic, "-q", "1", "-r", "-m", "kept"]);
        let mut sub = Command::new("stdbuf")
            .args(["-oL", "paho_cs_sub", "-c", &urls[0], "-V", version, "-t", &topic, "-q", "2"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(sub.stdout.take().unwrap()), &mut line)
            .unwrap();
        let _ = sub.kill();
        let _ = sub.wait();
        assert_eq!(line.trim(), "kept", "in {version}");
    }
}

#[test]
fn node_red_runs_a_flow_with_birth_and_will() {
    let program = root().join("tests/foreign/node_modules/node-red/red.js");
    if !node_modules()
        || !is_there("Node-RED", &program)
        || !is_there("mosquitto-clients", Path::new("mosquitto_pub"))
    {
        return;
    }
    for version in ["4", "5"] {
        let broker = plain();
        let port = broker.port("mqtt");
        let folder = Folder::new("node-red");
        let flow = root().join("tests/foreign/node_red.mjs");
        run(Command::new("node").arg(flow).arg(&folder.0).args([&port, version]));
        let pub_retained = ["-q", "2", "-r", "-t", "sensor/kitchen/temperature", "-m", "{\"c\": 21.5}"];
        mosquitto("mosquitto_pub", &port, &pub_retained);
        let result = Subscriber::start(&port, &["-t", "fahrenheit/kitchen", "-C", "1", "-F", "%p"]);
        let states = Subscriber::start(&port, &["-t", "nodered/status", "-C", "2", "-F", "%p"]);
        let mut red = Command::new("node")
            .arg(&program)
            .arg("--userDir")
            .arg(&folder.0)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        assert_eq!(result.output(), ["70.7"]);
        // It dies, and its will says so.
        red.kill().unwrap();
        red.wait().unwrap();
        assert_eq!(states.output(), ["online", "offline"]);
    }
}

fn node_modules() -> bool {
    is_there("node", Path::new("node"))
        && is_there("MQTT.js", &root().join("tests/foreign/node_modules/mqtt/dist/mqtt.min.js"))
}

#[test]
fn mqtt_js_over_tcp_tls_ws_and_wss() {
    if !node_modules() {
        return;
    }
    let broker = Program::with("").all_transports().start();
    let folder = &broker.folder;
    let port = |scheme| broker.port(scheme);
    let urls = [
        format!("mqtt://localhost:{}", port("mqtt")),
        format!("mqtts://localhost:{}", port("mqtts")),
        format!("ws://localhost:{}/mqtt", port("ws")),
        format!("wss://localhost:{}/mqtt", port("wss")),
    ];
    let script = root().join("tests/foreign/mqttjs_client.mjs");
    print!("{}", run(Command::new("node").arg(script).arg(folder.0.join("ca.pem")).args(urls)));
}

#[test]
fn a_page_in_chromium_shows_a_retained_value() {
    if !node_modules()
        || !is_there("chromium", Path::new("chromium"))
        || !is_there("mosquitto-clients", Path::new("mosquitto_pub"))
    {
        return;
    }
    let broker = Program::with("").all_transports().start();
    let folder = &broker.folder;
    mosquitto(
        "mosquitto_pub",
        &broker.port("mqtt"),
        &["-q", "1", "-r", "-t", "home/temperature", "-m", "21.5"],
    );
    let script = root().join("tests/foreign/browser.mjs");
    let url = format!("ws://localhost:{}/mqtt", broker.port("ws"));
    let mut page = Command::new("node");
    page.arg(script).args(["chromium", &url, "home/temperature"]).arg(folder.0.join("profile"));
    assert_eq!(run(&mut page).trim(), "21.5 (retained)");
}

#[test]
fn rumqttc_of_3_1_1_gets_every_qos_in_order() {
    use rumqttc::{Client, Event, MqttOptions, Packet, QoS};
    let broker = plain();
    let port: u16 = broker.port("mqtt").parse().unwrap();
    let (client, mut events) = Client::new(MqttOptions::new("three", "localhost", port), 100);
    let sent = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
    client.subscribe("rumqttc/three", QoS::ExactlyOnce).unwrap();
    sent.iter().for_each(|qos| client.publish("rumqttc/three", *qos, false, "hello").unwrap());
    let mut received = Vec::new();
    while received.len() < sent.len() {
        let event = events.recv_timeout(PATIENCE).expect("a message in time").expect("a connection");
        if let Event::Incoming(Packet::Publish(publish)) = event {
            received.push(publish.qos);
        }
    }
    assert_eq!(received, sent);
}

#[test]
fn rumqttc_of_5_gets_every_qos_in_order() {
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::{Client, Event, Incoming, MqttOptions};
    let broker = plain();
    let port: u16 = broker.port("mqtt").parse().unwrap();
    let (client, mut events) = Client::new(MqttOptions::new("five", "localhost", port), 100);
    let sent = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
    client.subscribe("rumqttc/five", QoS::ExactlyOnce).unwrap();
    sent.iter().for_each(|qos| client.publish("rumqttc/five", *qos, false, "hello").unwrap());
    let mut received = Vec::new();
    while received.len() < sent.len() {
        let event = events.recv_timeout(PATIENCE).expect("a message in time").expect("a connection");
        if let Event::Incoming(Incoming::Publish(publish)) = event {
            received.push(publish.qos);
        }
    }
    assert_eq!(received, sent);
}
