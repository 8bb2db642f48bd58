//! A configuration that changes while clients are connected.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lapwing::Broker;
use lapwing::internals::config::Config;
use lapwing_tests::client::Client;
use lapwing_tests::program::{Folder, Program, free_port};

/// Number of clients that are connected meanwhile.
const CLIENTS: usize = 1_000;

/// A broker with a configuration that the test may change.
struct Changing {
    broker: Program,
    file: PathBuf,
    _folder: Folder,
}

impl Changing {
    fn start(toml: &str) -> Changing {
        let folder = Folder::new("changing");
        let broker = Program::with(toml).state(&folder).start();
        Changing { broker, file: folder.0.join("lapwing.toml"), _folder: folder }
    }

    /// Writes another configuration and waits for what the log says of it.
    fn change(&mut self, toml: &str, said: &str) -> String {
        std::fs::write(&self.file, toml).unwrap();
        self.broker.signal("HUP");
        self.broker.wait_for(said)
    }

    fn client(&self, id: &str) -> Client {
        Client::connect(&self.broker.address("mqtt"), "5.0", &[("id", id)]).unwrap().0
    }
}

const ONE: &str = "[[listener]]\naddress = '127.0.0.1:0'\n";

#[test]
fn reloads_under_a_thousand_clients_drop_none_and_a_broken_file_changes_nothing() {
    let mut changing = Changing::start(ONE);
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let mut client = changing.client(&format!("c{n}"));
            client.subscribe("count@0");
            client
        })
        .collect();
    let mut publisher = changing.client("publisher");
    let over = Arc::new(AtomicBool::new(false));
    let until = over.clone();
    let counting = std::thread::spawn(move || {
        let mut count = 0;
        while !until.load(Ordering::Relaxed) {
            publisher.publish("count", &count.to_string(), &[]);
            count += 1;
        }
        publisher.publish("count", "last", &[]);
        count
    });
    for n in 0..10 {
        let limits = format!("[limits]\nqueued_messages_max = {}\nreceive_maximum = {}\n", 500 + n, 10 + n);
        changing.change(&format!("{limits}{ONE}{ONE}transport = 'ws'\n"), "reloaded (asked to)");
        changing.change("[limits]\nqueued_messages_max = 0\n[[listener]]\n", "NOT reloaded");
        changing.change(&format!("{limits}{ONE}"), "reloaded (asked to)");
    }
    over.store(true, Ordering::Relaxed);
    let count = counting.join().unwrap();
    assert!(count > 30, "only {count} messages came between the reloads");
    let expected: Vec<String> = (0..count).map(|n| format!("count {n}")).collect();
    for client in &mut clients {
        assert_eq!(client.messages_until("last"), expected);
    }
}

#[test]
fn removing_a_listener_disconnects_only_its_own_clients() {
    let mut changing = Changing::start(ONE);
    let mut stays = changing.client("stays");
    let added = "[[listener]]\nname = 'guests'\naddress = 'localhost:0'\naddress_family = 'ipv6'\n";
    changing.change(&format!("{ONE}{added}"), "reloaded");
    let address = changing.broker.listeners.last().unwrap().replace("mqtt://", "");
    assert!(address.starts_with("[::1]:"), "{address}");
    let (guest, _) = Client::connect(&address, "5.0", &[("id", "guest")]).unwrap();
    changing.change(ONE, "closed the listener");
    assert_eq!(guest.end().as_deref(), Some("152"), "administrative action");
    assert!(Client::connect(&address, "5.0", &[("id", "late")]).is_err());
    stays.subscribe("a@1");
    stays.publish("a", "last", &[]);
    assert!(stays.messages_until("last").is_empty());
}

#[test]
fn a_changed_listener_on_the_same_address_keeps_its_clients() {
    let mut changing = Changing::start(ONE);
    let mut old = changing.client("old");
    old.subscribe("a/#@1|house/a/#@1");
    changing.change(&format!("{ONE}connections_max = 2\n"), "reloaded");
    let address = changing.broker.address("mqtt");
    let second = changing.client("second");
    assert!(Client::connect(&address, "3.1.1", &[("id", "third")]).is_err(), "the two that it has count");
    changing.change(&format!("{ONE}transport = 'ws'\n"), "reloaded");
    assert!(Client::connect(&address, "3.1.1", &[("id", "plain")]).is_err());
    changing.broker.wait_for("this looks like plain MQTT on a WebSocket listener");
    let (mut new, _) = Client::knock_ws(&address, "/mqtt", "3.1.1", &[("id", "new")]).unwrap();
    new.publish("a/1", "one", &[]);
    drop((new, second));
    changing.change(&format!("{ONE}mount_point = 'house/'\n"), "reloaded");
    let mut mounted = changing.client("mounted");
    mounted.publish("a/2", "last", &[]);
    // Its own subscriptions are whole names: what is below the mount point comes without it, the
    // rest is not of its world.
    assert_eq!(old.messages_until("last"), ["a/1 one"]);
}

#[test]
fn a_listener_moves_to_an_overlapping_address_or_stays_where_it_was() {
    let (port, taken) = (free_port(), TcpListener::bind("127.0.0.1:0").unwrap());
    let taken = taken.local_addr().map(|address| (taken, address.port())).unwrap();
    let at = |host: &str, port: u16| format!("[[listener]]\naddress = '{host}:{port}'\n");
    let mut changing = Changing::start(&at("127.0.0.1", port));
    let both = format!("{}{}", at("localhost", port), at("127.0.0.1", taken.1));
    let told = changing.change(&both, "NOT reloaded");
    assert!(told.contains("another program"), "{told}");
    changing.client("there again");
    changing.change(&at("localhost", port), "reloaded");
    Client::connect(&format!("[::1]:{port}"), "5.0", &[("id", "moved")]).unwrap();
    changing.client("still there");
}

#[test]
fn new_limits_apply_at_once_but_not_to_values_a_client_was_told() {
    let mut changing = Changing::start(ONE);
    let mut old = changing.client("old");
    let limits = "[limits]\nsubscriptions_max = 1\npacket_bytes_max = 1000\n[mqtt]\nqos_max = 0\n";
    let line = changing.change(&format!("{limits}{ONE}"), "changed: ");
    assert!(line.contains("mqtt.qos_max, limits.packet_bytes_max, limits.subscriptions_max"), "{line}");
    assert_eq!(old.subscribe("a@1|b@1"), "1|151", "the second one is above the new limit");
    old.publish("a", &"x".repeat(2_000), &[]);
    let (_, connack) = Client::knock(&changing.broker.address("mqtt"), "5.0", &[("id", "new")]).unwrap();
    assert_eq!(
        (connack["p.packet_max"].as_str(), connack["p.qos_max"].as_str()),
        ("1000", "0"),
        "{connack:?}"
    );
}

/// A reload calls the log level when it has read its files: the moment to change one of them.
#[test]
fn a_file_that_changes_while_a_reload_goes_on_is_read_again() {
    let folder = Folder::new("meanwhile");
    let bans = folder.0.join("bans.toml");
    let config = |level: &str| {
        let file = bans.display();
        let text = format!(
            "[store]\nin_memory = true\n[log]\nlevel = '{level}'\n[auth]\nban_file = '{file}'\n{ONE}"
        );
        Config::from_toml(&text, "embedded").unwrap()
    };
    let write = bans.clone();
    let meanwhile = move |_: &str| {
        std::fs::write(&write, "[[ban]]\nclient = 'victim'\n").map_err(|error| error.to_string())
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let start = Broker::builder().config(config("info")).log_level(meanwhile).start();
    let broker = runtime.block_on(start).unwrap();
    let address = broker.listeners()[0].strip_prefix("mqtt://").unwrap().to_owned();
    let (victim, _) = Client::connect(&address, "5.0", &[("id", "victim")]).unwrap();
    runtime.block_on(broker.reload_with(config("debug"))).unwrap();
    assert_eq!(victim.end().as_deref(), Some("152"), "0x98");
    runtime.block_on(broker.stop());
}

#[test]
fn the_log_level_changes_and_keys_that_need_a_restart_are_named() {
    let mut changing = Changing::start(ONE);
    let told = changing.change(
        &format!("[log]\nlevel = 'debug'\nformat = 'json'\n[store]\nwindow_bytes = '64MiB'\n{ONE}"),
        "only a restart",
    );
    assert!(told.contains("store.window_bytes, log.format"), "{told}");
    changing.client("c").subscribe("a@1");
    let line = changing.broker.wait_for("subscribed");
    assert!(line.contains("DEBUG"), "{line}");
}

#[test]
fn a_program_that_embeds_the_broker_puts_another_configuration_in_force() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let memory = "[store]\nin_memory = true\n";
        let config = |more: &str| Config::from_toml(&format!("{memory}{more}"), "embedded").unwrap();
        let broker = Broker::builder().config(config(ONE)).start().await.unwrap();
        let first = broker.listeners();
        let with_two = config(&format!("cache_bytes = '2MiB'\n{ONE}{ONE}"));
        assert_eq!(broker.reload_with(with_two).await.unwrap().restart, ["store.cache_bytes"]);
        assert_eq!((broker.listeners().len(), &broker.listeners()[0]), (2, &first[0]));
        let refused = broker.reload_with(config("[[listener]]\naddress = '0.0.0.0:0'\n")).await.unwrap_err();
        assert!(refused.contains("open = true"), "{refused}");
        assert_eq!(broker.listeners().len(), 2);
        // Nobody said where the configuration comes from: the files are read, and it stays.
        assert!(broker.reload().await.unwrap().restart.is_empty());
        broker.stop().await;
    });
}
