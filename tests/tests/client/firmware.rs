//! Firmware on an emulated microcontroller against the broker: over a UART, and over Ethernet while
//! the broker is killed.
//!
//! `./check` builds it; `LAPWING_FIRMWARE` is the folder of the programs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lapwing_client::dialers::std::TcpDialer;
use lapwing_client::{Client, Config, Event, QoS};
use lapwing_tests::program::{Folder, Program, free_port, is_there};

const PATIENCE: Duration = Duration::from_secs(60);

/// The firmware and the emulator, or a line that says what is missing.
fn firmware(name: &str) -> Option<PathBuf> {
    let folder =
        std::env::var_os("LAPWING_FIRMWARE").map_or_else(|| PathBuf::from("firmware"), PathBuf::from);
    let path = folder.join(name);
    let there = is_there("the firmware for QEMU (LAPWING_FIRMWARE)", &path)
        && is_there("qemu-system-arm", Path::new("qemu-system-arm"));
    there.then_some(path)
}

/// The emulated board; dropping it ends it.
struct Board(Child);

impl Board {
    fn start(firmware: &Path, arguments: &[&str], more: &[&str]) -> Board {
        let mut semihosting = "enable=on,target=native,arg=firmware".to_owned();
        arguments.iter().for_each(|argument| semihosting.push_str(&format!(",arg={argument}")));
        let child = Command::new("qemu-system-arm")
            .args(["-cpu", "cortex-m3", "-machine", "lm3s6965evb", "-display", "none", "-monitor", "none"])
            .args(["-semihosting-config", &semihosting])
            .args(more)
            .arg("-kernel")
            .arg(firmware)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the emulator starts");
        Board(child)
    }

    /// True if it ended well, false if not, `None` while it runs.
    fn ended(&mut self) -> Option<bool> {
        self.0.try_wait().expect("a child").map(|status| status.success())
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Somebody else at the same broker: the same client, on this machine.
struct Witness {
    client: Client<'static, 1024, 512>,
    net: TcpDialer,
    heard: Vec<(String, String)>,
    subscribed: bool,
}

impl Witness {
    fn new(address: &str) -> Witness {
        let config = Config::new("witness").backoff_ms(50, 200).session_expiry_s(3_600);
        let mut client = Client::new(config);
        let filter = lapwing_client::Subscription::new("qemu/#", QoS::ExactlyOnce);
        let _ = client.subscribe(filter).expect("room");
        let mut witness =
            Witness { client, net: TcpDialer::new(address), heard: Vec::new(), subscribed: false };
        witness.until("the subscription", |witness| witness.subscribed);
        witness
    }

    fn until(&mut self, what: &str, done: impl Fn(&Witness) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < until, "waited in vain for {what}; heard {:?}", self.heard);
            self.turn();
        }
    }

    fn turn(&mut self) {
        let mut idle = false;
        match self.client.poll(&mut self.net) {
            Some(Ok(Event::Message(message))) => {
                let payload = String::from_utf8_lossy(message.payload()).into_owned();
                self.heard.push((message.topic().to_owned(), payload));
            }
            Some(Ok(Event::Delivered(_))) => self.subscribed = true,
            Some(Ok(_)) => {}
            Some(Err(error)) => panic!("{error}"),
            None => idle = true,
        }
        if idle {
            lapwing_client::blocking::Dialer::idle(&mut self.net, 5);
        }
    }

    fn heard_on<'w>(&'w self, topic: &'w str) -> impl Iterator<Item = &'w str> + 'w {
        self.heard.iter().filter(move |(heard, _)| heard == topic).map(|(_, payload)| &payload[..])
    }
}

/// Every QoS in both versions over a UART whose other end is the port of a broker.
fn uart(firmware: &Path, address: &str) {
    let (host, port) = address.rsplit_once(':').expect("a port");
    let host = if host == "localhost" { "127.0.0.1" } else { host };
    for version in ["3", "5"] {
        for qos in ["0", "1", "2"] {
            let mut witness = Witness::new(address);
            let chardev = format!("socket,id=u0,host={host},port={port}");
            let mut board = Board::start(
                firmware,
                &[version, qos, "50"],
                &["-chardev", &chardev, "-serial", "chardev:u0"],
            );
            witness.until("fifty numbers", |witness| witness.heard_on("qemu/up").count() >= 50);
            let quality =
                [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][qos.parse::<usize>().unwrap()];
            let _ = witness.client.publish("qemu/down", b"a question", quality).expect("room");
            witness.until("the echo", |witness| witness.heard_on("qemu/echo").count() >= 1);
            let _ = witness.client.publish("qemu/down", b"stop", quality).expect("room");
            let until = Instant::now() + PATIENCE;
            let good = loop {
                assert!(Instant::now() < until, "the firmware does not end");
                witness.turn();
                if let Some(good) = board.ended() {
                    break good;
                }
            };
            assert!(good, "the firmware ended badly, version {version}, QoS {qos}");
            let expected: Vec<_> = (0..50).map(|n| n.to_string()).collect();
            assert!(witness.heard_on("qemu/up").eq(expected.iter().map(|n| &n[..])), "{:?}", witness.heard);
            assert_eq!(witness.heard_on("qemu/echo").collect::<Vec<_>>(), ["a question"]);
            witness.client.hang_up(&mut witness.net, lapwing_client::ReasonCode::Success);
        }
    }
}

#[test]
fn over_a_uart_every_qos_of_both_versions_reaches_lapwing_and_comes_back() {
    let Some(firmware) = firmware("uart") else { return };
    let broker = Program::start("[store]\nin_memory = true\n");
    uart(&firmware, &broker.address("mqtt"));
}

#[test]
fn over_a_uart_every_qos_of_both_versions_reaches_mosquitto_and_comes_back() {
    let Some(firmware) = firmware("uart") else { return };
    let mosquitto = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/opt/homebrew/sbin/mosquitto"];
    let found = mosquitto.iter().map(Path::new).find(|path| path.is_file());
    let path = found.unwrap_or(Path::new("mosquitto"));
    if !is_there("mosquitto", path) {
        return;
    }
    let folder = Folder::new("mosquitto");
    let port = free_port();
    let file = folder.file("mosquitto.conf", &format!("listener {port} 127.0.0.1\nallow_anonymous true\n"));
    let broker =
        Command::new(path).arg("-c").arg(file).stderr(Stdio::null()).spawn().expect("mosquitto starts");
    let _broker = Board(broker);
    let until = Instant::now() + PATIENCE;
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < until, "mosquitto does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    uart(&firmware, &format!("127.0.0.1:{port}"));
}

#[test]
fn over_ethernet_nothing_is_lost_or_doubled_while_the_broker_is_killed_three_times() {
    let Some(firmware) = firmware("tcp") else { return };
    const ALL: usize = 500;
    for version in ["3", "5"] {
        let state = Folder::new("state");
        let port = free_port();
        let toml = format!("[[listener]]\naddress = '127.0.0.1:{port}'\n");
        let start = || Program::with(&toml).state(&state).start();
        let mut broker = start();
        let mut witness = Witness::new(&format!("127.0.0.1:{port}"));
        let mut board = Board::start(
            &firmware,
            &[version, &port.to_string(), &ALL.to_string()],
            &["-nic", "user,model=stellaris"],
        );
        for kills in 1..=3 {
            witness.until("more messages", |witness| witness.heard.len() >= kills * ALL / 2);
            broker.signal("KILL");
            broker.wait();
            broker = start();
        }
        let until = Instant::now() + 2 * PATIENCE;
        let (mut ones, mut twos) = (0, 0);
        while board.ended().is_none() || ones < ALL || twos < ALL {
            assert!(Instant::now() < until, "{ones} and {twos} of {ALL}, {:?}", board.ended());
            witness.turn();
            let distinct =
                |topic: &str| witness.heard_on(topic).collect::<std::collections::BTreeSet<_>>().len();
            (ones, twos) = (distinct("qemu/one"), distinct("qemu/two"));
        }
        assert_eq!(board.ended(), Some(true));
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        witness.heard_on("qemu/two").for_each(|payload| *counts.entry(payload).or_default() += 1);
        assert!(counts.values().all(|count| *count == 1), "QoS 2: {counts:?}");
        let mut first = Vec::new();
        for payload in witness.heard_on("qemu/one") {
            if !first.contains(&payload) {
                first.push(payload);
            }
        }
        assert!(first.is_sorted(), "QoS 1 came in this order: {first:?}");
        assert_eq!(first.len(), ALL);
    }
}
