//! Two features at once, and the second time round: a bound that was reached, drained and is
//! reached again; a flag that comes through a restart; a limit that a reload lowers.

use std::time::{Duration, Instant};

use lapwing_tests::client::Client;
use lapwing_tests::program::{Folder, Program};

const KEPT: [(&str, &str); 2] = [("clean", "0"), ("p.session_expiry", "3600")];

fn kept(broker: &Program, id: &str) -> (Client, bool) {
    Client::connect(&broker.address("mqtt"), "5.0", &[&[("id", id)], &KEPT[..]].concat()).unwrap()
}

/// Messages in the queue of a client that is away, until the bound of all queues is reached.
fn fill(broker: &Program, publisher: &mut Client) -> usize {
    for n in 0..40 {
        publisher.publish("q", &format!("{n} {}", "x".repeat(900)), &[]);
    }
    publisher.publish("end", "end", &[]);
    let (mut away, there) = kept(broker, "away");
    assert!(there);
    // Its own message, behind those that were kept.
    away.subscribe("own@0");
    away.send("publish", &[("topic", "own"), ("payload", "last"), ("qos", "0")]).unwrap();
    let came = away.messages_until("last").len();
    away.subscribe("q@1");
    away.leave();
    came
}

#[test]
fn the_bound_of_all_queues_is_reached_drained_and_reached_again() {
    let broker = Program::start("[limits]\nqueued_messages_max = 1\n[store]\nqueues_bytes_max = 20000\n");
    let (mut away, _) = kept(&broker, "away");
    away.subscribe("q@1");
    away.leave();
    let (mut publisher, _) = Client::connect(&broker.address("mqtt"), "5.0", &[("id", "publisher")]).unwrap();
    let first = fill(&broker, &mut publisher);
    assert!((10..40).contains(&first), "{first} of 40 were kept");
    for round in 1..4 {
        assert_eq!(fill(&broker, &mut publisher), first, "round {round}");
    }
}

#[test]
fn a_queued_message_keeps_its_retain_flag_over_a_restart() {
    let folder = Folder::new("retain-restart");
    let mut broker = Program::with("").state(&folder).start();
    let (mut away, _) = kept(&broker, "away");
    // QoS 1, Retain As Published; and a subscription whose flag is cleared.
    away.subscribe("kept@9|plain@1");
    away.leave();
    let (mut publisher, _) = Client::connect(&broker.address("mqtt"), "5.0", &[("id", "publisher")]).unwrap();
    for topic in ["kept", "plain"] {
        publisher.publish(topic, "flag", &[("retain", "1")]);
        publisher.publish(topic, "none", &[]);
    }
    broker.signal("TERM");
    broker.wait();
    let broker = Program::with("").state(&folder).start();
    let (mut away, there) = kept(&broker, "away");
    assert!(there);
    let came: Vec<_> = (0..4)
        .map(|_| {
            let message = away.expect("publish");
            away.send("puback", &[("id", &message["id"])]).unwrap();
            format!("{} {} {}", message["topic"], message["payload"], message["retain"])
        })
        .collect();
    assert_eq!(came, ["kept flag 1", "kept none 0", "plain flag 0", "plain none 0"]);
}

#[test]
fn a_will_that_is_no_text_and_does_not_say_so_is_published_as_it_is() {
    let broker = Program::start("");
    let address = broker.address("mqtt");
    let (mut watcher, _) = Client::connect(&address, "5.0", &[("id", "watcher")]).unwrap();
    watcher.subscribe("w@1");
    let all = [("id", "binary"), ("will", "w"), ("will_payload", "hex:ff00fe")];
    let (binary, _) = Client::connect(&address, "5.0", &all).unwrap();
    drop(binary);
    assert_eq!(watcher.expect("publish")["payload"], "hex:ff00fe");
}

#[test]
fn an_own_message_comes_by_the_subscription_that_wants_it_whatever_the_order() {
    let broker = Program::start("");
    // QoS 1, and QoS 1 with No Local.
    for (n, filters) in ["t/a@1|t/#@5", "t/#@5|t/a@1", "t/a@5|t/#@1", "t/#@1|t/a@5"].into_iter().enumerate() {
        let (mut client, _) =
            Client::connect(&broker.address("mqtt"), "5.0", &[("id", &format!("own-{n}"))]).unwrap();
        client.subscribe(filters);
        client.publish("t/a", "own", &[]);
        assert_eq!(client.expect("publish")["payload"], "own", "{filters}");
        assert_eq!(client.subscribe("none@0"), "0");
    }
    // With No Local alone it does not come.
    let (mut client, _) = Client::connect(&broker.address("mqtt"), "5.0", &[("id", "none")]).unwrap();
    client.subscribe("t/a@5|t/#@5|end@1");
    client.publish("t/a", "own", &[]);
    client.publish("end", "end", &[]);
    let none: [&str; 0] = [];
    assert_eq!(client.messages_until("end"), none);
}

#[test]
fn a_publisher_that_is_held_back_for_longer_than_its_keep_alive_is_not_thrown_out() {
    let broker = Program::start("[limits]\npublishes_per_client_per_s = 1\n");
    let (mut client, _) =
        Client::connect(&broker.address("mqtt"), "5.0", &[("id", "held"), ("ka", "1")]).unwrap();
    let began = Instant::now();
    for n in 0..6 {
        let id = (n + 1).to_string();
        let all = [("topic", "t"), ("payload", "x"), ("qos", "1"), ("id", &*id)];
        client.send("publish", &all).unwrap();
    }
    for _ in 0..6 {
        client.expect("puback");
    }
    assert!(began.elapsed() > Duration::from_secs(3), "it was held back: {:?}", began.elapsed());
}

#[test]
fn a_limit_that_a_reload_lowers_holds_for_who_comes_and_who_is_there() {
    let mut broker = Program::start("[limits]\nconnections_max = 0\n");
    let address = broker.address("mqtt");
    let connect = |id: &str| Client::connect(&address, "5.0", &[("id", id)]);
    let (mut first, _) = connect("first").unwrap();
    let (_second, _) = connect("second").unwrap();
    let file = broker.folder.0.join("lapwing.toml");
    let toml = std::fs::read_to_string(&file).unwrap();
    let lower = "connections_max = 2\npublishes_per_client_per_s = 1";
    std::fs::write(&file, toml.replace("connections_max = 0", lower)).unwrap();
    broker.reload();
    assert!(connect("third").is_err(), "limits.connections_max holds");
    let began = Instant::now();
    for _ in 0..4 {
        first.publish("t", "x", &[]);
    }
    assert!(began.elapsed() > Duration::from_secs(1), "the rate holds for who was connected before");
    std::fs::write(&file, toml).unwrap();
    broker.reload();
    connect("third").unwrap();
}
