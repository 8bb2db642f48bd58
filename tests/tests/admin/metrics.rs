//! Operators' view of a broker: `/metrics`, `/healthz`, `/readyz`, `/version`, alerts and
//! dashboard.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lapwing::internals::store::{DurableStore, Options};
use lapwing_tests::client::{Client, fields};
use lapwing_tests::disk::{Fault, MemoryDisk};
use lapwing_tests::http::{ask, get, samples};
use lapwing_tests::inside::Inside;
use lapwing_tests::program::{Folder, Program, binary, is_there, root, run};
use lapwing_tests::prometheus::Prometheus;
use lapwing_tests::wire;

const PATIENCE: Duration = Duration::from_secs(20);
const OPERATED: &str = "[admin]\naddress = '127.0.0.1:0'\n[[listener]]\naddress = '127.0.0.1:0'\n";

fn figures(address: &str) -> BTreeMap<String, f64> {
    samples(&get(address, "/metrics").body)
}

/// Asks until the status is this one, and gives what was said then.
fn until(address: &str, path: &str, status: u16) -> String {
    let end = Instant::now() + PATIENCE;
    loop {
        let answer = get(address, path);
        if answer.status == status {
            return answer.body;
        }
        assert!(Instant::now() < end, "{path} stays {}: {}", answer.status, answer.body);
    }
}

/// A client that counts what it sends.
struct Counting {
    client: Client,
    packets: u64,
    bytes: u64,
}

impl Counting {
    fn connect(broker: &Program, id: &str) -> Counting {
        let all = [("id", id), ("clean", "1")];
        let (client, _) = Client::connect(&broker.address("mqtt"), "5.0", &all).unwrap();
        let bytes = wire::encode("connect", &fields(&all), "5.0").len() as u64;
        Counting { client, packets: 1, bytes }
    }

    fn send(&mut self, name: &str, all: &[(&str, &str)]) {
        self.packets += 1;
        self.bytes += wire::encode(name, &fields(all), "5.0").len() as u64;
        self.client.send(name, all).unwrap();
    }
}

#[test]
fn metrics_count_the_traffic_exactly() {
    const MESSAGES: u64 = 200;
    const SUBSCRIBERS: u64 = 3;
    // What the broker says of itself would be among the retained messages.
    let broker = Program::start(&format!("[mqtt]\nsys_interval_s = 0\n{OPERATED}"));
    let admin = broker.address("http");
    // It looks on while messages flow.
    let prometheus = Prometheus::start(&admin);
    let mut subscribers: Vec<Counting> =
        (0..SUBSCRIBERS).map(|n| Counting::connect(&broker, &format!("subscriber-{n}"))).collect();
    for subscriber in &mut subscribers {
        subscriber.send("subscribe", &[("id", "1"), ("filters", "counted@1")]);
        subscriber.client.expect("suback");
    }
    let mut publisher = Counting::connect(&broker, "publisher");
    for n in 0..MESSAGES {
        let id = (n + 1).to_string();
        let payload = format!("{n:010}");
        publisher.send("publish", &[("topic", "counted"), ("qos", "1"), ("id", &id), ("payload", &payload)]);
        publisher.client.expect("puback");
    }
    for subscriber in &mut subscribers {
        for n in 0..MESSAGES {
            let message = subscriber.client.expect("publish");
            assert_eq!(message["payload"], format!("{n:010}"));
            subscriber.send("puback", &[("id", &message["id"])]);
        }
        // Behind the acknowledgements: when the answer is here, they were counted.
        subscriber.send("pingreq", &[]);
        subscriber.client.expect("pingresp");
    }
    publisher.send(
        "publish",
        &[("topic", "kept"), ("qos", "1"), ("id", "1"), ("retain", "1"), ("payload", "four")],
    );
    publisher.client.expect("puback");

    let found = figures(&admin);
    let clients = || subscribers.iter().chain([&publisher]);
    let expected = [
        ("lapwing_messages_received_total", MESSAGES + 1),
        ("lapwing_messages_sent_total", MESSAGES * SUBSCRIBERS),
        ("lapwing_messages_dropped_total{reason=\"session_queue_full\"}", 0),
        ("lapwing_messages_skipped_total{reason=\"no_subscriber\"}", 0),
        ("lapwing_payload_received_bytes_total", MESSAGES * 10 + 4),
        ("lapwing_payload_sent_bytes_total", MESSAGES * SUBSCRIBERS * 10),
        ("lapwing_packets_received_total", clients().map(|client| client.packets).sum()),
        // Each CONNECT, SUBSCRIBE, PINGREQ and PUBLISH has its answer, beside the messages.
        (
            "lapwing_packets_sent_total",
            (1 + SUBSCRIBERS) + 2 * SUBSCRIBERS + (MESSAGES + 1) + MESSAGES * SUBSCRIBERS,
        ),
        ("lapwing_received_bytes_total", clients().map(|client| client.bytes).sum()),
        ("lapwing_clients_connected", SUBSCRIBERS + 1),
        ("lapwing_clients_connected_max", SUBSCRIBERS + 1),
        ("lapwing_connections_open", SUBSCRIBERS + 1),
        ("lapwing_connections_accepted_total", SUBSCRIBERS + 1),
        ("lapwing_connections_refused_total", 0),
        ("lapwing_authentication_failures_total", 0),
        ("lapwing_denied_total", 0),
        ("lapwing_sessions_offline", 0),
        ("lapwing_sessions_expired_total", 0),
        ("lapwing_subscriptions", SUBSCRIBERS),
        ("lapwing_shared_subscriptions", 0),
        ("lapwing_retained_messages", 1),
        ("lapwing_store_health{state=\"good\"}", 1),
        ("lapwing_store_health{state=\"full\"}", 0),
        ("lapwing_store_health{state=\"failed\"}", 0),
        ("lapwing_store_corrupt_total", 0),
    ];
    for (name, count) in expected {
        assert_eq!(found.get(name), Some(&(count as f64)), "{name}");
        if let Some(prometheus) = &prometheus {
            prometheus.expect(name, count as f64);
        }
    }
    // The retained message was acknowledged, so it is on disk.
    let synced = found["lapwing_store_sync_seconds_count"];
    assert!(synced >= 1.0 && synced <= found["lapwing_store_syncs_total"]);
    assert_eq!(synced, found["lapwing_store_sync_seconds_bucket{le=\"+Inf\"}"]);
    assert!(found["lapwing_store_sync_seconds_sum"] > 0.0);
    assert!(found["lapwing_store_syncs_total"] >= 1.0 && found["lapwing_store_log_bytes_total"] >= 4_096.0);
    let mib = 1_048_576.0;
    let resident = found["process_resident_memory_bytes"];
    assert!((mib..1_000.0 * mib).contains(&resident), "{resident}");
    let began = found["process_start_time_seconds"];
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!((now - 120.0..=now + 2.0).contains(&began), "{began} is not a moment ago");
    assert!(found["process_cpu_seconds_total"] <= 120.0 && found["lapwing_uptime_seconds"] > 0.0);
    let files = std::fs::read_dir(format!("/proc/{}/fd", broker.id())).unwrap().count() as f64;
    assert!((found["process_open_fds"] - files).abs() <= 3.0, "{} for {files}", found["process_open_fds"]);
}

#[test]
fn refused_clients_and_denied_packets_are_counted() {
    let rules = "[[rule]]\nusers = ['ann']\npublish = ['own/#']\n";
    let broker = Program::with("[admin]\naddress = '127.0.0.1:0'").users(rules).start();
    let admin = broker.address("http");
    for _ in 0..2 {
        let wrong = [("id", "x"), ("user", "ann"), ("password", "guessed")];
        let (_, answer) = Client::knock(&broker.address("mqtt"), "5.0", &wrong).unwrap();
        assert_eq!(answer["reason"], "134");
    }
    let mut ann = broker.client("ann");
    assert_eq!(ann.publish("own/x", "x", &[])["reason"], "16");
    assert_eq!(ann.publish("others/x", "x", &[])["reason"], "135");
    let found = figures(&admin);
    assert_eq!(found["lapwing_authentication_failures_total"], 2.0);
    assert_eq!(found["lapwing_denied_total"], 1.0);
}

#[test]
fn metrics_are_served_as_openmetrics_and_on_request_as_prometheus_text() {
    let broker = Program::start(OPERATED);
    let admin = broker.address("http");
    let page = get(&admin, "/metrics");
    assert_eq!(page.status, 200);
    let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(page.head.contains(kind), "{}", page.head);
    assert!(page.body.ends_with("\n# EOF\n"));
    // Each family is told once, with its type, its help, and its unit where the name has one; its
    // samples follow.
    let mut families: Vec<(&str, &str)> = Vec::new();
    let mut helped = Vec::new();
    for line in page.body.trim_end_matches("# EOF\n").lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", name, text] => {
                assert!(!helped.contains(&name) && text.len() > 5, "{line}");
                helped.push(name);
            }
            ["#", "TYPE", name, kind] => families.push((name, kind)),
            ["#", "UNIT", name, unit] => {
                assert!(families.last().unwrap().0 == name && name.ends_with(&format!("_{unit}")), "{line}");
            }
            [sample, value] => {
                let (name, kind) = *families.last().unwrap();
                let suffixes: &[&str] = match kind {
                    "counter" => &["_total"],
                    "info" => &["_info"],
                    "histogram" => &["_bucket", "_sum", "_count"],
                    _ => &[""],
                };
                let bare = sample.split('{').next().unwrap();
                assert!(bare.strip_prefix(name).is_some_and(|suffix| suffixes.contains(&suffix)), "{line}");
                assert!(value.parse::<f64>().is_ok(), "{line}");
            }
            _ => panic!("{line}"),
        }
    }
    let names: Vec<&str> = families.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, helped);
    let version = format!("lapwing_build_info{{version=\"{}\"}} 1\n", lapwing::VERSION);
    assert!(page.body.contains(&version));

    let plain = ask(&admin, "GET", "/metrics", "Accept: text/plain;version=0.0.4\r\n");
    assert!(plain.head.contains("content-type: text/plain; version=0.0.4"), "{}", plain.head);
    let names = |page: &str| samples(page).into_keys().collect::<Vec<_>>();
    assert_eq!(names(&plain.body), names(&page.body));
    // As Prometheus asks: whichever it likes best.
    let both = "Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3\r\n";
    assert!(ask(&admin, "GET", "/metrics", both).head.contains(kind));

    if !is_there("promtool", "promtool".as_ref()) {
        return;
    }
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(plain.body.as_bytes()).unwrap();
    let said = promtool.wait_with_output().unwrap();
    let text = [said.stdout, said.stderr].concat();
    assert!(said.status.success() && text.is_empty(), "{}", String::from_utf8_lossy(&text));
}

#[test]
fn every_metric_of_the_alerts_and_the_dashboard_exists() {
    let broker = Program::start(OPERATED);
    let found: Vec<String> = figures(&broker.address("http"))
        .into_keys()
        .map(|name| name.split('{').next().unwrap().to_owned())
        .collect();
    let words = |text: &str| -> Vec<String> {
        let all = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').map(str::to_owned);
        all.filter(|word| word.starts_with("lapwing_") || word.starts_with("process_")).collect()
    };
    for (file, least) in [("prometheus/alerts.yml", 7), ("grafana/lapwing.json", 25)] {
        let text = std::fs::read_to_string(root().join("packaging").join(file)).unwrap();
        let named = words(&text);
        assert!(named.len() >= least, "{file} names {} figures only", named.len());
        let unknown: Vec<_> = named.iter().filter(|name| !found.contains(name)).collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
    }
    let text = std::fs::read_to_string(root().join("packaging/grafana/lapwing.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    for panel in panels {
        let targets = panel["targets"].as_array().unwrap();
        let asks = targets.iter().all(|target| !words(target["expr"].as_str().unwrap()).is_empty());
        assert!(!targets.is_empty() && asks, "{}", panel["title"]);
    }
    // What the page for operators names is there, too.
    let page = std::fs::read_to_string(root().join("docs/MONITORING.md")).unwrap();
    let unknown: Vec<_> = words(&page).into_iter().filter(|name| !found.contains(name)).collect();
    assert!(unknown.is_empty(), "docs/MONITORING.md: {unknown:?}");
    if is_there("promtool", "promtool".as_ref()) {
        let rules = root().join("packaging/prometheus/alerts.yml");
        let said = run(Command::new("promtool").args(["check", "rules"]).arg(rules));
        assert!(said.contains("SUCCESS"), "{said}");
    }
}

#[test]
fn health_and_readiness_follow_the_store_and_the_stop() {
    let disk = MemoryDisk::forgetful();
    let options = Options { segment_bytes: 64 * 1024, window_bytes: 128 * 1024, ..Options::default() };
    let store = DurableStore::on(std::sync::Arc::new(disk.clone()), options).unwrap();
    let broker = Inside::on(store, OPERATED);
    let (admin, mqtt) = (broker.admin(), broker.mqtt.clone());
    assert_eq!((get(&admin, "/healthz").status, get(&admin, "/readyz").status), (200, 200));

    // A subscriber that reads nothing, and more than the network takes in: the stop has to wait for
    // it.
    let (mut stuck, _) = Client::connect(&mqtt, "5.0", &[("id", "stuck")]).unwrap();
    stuck.subscribe("flood@0");
    let (mut publisher, _) = Client::connect(&mqtt, "5.0", &[("id", "publisher")]).unwrap();
    for _ in 0..4_000 {
        publisher.send("publish", &[("topic", "flood"), ("payload", "rep:8192")]).unwrap();
    }

    // Nothing here waits for an acknowledgement: one of a message that was taken just before comes
    // when there is space again.
    let kept = [("topic", "kept"), ("payload", "rep:5000"), ("retain", "1")];
    disk.fail(disk.calls() + 1, u64::MAX, Fault::NoSpace);
    let end = Instant::now() + PATIENCE;
    let unready = loop {
        publisher.send("publish", &kept).unwrap();
        let answer = get(&admin, "/readyz");
        if answer.status != 200 {
            break answer;
        }
        assert!(Instant::now() < end, "nobody is told that the disk is full");
    };
    assert!(unready.status == 503 && unready.body.contains("full"), "{}", unready.body);
    assert_eq!(get(&admin, "/healthz").status, 200, "a start anew would not help");
    disk.heal();
    until(&admin, "/readyz", 200);

    disk.fail(disk.calls() + 1, u64::MAX, Fault::Io);
    publisher.send("publish", &kept).unwrap();
    assert!(until(&admin, "/healthz", 503).contains("failed"));
    assert!(until(&admin, "/readyz", 503).contains("failed"));
    assert_eq!(figures(&admin)["lapwing_store_health{state=\"failed\"}"], 1.0);

    let stop = std::thread::spawn(move || broker.stop());
    let end = Instant::now() + PATIENCE;
    while !get(&admin, "/readyz").body.contains("the broker stops") {
        assert!(Instant::now() < end, "nobody is told that the broker stops");
    }
    drop(stuck);
    stop.join().unwrap();
    assert!(TcpStream::connect(&admin).is_err(), "the port is closed");
}

#[test]
fn a_public_admin_address_needs_an_explicit_key() {
    let folder = Folder::new("admin");
    let test = |admin: &str| {
        let text = format!("[admin]\n{admin}\n[[listener]]\naddress = '127.0.0.1:0'\n");
        let file = folder.file("lapwing.toml", &text);
        let mut command = Command::new(binary());
        command.args(["-c", &file.display().to_string(), "--test-config"]).current_dir(&folder.0);
        let output = command.stdin(Stdio::null()).output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let (good, text) = test("address = '0.0.0.0:9883'");
    assert!(!good && text.contains("admin.address") && text.contains("open = true"), "{text}");
    assert!(test("address = '0.0.0.0:9883'\nopen = true").0);
    assert!(test("address = 'localhost:9883'").0);
    let (good, text) = test("address = '9883'");
    assert!(!good && text.contains("HOST:PORT"), "{text}");
    // Without an address there is nothing.
    let silent = Program::start("");
    assert!(silent.listeners.iter().all(|name| !name.starts_with("http")));
}

#[test]
fn unknown_requests_are_answered_and_silent_connections_time_out() {
    let broker = Program::start(OPERATED);
    let admin = broker.address("http");
    let version: serde_json::Value = serde_json::from_str(&get(&admin, "/version").body).unwrap();
    assert_eq!((&version["name"], &version["version"]), (&"lapwing".into(), &lapwing::VERSION.into()));
    assert!(get(&admin, "/elsewhere").status == 404 && get(&admin, "/elsewhere").body.contains("/metrics"));
    let post = ask(&admin, "POST", "/metrics", "Content-Length: 0\r\n");
    assert!(post.status == 405 && post.head.contains("allow: get, head"), "{}", post.head);
    let head = ask(&admin, "HEAD", "/metrics", "");
    assert!(head.status == 200 && head.body.is_empty());
    let long = format!("X-Long: {}\r\n", "x".repeat(20_000));
    assert_eq!(ask(&admin, "GET", "/healthz", &long).status, 431);
    // As many as there may be, with half a request each: they are closed, and then somebody else is
    // heard.
    let mut idle: Vec<TcpStream> = (0..16).map(|_| TcpStream::connect(&admin).unwrap()).collect();
    for stream in &mut idle {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
    }
    assert_eq!(get(&admin, "/healthz").status, 200);
    for mut stream in idle {
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        assert!(!said.starts_with(b"HTTP/1.1 200"), "half a request was answered");
    }
}
