//! The birth message: others see that the client is back.

mod support;

use lapwing_client::{Config, Error, Property, QoS, ReasonCode, Version, Will};
use support::{Bench, Seen};

const BOTH: [Version; 2] = [Version::V311, Version::V5];

type TestBench = Bench<'static, 512, 128>;

fn config() -> Config<'static> {
    let will = Will::new("s/up", b"0").retained();
    Config::new("s17").will_with(will).birth("s/up", b"1").subscribe("led", QoS::AtLeastOnce)
}

#[test]
fn the_birth_message_leaves_first_on_each_connection() {
    for version in BOTH {
        let mut bench = TestBench::new(version, config());
        let _ = bench.client.publish("a", b"x", QoS::AtLeastOnce).unwrap();
        for session_present in [false, true] {
            bench.accept(session_present, &[]);
            let sent = bench.sent();
            assert_eq!(sent[0], "Publish 0 retain s/up 1");
            assert!(sent[1].starts_with("Subscribe") && sent[2].starts_with("Publish 1"), "{sent:?}");
            bench.lose();
        }
    }
}

#[test]
fn a_full_outbox_does_not_keep_the_birth_message() {
    for version in BOTH {
        let mut bench: Bench<'_, 64, 128> = Bench::new(version, config());
        while bench.client.publish("a", b"x", QoS::AtLeastOnce).is_ok() {}
        bench.accept(false, &[]);
        assert_eq!(bench.sent()[0], "Publish 0 retain s/up 1");
    }
}

#[test]
fn the_birth_message_is_retained_if_the_will_is_and_the_server_can() {
    let plain = Config::new("s17").will("s/up", b"0").birth("s/up", b"1");
    let mut bench = TestBench::connected(Version::V5, plain, &[]);
    assert_eq!(bench.sent(), ["Publish 0 s/up 1"]);
    let mut bench = TestBench::connected(Version::V5, config(), &[Property::RetainAvailable(0)]);
    assert_eq!(bench.sent()[0], "Publish 0 s/up 1");
}

#[test]
fn a_birth_message_that_cannot_be_sent_is_told() {
    for (topic, payload) in [("s/up", &[b'x'; 200][..]), ("s/#", b"1"), ("", b"1")] {
        let mut bench = TestBench::new(Version::V5, Config::new("s17").birth(topic, payload));
        assert_eq!(bench.poll(), []);
        bench.connack(false, ReasonCode::Success, &[]);
        assert_eq!(bench.poll(), [Seen::Connected(false), Seen::Failed(Error::ConfigTooLarge)]);
        assert!(bench.client.is_connected());
    }
}
