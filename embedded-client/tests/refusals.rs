//! Attempts to connect that fail: the application hears of each.

mod support;

use lapwing_client::{Client, Config, Error, ReasonCode, Version};
use support::line::{Line, run_for};
use support::{Bench, Seen};

const BOTH: [Version; 2] = [Version::V311, Version::V5];

type TestBench = Bench<'static, 512, 128>;

fn config() -> Config<'static> {
    Config::new("s17").response_timeout_ms(3_000)
}

/// Returns the events after an answer to CONNECT, by both functions that report them.
fn told(version: Version, answer: &[u8]) -> Vec<Seen> {
    let mut bench = TestBench::new(version, config());
    assert_eq!(bench.poll(), []);
    bench.say_bytes(answer);
    let told = bench.poll();
    assert!(!bench.client.is_connected() && !bench.wire().up);
    assert_eq!(bench.client.failures(), 1, "{answer:02x?}");

    let mut other = TestBench::new(version, config());
    assert_eq!(other.poll(), []);
    other.say_bytes(answer);
    let mut line = Line::new(&other.net);
    let next = run_for(&other.net, 100, other.client.next(&mut line));
    let error = next.map(|message| Seen::Failed(message.map(|_| ()).unwrap_err()));
    assert_eq!(told.first(), error.as_ref(), "next hears it, too");
    told
}

#[test]
fn a_server_without_mqtt_5_is_told_as_unsupported_version() {
    for code in 1..=255 {
        let told = told(Version::V5, &[0x20, 2, 0, code]);
        assert_eq!(told, [Seen::Failed(Error::Refused(ReasonCode::UnsupportedProtocolVersion))], "{code}");
    }
}

#[test]
fn every_code_of_a_connack_is_told_as_a_refusal() {
    for code in 1..=255u8 {
        // The server is busy: waiting cures it.
        let passing: &[u8] = &[3];
        let told = told(Version::V311, &[0x20, 2, 0, code]);
        match &told[..] {
            [Seen::Failed(Error::Refused(reason))] => assert!(reason.is_failure(), "{code}"),
            [] => assert!(passing.contains(&code), "{code}"),
            other => panic!("{code}: {other:?}"),
        }
    }
    for code in 1..=255u8 {
        let passing = [0x88, 0x89, 0x9f];
        let told = told(Version::V5, &[0x20, 3, 0, code, 0]);
        match &told[..] {
            [Seen::Failed(Error::Refused(reason))] => assert!(reason.is_failure(), "{code}"),
            [] => assert!(passing.contains(&code), "{code}"),
            other => panic!("{code}: {other:?}"),
        }
    }
}

#[test]
fn a_connack_that_breaks_the_rules_is_told() {
    let cases: [(Version, &[u8]); 4] = [
        (Version::V311, &[0x20, 2, 2, 0]),
        (Version::V311, &[0x20, 3, 0, 0, 0]),
        (Version::V5, &[0x20, 2, 0, 0]),
        (Version::V5, &[0x20, 3, 2, 0, 0]),
    ];
    for (version, answer) in cases {
        assert!(matches!(told(version, answer)[..], [Seen::Failed(Error::Refused(_))]), "{answer:02x?}");
    }
}

#[test]
fn attempts_without_an_answer_are_counted_until_a_connection_holds() {
    for version in BOTH {
        let mut bench = TestBench::new(version, config().backoff_ms(1, 1));
        assert_eq!(bench.client.failures(), 0);
        // Nobody listens.
        bench.wire().answers = false;
        assert_eq!((bench.poll(), bench.client.failures()), (vec![], 1));
        bench.wire().answers = true;
        // The server closes the link.
        bench.pass_ms(1);
        assert_eq!(bench.poll(), []);
        bench.wire().up = false;
        assert_eq!((bench.poll(), bench.client.failures()), (vec![], 2));
        // It does not answer in time.
        bench.pass_ms(1);
        assert_eq!(bench.poll(), []);
        bench.pass_ms(3_000);
        assert_eq!((bench.poll(), bench.client.failures()), (vec![], 3));
        // It answers with something else, as a web server does, and closes the link.
        bench.pass_ms(1);
        assert_eq!(bench.poll(), []);
        bench.say_bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        assert_eq!(bench.poll(), []);
        bench.wire().up = false;
        assert_eq!((bench.poll(), bench.client.failures()), (vec![], 4));
        // It is busy.
        bench.pass_ms(1);
        assert_eq!(bench.poll(), []);
        bench.connack(false, ReasonCode::ServerUnavailable, &[]);
        assert_eq!((bench.poll(), bench.client.failures()), (vec![], 5));
        bench.pass_ms(1);
        bench.accept(false, &[]);
        assert_eq!(bench.client.failures(), 0);
        // A connection that breaks at once is one more, and one that lasted is the first.
        bench.wire().up = false;
        assert_eq!(bench.poll(), [Seen::Disconnected(None)]);
        assert_eq!(bench.client.failures(), 6);
        bench.pass_ms(1);
        bench.accept(false, &[]);
        bench.pass_ms(11_000);
        bench.wire().up = false;
        assert_eq!(bench.poll(), [Seen::Disconnected(None)]);
        assert_eq!(bench.client.failures(), 1);
    }
}

#[test]
fn a_goodbye_is_no_failure() {
    let mut bench = TestBench::new(Version::V5, config());
    bench.client.hang_up(&mut bench.net, ReasonCode::Success);
    bench.accept(false, &[]);
    bench.client.hang_up(&mut bench.net, ReasonCode::Success);
    assert_eq!(bench.client.failures(), 0);
}

#[test]
fn a_client_that_was_never_used_has_no_failures() {
    assert_eq!(Client::<64, 64>::new(config()).failures(), 0);
}

// The server may end a connection without giving a reason. Calling again at once would be a loop.
#[test]
fn a_server_that_says_goodbye_without_a_reason_is_called_again_after_a_pause() {
    let mut bench = TestBench::connected(Version::V5, config(), &[]);
    bench.say_bytes(&[0xe0, 0]);
    assert_eq!(bench.poll(), [Seen::Disconnected(None)]);
    assert_eq!(bench.wire().dials, 1);
    bench.pass_ms(60_000);
    assert_eq!(bench.poll(), []);
    assert_eq!(bench.wire().dials, 2);
}
