//! Behind a proxy: whose connection it is, is what a listed proxy says, and nobody else.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lapwing_tests::program::{Folder, Program, free_port, is_there};
use lapwing_tests::{client, wire};

const BEHIND: &str = "[[listener]]\naddress = '127.0.0.1:0'\nproxy_protocol_from = ['127.0.0.0/8']\n";

/// Sends these bytes and CONNECT behind them; what came until the end or CONNACK.
fn connack(program: &Program, header: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(program.address("mqtt")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let connect = wire::encode("connect", &client::fields(&[("id", "behind")]), "3.1.1");
    // What is refused is closed, perhaps before all of it is sent.
    let _ = stream.write_all(&[header, &connect].concat());
    let mut answer = [0; 4];
    let read = stream.read(&mut answer).unwrap_or(0);
    answer[..read].to_vec()
}

fn binary_header(ip: [u8; 4]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    bytes.extend(ip);
    bytes.extend([127, 0, 0, 1, 0xdc, 0x04, 0x07, 0x5b]);
    bytes
}

#[test]
fn the_header_of_a_listed_proxy_names_the_client_in_both_versions() {
    let mut program = Program::start(BEHIND);
    assert_eq!(connack(&program, b"PROXY TCP4 192.0.2.7 127.0.0.1 56324 1883\r\n"), [0x20, 2, 0, 0]);
    assert!(program.wait_for("connected client=behind").contains("peer=192.0.2.7:56324"));
    assert_eq!(connack(&program, &binary_header([192, 0, 2, 8])), [0x20, 2, 0, 0]);
    assert!(program.wait_for("connected client=behind").contains("peer=192.0.2.8:56324"));
}

#[test]
fn a_listed_proxy_without_a_header_is_refused_with_the_remedy() {
    let mut program = Program::start(BEHIND);
    assert!(connack(&program, b"").is_empty());
    program.wait_for("no PROXY header: the proxy has to be told to send one");
}

#[test]
fn the_header_of_an_unlisted_proxy_is_refused() {
    let mut program = Program::with("").listener("proxy_protocol_from = ['192.0.2.0/24']").start();
    assert!(connack(&program, b"PROXY TCP4 192.0.2.7 127.0.0.1 56324 1883\r\n").is_empty());
    program.wait_for("connection refused");
    assert_eq!(connack(&program, b""), [0x20, 2, 0, 0]);
    assert!(program.wait_for("connected client=behind").contains("peer=127.0.0.1:"));
}

#[test]
fn limits_and_bans_apply_to_the_client_behind_the_proxy() {
    let folder = Folder::new("bans");
    let list = folder.file("bans.toml", "[[ban]]\naddress = '192.0.2.66'\n");
    let mut program = Program::start(&format!(
        "[limits]\nconnections_per_address_max = 1\n[auth]\nban_file = '{}'\n{BEHIND}",
        list.display()
    ));
    assert!(connack(&program, &binary_header([192, 0, 2, 66])).is_empty());
    program.wait_for("address 192.0.2.66 is banned");
    let mut held = TcpStream::connect(program.address("mqtt")).unwrap();
    let connect = wire::encode("connect", &client::fields(&[("id", "first")]), "3.1.1");
    held.write_all(&[binary_header([192, 0, 2, 7]), connect].concat()).unwrap();
    program.wait_for("connected client=first");
    assert!(connack(&program, &binary_header([192, 0, 2, 7])).is_empty());
    program.wait_for("limits.connections_per_address_max");
    assert_eq!(connack(&program, &binary_header([192, 0, 2, 9])), [0x20, 2, 0, 0]);
}

#[test]
fn a_health_check_of_a_proxy_is_not_logged() {
    let mut program = Program::start(BEHIND);
    drop(TcpStream::connect(program.address("mqtt")).unwrap());
    assert!(
        connack(&program, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0").is_empty(),
        "LOCAL: there is nobody to serve"
    );
    assert_eq!(connack(&program, &binary_header([192, 0, 2, 9])), [0x20, 2, 0, 0]);
    program.wait_for("connected client=behind");
    let log = program.log.lock().unwrap().clone();
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn haproxy_passes_clients_on_with_their_addresses() {
    let haproxy = Path::new("/usr/sbin/haproxy");
    if !is_there("haproxy", haproxy) {
        return;
    }
    let mut program = Program::start(BEHIND);
    let folder = Folder::new("haproxy");
    for (version, send) in [("v1", "send-proxy"), ("v2", "send-proxy-v2")] {
        let port = free_port();
        let config = folder.file(
            &format!("{version}.cfg"),
            &format!(
                "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n\
                 frontend mqtt\n  bind 127.0.0.1:{port}\n  default_backend broker\n\
                 backend broker\n  server lapwing {} {send}\n",
                program.address("mqtt")
            ),
        );
        let child =
            Command::new(haproxy).arg("-f").arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let _haproxy = Killed(child.unwrap());
        let patience = Instant::now() + Duration::from_secs(20);
        let (mut client, mine) = loop {
            if let Ok((client, _)) =
                client::Client::connect(&format!("127.0.0.1:{port}"), "5.0", &[("id", version)])
            {
                break (client, version);
            }
            assert!(Instant::now() < patience, "haproxy does not serve");
            std::thread::sleep(Duration::from_millis(50));
        };
        client.publish("through", "the proxy", &[]);
        let line = program.wait_for(&format!("connected client={mine}"));
        let connected = line.split("peer=").nth(1).unwrap();
        assert!(!connected.starts_with(&format!("127.0.0.1:{port}")), "{line}");
    }
}
