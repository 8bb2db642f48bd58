//! A session inside the broker's process (`Broker::local`), beside clients with sockets.

use std::time::Duration;

use lapwing::{Local, LocalError, QoS};
use lapwing_tests::client::Client;
use lapwing_tests::inside::Inside;

const PATIENCE: Duration = Duration::from_secs(20);

fn connect(broker: &Inside, id: &str) -> Client {
    Client::connect(&broker.mqtt, "5.0", &[("id", id), ("clean", "1")]).expect("it connects").0
}

fn payloads(broker: &Inside, local: &mut Local, count: usize) -> Vec<String> {
    let next = || {
        let message = broker
            .runtime
            .block_on(async { tokio::time::timeout(PATIENCE, local.next()).await })
            .expect("a message comes");
        let payload = String::from_utf8_lossy(message.payload()).into_owned();
        local.ack(message);
        payload
    };
    std::iter::repeat_with(next).take(count).collect()
}

#[test]
fn a_local_session_and_a_client_exchange_messages_in_both_directions() {
    let broker = Inside::start("");
    let mut local = broker.local("unit");
    local.subscribe("up/#", QoS::ExactlyOnce).unwrap();
    let mut client = connect(&broker, "c");
    assert_eq!(client.subscribe("down/#@1"), "1");
    for n in 0..200 {
        client.publish("up/x", &n.to_string(), &[]);
    }
    let expected: Vec<String> = (0..200).map(|n| n.to_string()).collect();
    assert_eq!(payloads(&broker, &mut local, 200), expected);
    let matched = broker.runtime.block_on(local.publish("down/x", b"hi", QoS::AtLeastOnce, false)).unwrap();
    let message = client.expect("publish");
    assert_eq!((matched, message["payload"].as_str()), (1, "hi"));
    assert!(local.unsubscribe("up/#") && !local.unsubscribe("up/#"));
    assert_eq!(client.publish("up/x", "nobody", &[])["reason"], "16");
}

#[test]
fn retained_messages_come_first_and_are_kept_for_clients_too() {
    let broker = Inside::start("");
    let mut local = broker.local("unit");
    broker.runtime.block_on(local.publish("r/1", b"old", QoS::AtMostOnce, true)).unwrap();
    local.subscribe("r/+", QoS::AtMostOnce).unwrap();
    broker.runtime.block_on(local.publish("r/2", b"new", QoS::AtMostOnce, false)).unwrap();
    assert_eq!(payloads(&broker, &mut local, 2), ["old", "new"]);
    let mut client = connect(&broker, "c");
    client.subscribe("r/#@0");
    assert_eq!(client.expect("publish")["payload"], "old");
}

#[test]
fn many_retained_messages_come_a_step_at_a_time_and_each_once() {
    let broker = Inside::start("");
    let mut local = broker.local("unit");
    for n in 0..300 {
        let topic = format!("many/{n:03}");
        broker.runtime.block_on(local.publish(&topic, topic.as_bytes(), QoS::AtMostOnce, true)).unwrap();
    }
    local.subscribe("many/#", QoS::AtMostOnce).unwrap();
    let mut got = payloads(&broker, &mut local, 300);
    got.sort();
    assert_eq!(got, (0..300).map(|n| format!("many/{n:03}")).collect::<Vec<_>>());
    let deep = "a/".repeat(2_000);
    assert!(local.subscribe(&format!("{deep}#"), QoS::AtMostOnce).is_err());
    let refused = broker.runtime.block_on(local.publish(&deep, b"x", QoS::AtMostOnce, false)).unwrap_err();
    assert!(refused.to_string().contains("topic_limit"), "{refused}");
}

#[test]
fn without_acknowledgements_the_window_bounds_what_is_in_flight() {
    let broker = Inside::start("[limits]\nin_flight_max = 2\n");
    let mut local = broker.local("unit");
    local.subscribe("t", QoS::AtLeastOnce).unwrap();
    let mut open = Vec::new();
    broker.runtime.block_on(async {
        for n in 0..3 {
            local.publish("t", &[b'0' + n], QoS::AtLeastOnce, false).await.unwrap();
        }
        open.push(local.next().await);
        open.push(local.next().await);
        let none = tokio::time::timeout(Duration::from_millis(50), local.next()).await;
        assert!(none.is_err(), "two are in flight");
        local.ack(open.remove(0));
        assert_eq!(local.next().await.payload(), b"2");
    });
}

#[test]
fn a_dropped_local_session_leaves_its_share_to_the_other_members() {
    let broker = Inside::start("");
    let mut local = broker.local("unit");
    local.subscribe("$share/g/jobs", QoS::AtLeastOnce).unwrap();
    let mut client = connect(&broker, "c");
    for n in 0..4 {
        client.publish("jobs", &n.to_string(), &[]);
    }
    let mut other = connect(&broker, "other");
    other.subscribe("$share/g/jobs@1");
    broker.runtime.block_on(async { drop(local) });
    let mut got: Vec<String> = (0..4).map(|_| other.expect("publish")["payload"].clone()).collect();
    got.sort();
    assert_eq!(got, ["0", "1", "2", "3"]);
}

#[test]
fn a_wrong_topic_is_an_error_with_words_and_figures_are_those_of_metrics() {
    let broker = Inside::start("[limits]\nretained_messages_max = 1\n[mqtt]\nsys_interval_s = 0\n");
    let mut local = broker.local("unit");
    let mut publish =
        |topic: &str, retain| broker.runtime.block_on(local.publish(topic, b"x", QoS::AtLeastOnce, retain));
    for topic in ["", "a/#", "$SYS/broker/version"] {
        assert!(matches!(publish(topic, false), Err(LocalError::Topic(_))), "{topic}");
    }
    assert_eq!(publish("one", true), Ok(0));
    let full = publish("two", true).unwrap_err();
    assert!(full.to_string().contains("limits.retained_messages_max"), "{full}");
    assert!(local.subscribe("a/#/b", QoS::AtMostOnce).is_err());
    let figures = broker.figures();
    assert!(figures.contains("\nlapwing_retained_messages 1\n"), "{figures}");
}
