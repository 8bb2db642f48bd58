//! Operators' actions on a running broker: by the API over HTTP, and by `lapwing ctl`.

use std::io::Write;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use lapwing_tests::access::secret_file;
use lapwing_tests::client::Client;
use lapwing_tests::http::{Answer, ask, get, samples, send};
use lapwing_tests::program::{Folder, Program, binary, root};
use serde_json::{Value, json};

const TOKEN: &str = "a-token-of-32-characters-for-tests";
const PATIENCE: Duration = Duration::from_secs(20);

/// A broker with everything that operators use.
struct Operated {
    broker: Program,
    folder: Folder,
    toml: String,
}

impl Operated {
    fn start(more: &str) -> Operated {
        let folder = Folder::new("operated");
        secret_file(&folder, "token", &format!("{TOKEN}\n"));
        let path = folder.0.display();
        let toml = format!(
            "[admin]\naddress = '127.0.0.1:0'\ntoken_file = '{path}/token'\nsocket = '{path}/ctl'\n\
             [auth]\nban_file = '{path}/bans.toml'\n[mqtt]\nsys_interval_s = 0\n\
             [[listener]]\nname = 'first'\naddress = '127.0.0.1:0'\n{more}"
        );
        let broker = Program::with(&toml).inside(&folder.0).start();
        Operated { broker, folder, toml }
    }

    /// Ends it without a word, and starts it again with the same state.
    fn kill_and_start(self) -> Operated {
        let Operated { broker, folder, toml } = self;
        broker.signal("KILL");
        drop(broker);
        let broker = Program::with(&toml).inside(&folder.0).start();
        Operated { broker, folder, toml }
    }

    fn mqtt(&self) -> String {
        self.broker.address("mqtt")
    }

    fn connect(&self, id: &str) -> Client {
        let all = [("id", id), ("clean", "0"), ("p.session_expiry", "3600")];
        Client::connect(&self.mqtt(), "5.0", &all).expect("it is let in").0
    }

    /// Asks the API with the token.
    fn api(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let head = format!("Authorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n");
        let body = body.map_or_else(String::new, Value::to_string);
        send(&self.broker.address("http"), method, &format!("/api/v1{path}"), &head, &body)
    }

    fn get(&self, path: &str) -> Value {
        let answer = self.api("GET", path, None);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.json()
    }

    /// The items of all pages of so many.
    fn pages(&self, path: &str, limit: usize) -> Vec<Value> {
        let (mut all, mut cursor) = (Vec::new(), String::new());
        let mark = if path.contains('?') { '&' } else { '?' };
        loop {
            let page = self.get(&format!("{path}{mark}limit={limit}{cursor}"));
            let items = page["items"].as_array().unwrap();
            assert!(items.len() <= limit);
            all.extend(items.iter().cloned());
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={}", encoded(next)),
                None => return all,
            }
        }
    }

    fn ctl_output(&self, arguments: &[&str]) -> Output {
        let socket = self.folder.0.join("ctl");
        ctl(&[&["--socket", &socket.display().to_string()], arguments].concat())
    }

    /// Output of `lapwing ctl`, which must succeed.
    fn ctl(&self, arguments: &[&str]) -> String {
        let output = self.ctl_output(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Error text of `lapwing ctl`, which must fail.
    fn ctl_fails(&self, arguments: &[&str]) -> String {
        let output = self.ctl_output(arguments);
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn logged(&self) -> String {
        self.broker.log()
    }
}

fn ctl(arguments: &[&str]) -> Output {
    Command::new(binary()).arg("ctl").args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(
            |byte| {
                if byte.is_ascii_alphanumeric() {
                    char::from(byte).to_string()
                } else {
                    format!("%{byte:02X}")
                }
            },
        )
        .collect()
}

fn column(items: &[Value], name: &str) -> Vec<String> {
    items.iter().map(|item| item[name].as_str().unwrap().to_owned()).collect()
}

/// Asks until it is so.
fn wait_until(what: &str, is: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn the_api_answers_only_requests_with_the_token() {
    let operated = Operated::start("");
    let admin = operated.broker.address("http");
    let path = "/api/v1/clients";
    let with = |head: &str| ask(&admin, "GET", path, head);
    assert_eq!(with(&format!("Authorization: Bearer {TOKEN}\r\n")).status, 200);
    assert_eq!(with(&format!("Authorization: bearer {TOKEN}\r\n")).status, 200);
    let basic = format!("Authorization: Basic {TOKEN}\r\n");
    let cookie = format!("Cookie: token={TOKEN}\r\n");
    let longer = format!("Authorization: Bearer {TOKEN}x\r\n");
    let shorter = format!("Authorization: Bearer {}\r\n", &TOKEN[1..]);
    for wrong in
        ["", &basic, &cookie, &longer, &shorter, "Authorization: Bearer \r\n", "Authorization: x\r\n"]
    {
        let answer = with(wrong);
        assert!(
            answer.status == 401 && answer.head.contains("www-authenticate: bearer"),
            "{wrong}: {answer:?}"
        );
        assert!(answer.json()["remedy"].as_str().unwrap().contains("Authorization: Bearer"), "{wrong}");
    }
    // What a browser sends for a page of somebody else is not let in.
    let preflight = ask(
        &admin,
        "OPTIONS",
        path,
        "Origin: http://elsewhere\r\nAccess-Control-Request-Headers: authorization\r\n",
    );
    assert!(preflight.status == 401 && !preflight.head.contains("access-control"), "{preflight:?}");
    let allowed = with(&format!("Authorization: Bearer {TOKEN}\r\nOrigin: http://elsewhere\r\n"));
    assert!(!allowed.head.contains("access-control"), "{allowed:?}");
    // In a query it would stand in logs.
    assert_eq!(ask(&admin, "GET", &format!("{path}?token={TOKEN}"), "").status, 401);
    // Figures are read without, as before.
    assert_eq!((get(&admin, "/metrics").status, get(&admin, "/healthz").status), (200, 200));
    assert_eq!(samples(&get(&admin, "/metrics").body)["lapwing_authentication_failures_total"], 2.0);
    wait_until("it is logged", || operated.logged().contains("refused at admin.address: the token is wrong"));
    assert!(!operated.logged().contains(TOKEN));
    // Whoever guesses has to wait, and is not judged until then. Health is answered all the same.
    let statuses: Vec<u16> = (0..12).map(|_| with("Authorization: Bearer guess\r\n").status).collect();
    assert!(statuses.starts_with(&[401; 8]) && statuses.ends_with(&[429; 2]), "{statuses:?}");
    assert_eq!(with(&format!("Authorization: Bearer {TOKEN}\r\n")).status, 429);
    assert_eq!(get(&admin, "/healthz").status, 200);
}

/// A page in a browser of this machine has given its own name this machine's address.
#[test]
fn figures_of_this_machine_are_for_requests_to_this_machine() {
    use std::io::{Read, Write};
    let status = |toml: &str, host: &str| {
        let broker = Program::start(toml);
        let admin = broker.address("http");
        let port = admin.rsplit_once(':').unwrap().1;
        let mut stream = std::net::TcpStream::connect(&admin).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {}\r\n\r\n", host.replace("PORT", port)).unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    let local = "[admin]\naddress = '127.0.0.1:0'\n";
    for (host, expected) in [
        ("localhost:PORT", "200"),
        ("127.0.0.1:PORT", "200"),
        ("[::1]:PORT", "200"),
        ("evil.example:PORT", "421"),
        ("localhost.evil.example", "421"),
    ] {
        assert_eq!(status(local, host), expected, "{host}");
    }
    assert_eq!(status("[admin]\naddress = '127.0.0.1:0'\nopen = true\n", "proxy.example"), "200");
}

#[test]
fn without_a_token_metrics_are_served_and_the_api_says_why_it_is_not() {
    let broker = Program::start("[admin]\naddress = '127.0.0.1:0'\n");
    let admin = broker.address("http");
    let answer = ask(&admin, "GET", "/api/v1/clients", "Authorization: Bearer \r\n");
    assert_eq!(answer.status, 403);
    let answer = answer.json();
    assert!(answer["error"].as_str().unwrap().contains("needs a token, and none is configured"), "{answer}");
    assert!(answer["remedy"].as_str().unwrap().contains("admin.token_file"), "{answer}");
    assert_eq!(get(&admin, "/metrics").status, 200);
}

#[test]
fn a_token_that_could_be_guessed_or_read_refuses_the_start_and_is_not_shown() {
    let folder = Folder::new("tokens");
    let test = |admin: &str, environment: &[(&str, &str)]| {
        let file = folder
            .file("lapwing.toml", &format!("[admin]\n{admin}\n[[listener]]\naddress = '127.0.0.1:0'\n"));
        let mut command = Command::new(binary());
        command
            .arg("-c")
            .arg(file)
            .arg("--test-config")
            .current_dir(&folder.0)
            .envs(environment.iter().copied());
        let output = command.stdin(Stdio::null()).output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let refused = |admin: &str, text: &str| {
        let (good, said) = test(admin, &[]);
        assert!(!good && said.contains(text), "{admin}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
    };
    refused("token = 'hunter2'", "admin.token is shorter than 16 characters");
    refused("token = 'hunter2 hunter2 hunter2'", "no spaces");
    let open = folder.file("open", "hunter2hunter2hunter2\n").display().to_string();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    refused(&format!("token_file = '{open}'"), "every user of this machine can read it");
    let short = secret_file(&folder, "short", "hunter2\n").display().to_string();
    refused(&format!("token_file = '{short}'"), "shorter than 16");
    refused("token_file = 'nowhere'", "admin.token_file nowhere");
    let good = secret_file(&folder, "good", "hunter2hunter2hunter2\n").display().to_string();
    refused(&format!("token = 'hunter2hunter2hunter2'\ntoken_file = '{good}'"), "both are set; remove one");
    assert!(test(&format!("token_file = '{good}'"), &[]).0);
    assert!(test("", &[("LAPWING_ADMIN__TOKEN_FILE", &good)]).0);
    assert!(!test("", &[("LAPWING_ADMIN__TOKEN", "hunter2")]).0);
    // An address that others can reach needs one.
    refused("address = '0.0.0.0:9883'", "admin.token_file");
    assert!(test(&format!("address = '0.0.0.0:9883'\ntoken_file = '{good}'"), &[]).0);
    let file = folder.file("lapwing.toml", "[admin]\ntoken = 'hunter2hunter2hunter2'\n");
    let output = Command::new(binary()).arg("config").arg("-c").arg(file).output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("token = \"(hidden)\"") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn on_a_public_address_metrics_need_the_token_and_health_does_not() {
    let folder = Folder::new("reachable");
    let token = secret_file(&folder, "token", TOKEN).display().to_string();
    let listener = "[[listener]]\naddress = '127.0.0.1:0'\n";
    let broker =
        Program::start(&format!("[admin]\naddress = '0.0.0.0:0'\ntoken_file = '{token}'\n{listener}"));
    let admin = format!("127.0.0.1:{}", broker.port("http"));
    assert_eq!((get(&admin, "/metrics").status, get(&admin, "/version").status), (401, 401));
    assert_eq!((get(&admin, "/healthz").status, get(&admin, "/readyz").status), (200, 200));
    let head = format!("Authorization: Bearer {TOKEN}\r\n");
    assert_eq!(ask(&admin, "GET", "/metrics", &head).status, 200);
}

/// Checks a value against a schema, with as much of JSON Schema as the document uses.
fn check(value: &Value, schema: &Value, at: &str) {
    let kinds: Vec<&str> = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        kind => kind.as_str().into_iter().collect(),
    };
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
        Value::Number(number) if number.is_u64() && kinds.contains(&"integer") => "integer",
        Value::Number(_) => "number",
    };
    assert!(kinds.contains(&kind), "{at}: {value} is no {kinds:?}");
    if let Some(object) = value.as_object() {
        let properties = schema["properties"].as_object();
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            assert!(object.contains_key(name), "{at}: {name} is missing");
        }
        for (name, value) in object {
            match properties.and_then(|properties| properties.get(name)) {
                Some(schema) => check(value, schema, &format!("{at}.{name}")),
                None => assert!(schema["additionalProperties"] != false, "{at}: {name} is not described"),
            }
        }
    }
    for item in value.as_array().into_iter().flatten() {
        check(item, &schema["items"], &format!("{at}[]"));
    }
}

/// A path with something for each parameter that must be there.
fn with_required(path: &str, described: &Value) -> String {
    let parameters = described["parameters"].as_array().into_iter().flatten();
    let required = parameters.filter(|parameter| parameter["in"] == "query" && parameter["required"] == true);
    let query: Vec<String> =
        required.map(|parameter| format!("{}=a", parameter["name"].as_str().unwrap())).collect();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) }
}

#[test]
fn the_served_openapi_document_is_the_committed_one_and_lists_the_routes() {
    let operated = Operated::start("");
    let mut client = operated.connect("c");
    client.subscribe("a/#@1");
    client.publish("a/b", "x", &[("retain", "1")]);
    operated.ctl(&["ban", "--client", "banned"]);
    let document = operated.get("/openapi.json");
    let kept = std::fs::read_to_string(root().join("docs/openapi.json")).unwrap();
    assert_eq!(document, serde_json::from_str::<Value>(&kept).unwrap());
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    let failure = &document["components"]["schemas"]["Failure"];
    let mut routes = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        let path = path.replace("{client}", "c");
        let path = path.strip_prefix("/api/v1").unwrap();
        for method in ["get", "post", "put", "delete", "patch"] {
            let described = &methods[method];
            let content = &described["responses"]["200"]["content"];
            if !content["application/x-ndjson"].is_null() {
                // A stream goes on; what is in it is seen in tests/tests/admin/trace.rs.
                assert!(content["application/x-ndjson"]["schema"].is_object(), "{path}");
                continue;
            }
            // What changes something is asked for wrongly, and says so.
            let answer = match method {
                "get" => operated.api("GET", &with_required(path, described), None),
                _ => operated.api(&method.to_uppercase(), &format!("{path}?colour=red"), None),
            };
            if described.is_null() {
                assert_eq!(answer.status, 405, "{method} {path}");
                check(&answer.json(), failure, path);
                continue;
            }
            routes += 1;
            let schema = &content["application/json"]["schema"];
            assert!(schema.is_object() && described["summary"].as_str().is_some_and(|text| text.len() > 5));
            match method {
                "get" => {
                    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
                    check(&answer.json(), schema, path);
                }
                _ => {
                    assert_eq!(answer.status, 400, "{method} {path}: {}", answer.body);
                    check(&answer.json(), failure, path);
                }
            }
        }
    }
    assert!(routes >= 15, "{routes} routes");
    // Nothing was done.
    assert!(operated.get("/clients/c")["client"]["connected"] == true);
}

#[test]
fn a_malformed_request_is_refused_with_cause_and_remedy() {
    let operated = Operated::start("");
    let refused = |method: &str, path: &str, body: Option<&Value>, status: u16, told: &str| {
        let answer = operated.api(method, path, body);
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
        let answer = answer.json();
        let text = format!("{} {}", answer["error"].as_str().unwrap(), answer["remedy"].as_str().unwrap());
        assert!(text.contains(told), "{method} {path}: {text}");
    };
    refused("GET", "/nothing", None, 404, "openapi.json");
    refused("GET", "/clients/nobody", None, 404, "there is no client 'nobody'");
    refused("GET", "/clients?limit=0", None, 400, "from 1 to 1000");
    refused("GET", "/clients?state=up", None, 400, "connected or offline");
    refused("GET", "/clients?address=here", None, 400, "192.0.2.0/24");
    refused("GET", "/clients?colour=red", None, 400, "client, user, address");
    refused("GET", "/retained?filter=a+b", None, 400, "%2B");
    refused("GET", "/retained?filter=a%2Fb%23", None, 400, "is not a topic filter");
    refused("DELETE", "/retained", None, 400, "filter is missing");
    refused("GET", "/subscriptions?topic=%2B", None, 400, "without wildcards");
    refused("GET", "/subscriptions?cursor=x", None, 400, "is no cursor");
    refused("POST", "/bans", Some(&json!({})), 400, "one of client, user and address");
    refused("POST", "/bans", Some(&json!({ "client": "a", "user": "b" })), 400, "only one");
    refused("POST", "/bans", Some(&json!({ "client": 7 })), 400, "client: expected a text");
    refused("POST", "/bans", Some(&json!({ "klient": "a" })), 400, "klient is not known");
    refused("POST", "/bans", Some(&json!({ "client": "a", "for_s": 0 })), 400, "for_s");
    refused("PUT", "/log", Some(&json!({ "level": "debgu" })), 400, "'debgu' is no level");
    refused("PUT", "/log", None, 400, "not JSON");
    refused("PUT", "/log", Some(&json!({ "level": "x".repeat(70_000) })), 413, "65536 bytes");
    let head = format!("Authorization: Bearer {TOKEN}\r\nContent-Type: text/plain\r\n");
    let form = send(&operated.broker.address("http"), "PUT", "/api/v1/log", &head, "{\"level\":\"info\"}");
    assert_eq!(form.status, 415);
    assert_eq!(operated.get("/log")["level"], "info");
}

#[test]
fn clients_are_listed_in_order_page_by_page_and_filtered() {
    let operated = Operated::start("[[listener]]\nname = 'second'\naddress = '127.0.0.1:0'\n");
    let mut ids: Vec<String> = (0..25).map(|n| format!("client-{n:02}")).collect();
    ids.extend(["a/b c".to_owned(), "ä+%".to_owned()]);
    let there: Vec<Client> = ids.iter().map(|id| operated.connect(id)).collect();
    let second =
        operated.broker.listeners.iter().filter(|name| name.starts_with("mqtt")).nth(1).unwrap().clone();
    let address = second.strip_prefix("mqtt://").unwrap();
    let named = [("id", "other"), ("user", "ann"), ("clean", "1")];
    let (_other, _) = Client::connect(address, "3.1.1", &named).unwrap();
    let offline = operated.connect("offline");
    drop(offline);
    wait_until("the session rests", || operated.get("/clients/offline")["client"]["connected"] == false);
    ids.extend(["other".to_owned(), "offline".to_owned()]);
    ids.sort();
    for limit in [1, 7, 29, 1_000] {
        assert_eq!(column(&operated.pages("/clients", limit), "client"), ids, "{limit}");
    }
    let found = |query: &str| column(&operated.pages(&format!("/clients?{query}"), 10), "client");
    assert_eq!(found("client=client-1*").len(), 10);
    assert_eq!(found("client=client-?4"), ["client-04", "client-14", "client-24"]);
    assert_eq!(found("user=ann"), ["other"]);
    assert_eq!(found("listener=second"), ["other"]);
    assert_eq!(found(&format!("listener={}", encoded(&second))), ["other"]);
    assert_eq!(found("state=offline"), ["offline"]);
    assert_eq!(found("address=127.0.0.0%2F8").len(), 28);
    assert_eq!(found("address=192.0.2.1").len(), 0);
    // Any client identifier can be asked for.
    assert_eq!(operated.get(&format!("/clients/{}", encoded("a/b c")))["client"]["client"], "a/b c");
    let table = operated.ctl(&["clients", "--state", "connected", "--limit", "500"]);
    assert_eq!(table.lines().count(), 29, "{table}");
    assert!(
        table.starts_with("CLIENT ") && table.contains("\na/b c ") && table.contains("\nother "),
        "{table}"
    );
    let listed: Value = serde_json::from_str(&operated.ctl(&["clients", "--json"])).unwrap();
    assert_eq!(column(listed["items"].as_array().unwrap(), "client"), ids);
    drop(there);
}

#[test]
fn a_client_is_shown_with_its_connection_session_and_subscriptions() {
    let operated = Operated::start("");
    let all = [
        ("id", "device"),
        ("user", "ann"),
        ("clean", "0"),
        ("p.session_expiry", "120"),
        ("ka", "77"),
        ("will", "gone"),
        ("will_payload", "bye"),
        ("will_qos", "1"),
        ("p.receive_max", "3"),
    ];
    let (mut device, _) = Client::connect(&operated.mqtt(), "5.0", &all).unwrap();
    assert_eq!(device.subscribe("t/#@1"), "1");
    device.publish("elsewhere", "12345", &[]);
    let mut publisher = operated.connect("publisher");
    for _ in 0..5 {
        publisher.publish("t/x", "payload", &[]);
    }
    // Three are on their way, as many as the client takes; two wait.
    for _ in 0..3 {
        device.expect("publish");
    }
    let shown = operated.get("/clients/device");
    let client = &shown["client"];
    assert_eq!((&client["user"], &client["connected"]), (&json!("ann"), &json!(true)));
    assert_eq!((&client["queued_messages"], &client["dropped_messages"]), (&json!(2), &json!(0)));
    assert!(
        client["queued_bytes"].as_u64().unwrap() > 14
            && client["address"].as_str().unwrap().starts_with("127.0.0.1:")
    );
    assert_eq!((&shown["protocol_version"], &shown["keep_alive_s"]), (&json!("5.0"), &json!(77)));
    assert_eq!((&shown["session_expiry_s"], &shown["in_flight_to_client"]), (&json!(120), &json!(3)));
    let will = json!({ "topic": "gone", "qos": 1, "retain": false, "delay_s": 0, "payload_bytes": 3 });
    assert_eq!(shown["will"], will);
    let subscription =
        json!({ "filter": "t/#", "qos": 1, "no_local": false, "retain_as_published": false, "id": null });
    assert_eq!((&shown["subscriptions"], &shown["subscriptions_count"]), (&json!([subscription]), &json!(1)));
    let flow = &shown["flow"];
    assert_eq!((&flow["messages_received"], &flow["messages_sent"]), (&json!(1), &json!(3)));
    assert!(flow["bytes_sent"].as_u64().unwrap() > 3 * 7 && flow["bytes_received"].as_u64().unwrap() > 5);
    assert!(shown["per_second"]["messages_sent"].as_f64().unwrap() > 0.0);
    let text = operated.ctl(&["client", "device"]);
    for part in ["ann", "2 messages", "3 to the client", "gone (QoS 1, 3 B, delay 0 s)", "t/#", "1m 17s"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // At rest all five wait or are to be sent again, and the will has gone.
    drop(device);
    wait_until("it rests", || operated.get("/clients/device")["client"]["connected"] == false);
    let rests = operated.get("/clients/device");
    assert_eq!((&rests["in_flight_to_client"], &rests["client"]["queued_messages"]), (&json!(3), &json!(2)));
    assert!(rests["session_ends_in_ms"].as_u64().unwrap() <= 120_000 && rests["flow"].is_null());
    let figures = samples(&get(&operated.broker.address("http"), "/metrics").body);
    assert_eq!(figures["lapwing_session_queue_messages{state=\"offline\"}"], 2.0);
    assert_eq!(figures["lapwing_in_flight_messages{state=\"offline\"}"], 3.0);
    assert_eq!(figures["lapwing_session_queue_messages{state=\"connected\"}"], 0.0);
    assert!(operated.ctl_fails(&["client", "nobody"]).contains("there is no client 'nobody'"));
}

#[test]
fn a_disconnected_client_resumes_its_session() {
    let mut operated = Operated::start("");
    let mut client = operated.connect("c");
    client.subscribe("a@1");
    assert!(operated.ctl(&["disconnect", "c"]).contains("c is disconnected"));
    assert_eq!(client.end().as_deref(), Some("152"));
    let mut publisher = operated.connect("publisher");
    publisher.publish("a", "kept", &[]);
    let failed = operated.ctl_fails(&["disconnect", "c"]);
    assert!(failed.contains("is not connected") && failed.contains("session delete"), "{failed}");
    let (mut client, present) = Client::resume(&operated.mqtt(), "c", "5.0").unwrap();
    assert!(present);
    assert_eq!(client.expect("publish")["payload"], "kept");
    let said = operated.broker.wait_for("operator: disconnect client c");
    assert!(said.contains(&format!("who=user id {} (process ", own_user_id())), "{said}");
    assert_eq!(operated.api("POST", "/clients/c/disconnect", None).status, 200);
    let said = operated.broker.wait_for("who=token from 127.0.0.1:");
    assert!(said.contains("operator: disconnect client c"), "{said}");
}

/// The user that runs this test.
fn own_user_id() -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").unwrap().uid()
}

#[test]
fn a_deleted_session_stays_deleted_after_kill_9() {
    let operated = Operated::start("");
    let mut offline = operated.connect("offline");
    offline.subscribe("a/#@1");
    drop(offline);
    wait_until("it rests", || operated.get("/clients/offline")["client"]["connected"] == false);
    let mut live = operated.connect("live");
    live.subscribe("a/#@1");
    let mut publisher = operated.connect("publisher");
    publisher.publish("a/x", "x", &[]);
    assert_eq!(operated.ctl(&["session", "delete", "offline"]), "the session of offline is deleted\n");
    assert!(operated.ctl(&["session", "delete", "live"]).contains("and it is disconnected"));
    assert_eq!(operated.pages("/subscriptions", 10).len(), 0);
    assert!(operated.ctl_fails(&["session", "delete", "live"]).contains("there is no client 'live'"));
    let operated = operated.kill_and_start();
    assert_eq!(column(&operated.pages("/clients", 10), "client"), ["publisher"]);
    for id in ["offline", "live"] {
        assert!(!Client::resume(&operated.mqtt(), id, "5.0").unwrap().1, "{id}");
    }
    drop(live);
}

#[test]
fn a_banned_client_is_disconnected_and_refused_until_the_ban_is_lifted() {
    let operated = Operated::start("");
    let (client, other) = (operated.connect("c"), operated.connect("other"));
    let said = operated.ctl(&["ban", "--client", "c", "--for", "1h", "--reason", "it floods"]);
    assert!(said.starts_with("client c is banned until 2"), "{said}");
    assert_eq!(client.end().as_deref(), Some("152"));
    let knock = |operated: &Operated| {
        let (_, connack) = Client::knock(&operated.mqtt(), "5.0", &[("id", "c")]).unwrap();
        connack["reason"].clone()
    };
    assert_eq!(knock(&operated), "138");
    operated.ctl(&["ban", "--user", "eve"]);
    operated.ctl(&["ban", "--address", "192.0.2.0/24"]);
    let table = operated.ctl(&["bans"]);
    assert!(
        table.contains("client c ") && table.contains("it floods") && table.contains("192.0.2.0/24"),
        "{table}"
    );
    for limit in [1, 2, 10] {
        assert_eq!(operated.pages("/bans", limit).len(), 3);
    }
    // A restart keeps it.
    let operated = operated.kill_and_start();
    assert_eq!(knock(&operated), "138");
    operated.ctl(&["unban", "--client", "c"]);
    assert_eq!(knock(&operated), "0");
    assert!(operated.ctl_fails(&["unban", "--client", "c"]).contains("is not banned"));
    assert_eq!(operated.pages("/bans", 10).len(), 2);
    drop(other);
}

#[test]
fn a_request_reads_a_ban_file_that_has_just_changed() {
    let operated = Operated::start("");
    let client = operated.connect("c");
    operated.folder.file("bans.toml", "[[ban]]\nclient = 'c'\n");
    operated.ctl(&["log", "debug"]);
    assert_eq!(client.end().as_deref(), Some("152"), "0x98");
}

#[test]
fn a_ban_without_a_list_says_what_to_set() {
    let folder = Folder::new("bare");
    let socket = folder.0.join("ctl").display().to_string();
    let _broker =
        Program::start(&format!("[admin]\nsocket = '{socket}'\n[[listener]]\naddress = '127.0.0.1:0'\n"));
    let output = ctl(&["--socket", &socket, "ban", "--client", "c"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("auth.ban_file"), "{said}");
}

#[test]
fn explain_lists_the_receivers_of_a_topic() {
    let operated = Operated::start("");
    let mut clients: Vec<Client> = ["a", "b", "c", "d"].iter().map(|id| operated.connect(id)).collect();
    clients[0].subscribe("s/+/t@1");
    clients[1].subscribe("s/#@0");
    clients[1].subscribe("other@2");
    clients[2].subscribe("$share/g/s/1/t@1");
    clients[3].subscribe("$share/g/s/1/t@1");
    let found = |path: &str| -> Vec<String> {
        let item = |s: &Value| {
            format!(
                "{} {} {}",
                s["filter"].as_str().unwrap(),
                s["share"].as_str().unwrap_or("-"),
                s["client"].as_str().unwrap()
            )
        };
        operated.pages(path, 2).iter().map(item).collect()
    };
    let got = ["s/# - b", "s/+/t - a", "s/1/t g c", "s/1/t g d"];
    assert_eq!(found("/subscriptions?topic=s%2F1%2Ft"), got);
    assert_eq!(found("/subscriptions?topic=s"), ["s/# - b"]);
    assert_eq!(found("/subscriptions?topic=nobody"), [] as [&str; 0]);
    assert_eq!(found("/subscriptions").len(), 5);
    assert_eq!(found("/subscriptions?client=b"), ["other - b", "s/# - b"]);
    assert_eq!(found("/subscriptions?filter=s%2F*").len(), 4);
    let table = operated.ctl(&["who", "s/1/t"]);
    assert_eq!(table.lines().count(), 5, "{table}");
    assert_eq!(operated.ctl(&["who", "nobody"]), "none\n");
    assert_eq!(operated.ctl(&["subscriptions", "*", "--client", "b"]).lines().count(), 3);
}

#[test]
fn retained_messages_are_browsed_counted_and_deleted_for_good() {
    // Most of them are on disk only.
    let operated = Operated::start("[store]\nretained_cache_bytes = 200\n");
    let mut publisher = operated.connect("publisher");
    for n in 0..20 {
        publisher.publish(&format!("r/{n:02}/x"), &format!("payload {n}"), &[("retain", "1")]);
    }
    publisher.publish("other", "\u{1b}[31m", &[("retain", "1")]);
    let all = operated.pages("/retained", 3);
    assert_eq!(all.len(), 21);
    assert_eq!(
        (&all[5]["topic"], &all[5]["payload"], &all[5]["qos"]),
        (&json!("r/04/x"), &json!("payload 4"), &json!(1))
    );
    assert_eq!(operated.pages("/retained?filter=r%2F%2B%2Fx", 7).len(), 20);
    assert_eq!(operated.get("/retained/count?filter=r%2F1*%2Fx".replace('*', "0").as_str())["messages"], 1);
    let table = operated.ctl(&["retained", "list"]);
    assert!(
        table.contains("payload 19") && table.contains("\\u{1b}[31m") && !table.contains('\u{1b}'),
        "{table}"
    );
    assert!(operated.ctl(&["retained", "count", "r/#"]).starts_with("20 messages, "));
    let mut watcher = operated.connect("watcher");
    watcher.subscribe("r/00/#@1");
    assert_eq!(watcher.expect("publish")["payload"], "payload 0");
    assert_eq!(operated.ctl(&["retained", "delete", "r/#"]), "20 messages deleted\n");
    assert_eq!(watcher.expect("publish")["payload"], "", "a subscriber is told, as by any delete");
    let operated = operated.kill_and_start();
    assert_eq!(column(&operated.pages("/retained", 10), "topic"), ["other"]);
    assert!(operated.ctl_fails(&["retained", "delete", "a#"]).contains("is not a topic filter"));
}

#[test]
fn each_listener_has_its_own_figures_in_the_api_and_in_metrics() {
    let operated =
        Operated::start("[[listener]]\nname = 'second'\naddress = '127.0.0.1:0'\nconnections_max = 1\n");
    let second =
        operated.broker.listeners.iter().filter(|name| name.starts_with("mqtt")).nth(1).unwrap().clone();
    let address = second.strip_prefix("mqtt://").unwrap();
    let mut subscriber = operated.connect("subscriber");
    subscriber.subscribe("a@1");
    let (mut publisher, _) = Client::connect(address, "5.0", &[("id", "publisher")]).unwrap();
    assert!(Client::connect(address, "5.0", &[("id", "one too many")]).is_err());
    for _ in 0..7 {
        publisher.publish("a", "x", &[]);
        let message = subscriber.expect("publish");
        subscriber.send("puback", &[("id", &message["id"])]).unwrap();
    }
    subscriber.ask("pingreq", &[], "pingresp").unwrap();
    let listeners = operated.get("/listeners");
    let figures = samples(&get(&operated.broker.address("http"), "/metrics").body);
    for (at, name, accepted, refused, received, sent) in [(0, "first", 1, 0, 0, 7), (1, "second", 1, 1, 7, 0)]
    {
        let listener = &listeners["items"][at];
        assert_eq!((&listener["name"], &listener["connections"]), (&json!(name), &json!(1)));
        let expected = json!([accepted, refused, received, sent]);
        let found: Vec<&Value> = ["accepted", "refused", "messages_received", "messages_sent"]
            .iter()
            .map(|n| &listener[n])
            .collect();
        assert_eq!(json!(found), expected, "{name}");
        let figure =
            |name_of: &str| figures[&format!("lapwing_listener_{name_of}_total{{listener=\"{name}\"}}")];
        let paged = ["connections_accepted", "connections_refused", "messages_received", "messages_sent"];
        assert_eq!(json!(paged.map(|name| figure(name) as u64)), expected, "{name}");
        assert_eq!(figures[&format!("lapwing_listener_connections{{listener=\"{name}\"}}")], 1.0);
    }
    assert_eq!(listeners["items"][1]["urls"], json!([second]));
    for name in ["received_bytes", "sent_bytes", "messages_received", "messages_sent"] {
        let of =
            |listener: &str| figures[&format!("lapwing_listener_{name}_total{{listener=\"{listener}\"}}")];
        assert_eq!(of("first") + of("second"), figures[&format!("lapwing_{name}_total")], "{name}");
    }
    let table = operated.ctl(&["listeners"]);
    assert!(table.contains("first") && table.contains("1 of 1"), "{table}");
}

#[test]
fn traffic_of_a_removed_listener_still_counts() {
    let folder = Folder::new("gone");
    let socket = folder.0.join("ctl").display().to_string();
    let file = |more: &str| {
        let text = format!(
            "[admin]\naddress = '127.0.0.1:0'\nsocket = '{socket}'\n[[listener]]\naddress = '127.0.0.1:0'\n{more}"
        );
        folder.file("lapwing.toml", &text);
    };
    file("[[listener]]\nname = 'second'\naddress = '127.0.0.1:0'\n");
    let broker = Program::by(&["-c", "lapwing.toml"]).inside(&folder.0).start();
    let admin = broker.address("http");
    let second = broker.listeners.iter().filter(|name| name.starts_with("mqtt")).nth(1).unwrap();
    let (mut client, _) =
        Client::connect(second.strip_prefix("mqtt://").unwrap(), "5.0", &[("id", "c")]).unwrap();
    client.publish("a", "x", &[]);
    let figures = || samples(&get(&admin, "/metrics").body);
    let before = figures();
    assert_eq!(before["lapwing_messages_received_total"], 1.0);
    file("");
    assert!(ctl(&["--socket", &socket, "reload"]).status.success());
    assert_eq!(client.end().as_deref(), Some("152"));
    let after = figures();
    assert_eq!(after["lapwing_messages_received_total"], 1.0);
    assert!(after["lapwing_received_bytes_total"] >= before["lapwing_received_bytes_total"]);
    assert!(!after.keys().any(|name| name.contains("listener=\"second\"")));
}

#[test]
fn a_reload_is_done_whole_or_not_at_all_and_names_what_needs_a_restart() {
    let operated = Operated::start("");
    assert_eq!(operated.ctl(&["reload"]), "reloaded\n");
    let path = operated.folder.0.join("lapwing.toml");
    let good = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("[log]\nformat = 'json'\n{good}")).unwrap();
    assert!(operated.ctl(&["reload"]).contains("take effect with the next start: log.format"));
    std::fs::write(&path, format!("[limits]\nrecieve_maximum = 1\n{good}")).unwrap();
    let failed = operated.ctl_fails(&["reload"]);
    assert!(
        failed.contains("recieve_maximum") && failed.contains("the previous settings stay in force"),
        "{failed}"
    );
    let output = operated.ctl_output(&["reload", "--json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(!output.status.success() && answer["error"].as_str().unwrap().contains("recieve_maximum"));
    // The token can be another from now on.
    secret_file(&operated.folder, "token", "another-token-of-many-characters");
    std::fs::write(&path, good).unwrap();
    operated.ctl(&["reload"]);
    assert_eq!(operated.api("GET", "/clients", None).status, 401);
}

#[test]
fn a_log_level_set_by_the_api_lasts_until_the_configuration_sets_one() {
    let operated = Operated::start("");
    assert_eq!(operated.ctl(&["log"]), "level  info\n");
    operated.ctl(&["log", "info,audit=off"]);
    let shown = operated.ctl(&["log"]);
    assert!(shown.contains("info,audit=off") && shown.contains("configured  info"), "{shown}");
    drop(operated.connect("quiet"));
    operated.ctl(&["log", "info"]);
    let mut loud = operated.connect("loud");
    loud.ask("pingreq", &[], "pingresp").unwrap();
    wait_until("it is logged", || operated.logged().contains("connected client=loud"));
    assert!(!operated.logged().contains("connected client=quiet"));
    operated.ctl(&["log", "debug"]);
    let path = operated.folder.0.join("lapwing.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("[log]\nlevel = 'warn'\n{text}")).unwrap();
    operated.ctl(&["reload"]);
    assert_eq!(operated.ctl(&["log"]), "level  warn\n");
}

#[test]
fn the_control_socket_is_private_is_in_the_data_folder_and_is_removed_at_the_end() {
    let folder = Folder::new("socket");
    let mut broker = Program::by(&["-p", "0"]).inside(&folder.0).start();
    let socket = folder.0.join("data/lapwing.sock");
    let metadata = std::fs::symlink_metadata(&socket).unwrap();
    assert!(metadata.file_type().is_socket() && metadata.permissions().mode() & 0o777 == 0o600);
    // As a user who gives the same folder, or the same environment.
    let data = folder.0.join("data").display().to_string();
    let run = |arguments: &[&str], environment: Option<&Path>| {
        let mut command = Command::new(binary());
        command.args(arguments).current_dir("/").stdin(Stdio::null());
        if let Some(path) = environment {
            command.env("LAPWING_ADMIN__SOCKET", path);
        }
        let output = command.output().unwrap();
        (
            output.status.success(),
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)),
        )
    };
    assert_eq!(run(&["ctl", "-d", &data, "clients"], None), (true, "none\n".to_owned()));
    assert_eq!(run(&["ctl", "clients"], Some(&socket)), (true, "none\n".to_owned()));
    broker.signal("TERM");
    broker.wait();
    assert!(!socket.exists());
    let (good, said) = run(&["ctl", "-d", &data, "clients"], None);
    assert!(!good && said.contains("no broker answers at the socket") && said.contains("-c FILE"), "{said}");
}

#[test]
fn an_in_memory_broker_has_a_control_socket_only_where_one_is_configured() {
    let folder = Folder::new("memory");
    let broker = Program::by(&["-p", "0", "--in-memory"]).inside(&folder.0).start();
    let log = broker.log.lock().unwrap().clone();
    assert!(log.contains("no socket for `lapwing ctl`") && log.contains("admin.socket"), "{log}");
    assert!(!folder.0.join("data").exists() && !folder.0.join("lapwing-data").exists());
    let path = folder.0.join("s");
    let file = folder.file(
        "c.toml",
        &format!(
            "[store]\nin_memory = true\n[admin]\nsocket = '{}'\n[[listener]]\naddress = '127.0.0.1:0'\n",
            path.display()
        ),
    );
    let _named = Program::by(&["-c", &file.display().to_string()]).start();
    let said = ctl(&["-c", &file.display().to_string(), "clients"]);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    // "off" is none.
    let off = folder.file("off.toml", "[admin]\nsocket = 'off'\n[[listener]]\naddress = '127.0.0.1:0'\n");
    let said = ctl(&["-c", &off.display().to_string(), "clients"]);
    assert!(!said.status.success() && String::from_utf8_lossy(&said.stderr).contains("has no socket"));
    let lost =
        folder.file("lost.toml", "[admin]\nsocket = 'nowhere/x'\n[[listener]]\naddress = '127.0.0.1:0'\n");
    let output = Command::new(binary())
        .arg("-c")
        .arg(lost)
        .arg("--test-config")
        .current_dir(&folder.0)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("admin.socket") && said.contains("nowhere"), "{said}");
}

#[test]
fn ctl_reaches_a_broker_by_its_address_with_the_token() {
    let operated = Operated::start("");
    let url = format!("http://{}", operated.broker.address("http"));
    let token: PathBuf = operated.folder.0.join("token");
    let token = token.display().to_string();
    assert!(ctl(&["--url", &url, "--token-file", &token, "clients"]).status.success());
    let config = operated.folder.0.join("lapwing.toml").display().to_string();
    assert!(ctl(&["-c", &config, "--url", &url, "listeners"]).status.success());
    let fails = |arguments: &[&str], told: &str| {
        let output = ctl(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && said.contains(told) && !said.contains(TOKEN),
            "{arguments:?}: {said}"
        );
    };
    fails(&["--url", &url, "clients"], "needs a token");
    fails(&["--url", "https://127.0.0.1:1", "clients"], "http://HOST:PORT");
    fails(&["--url", "http://127.0.0.1:1", "--token-file", &token, "clients"], "is a broker running");
    fails(&["--url", &url, "--socket", "x", "clients"], "exclude each other");
    // Another program is there.
    let mqtt = format!("http://{}", operated.mqtt());
    fails(&["--url", &mqtt, "--token-file", &token, "clients"], &mqtt);
}

#[test]
fn sixteen_silent_connections_do_not_lock_an_operator_out() {
    let operated = Operated::start("");
    let socket = operated.folder.0.join("ctl");
    let idle: Vec<_> = (0..16)
        .map(|_| {
            let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
            stream.write_all(b"GET /api/v1/clients HTTP/1.1\r\n").unwrap();
            stream
        })
        .collect();
    assert_eq!(operated.ctl(&["clients"]), "none\n");
    drop(idle);
}

#[test]
fn the_busiest_clients_come_first() {
    let operated = Operated::start("");
    let mut busy = operated.connect("busy");
    let mut calm = operated.connect("calm");
    let mut listening = operated.connect("listening");
    listening.subscribe("t@1");
    for n in 0..30 {
        busy.publish("t", "some words", &[]);
        listening.expect("publish");
        if n == 0 {
            calm.publish("calm", &"x".repeat(5_000), &[]);
        }
    }
    // A rate is a mean of at least ten seconds, or of the time that there was: what has gone
    // through is in it at once.
    let clients = |query: &str| -> Vec<String> {
        let answer = operated.get(&format!("/busiest?{query}"));
        assert_eq!((&answer["connected"], &answer["asked"]), (&3.into(), &3.into()));
        let clients = answer["clients"].as_array().unwrap().iter();
        clients.map(|busy| busy["client"].as_str().unwrap().to_owned()).collect()
    };
    let by_messages = clients("by=messages");
    assert_eq!(by_messages.len(), 3);
    assert_eq!(by_messages[2], "calm", "{by_messages:?}");
    assert_eq!(clients("by=bytes&limit=1"), ["calm"]);
    let shown = operated.ctl(&["top", "--once"]);
    assert!(shown.starts_with("3 clients connected;"), "{shown}");
    let last = shown.lines().last().unwrap();
    assert!(last.starts_with("calm "), "{shown}");
    let json: Value = serde_json::from_str(&operated.ctl(&["top", "--once", "--json"])).unwrap();
    assert!(json["clients"][0]["per_second"]["messages_received"].is_number());
}
