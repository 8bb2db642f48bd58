//! The goodbye, in every state of the client and for both front ends.

mod support;

use lapwing_client::{Config, Event, Policy, Publication, QoS, ReasonCode, Version};
use support::line::{Line, run_for};
use support::waiting::{Patient, poll_once};
use support::{Bench, Seen};

const BOTH: [Version; 2] = [Version::V311, Version::V5];

type TestBench = Bench<'static, 512, 128>;

fn config() -> Config<'static> {
    Config::new("s17").will("s/up", b"0").response_timeout_ms(1_000)
}

/// States without a connection.
#[derive(Clone, Copy, Debug)]
enum Without {
    NeverUsed,
    NobodyListens,
    ConnackMissing,
    Refused,
    ClosedBefore,
    ServerLeft,
}

const WITHOUT: [Without; 6] = [
    Without::NeverUsed,
    Without::NobodyListens,
    Without::ConnackMissing,
    Without::Refused,
    Without::ClosedBefore,
    Without::ServerLeft,
];

fn brought_to(version: Version, state: Without) -> TestBench {
    let mut bench = TestBench::new(version, config());
    match state {
        Without::NeverUsed => {}
        Without::NobodyListens => {
            bench.wire().answers = false;
            assert_eq!(bench.poll(), []);
        }
        Without::ConnackMissing => assert_eq!(bench.poll(), []),
        Without::Refused => {
            assert_eq!(bench.poll(), []);
            bench.connack(false, ReasonCode::NotAuthorized, &[]);
            assert_eq!(
                bench.poll(),
                [Seen::Failed(lapwing_client::Error::Refused(ReasonCode::NotAuthorized))]
            );
        }
        Without::ClosedBefore => {
            bench.accept(false, &[]);
            bench.client.hang_up(&mut bench.net, ReasonCode::Success);
        }
        Without::ServerLeft => {
            bench.accept(false, &[]);
            bench.wire().up = false;
            assert_eq!(bench.poll(), [Seen::Disconnected(None)]);
        }
    }
    bench.wire().from_client.clear();
    bench
}

#[test]
fn goodbye_without_a_connection_returns_at_once_dials_nobody_and_sends_nothing() {
    for version in BOTH {
        for state in WITHOUT {
            for blocking in [true, false] {
                let mut bench = brought_to(version, state);
                let dials = bench.wire().dials;
                if blocking {
                    bench.client.hang_up(&mut bench.net, ReasonCode::Success);
                } else {
                    let mut line = Line::new(&bench.net);
                    let closed = poll_once(bench.client.close(&mut line, ReasonCode::Success));
                    assert!(closed.is_some(), "{version:?} {state:?}: it waits");
                }
                assert_eq!(bench.wire().dials, dials, "{version:?} {state:?}: it dialed");
                assert_eq!(bench.wire().from_client, [], "{version:?} {state:?}");
                assert!(!bench.wire().up && !bench.client.is_connected(), "{version:?} {state:?}");
            }
        }
    }
}

#[test]
fn after_a_goodbye_without_a_connection_the_client_connects_again_when_it_is_used() {
    for version in BOTH {
        for state in WITHOUT {
            let mut bench = brought_to(version, state);
            bench.client.hang_up(&mut bench.net, ReasonCode::Success);
            bench.wire().answers = true;
            let _ = bench.client.publish("a", b"x", QoS::AtLeastOnce).unwrap();
            bench.accept(false, &[]);
            assert_eq!(bench.sent(), ["Publish 1 #1 a x"], "{version:?} {state:?}");
        }
    }
}

#[test]
fn the_async_goodbye_sends_disconnect_so_that_the_will_does_not_come() {
    for version in BOTH {
        let mut bench = TestBench::connected(version, config(), &[]);
        let mut line = Line::new(&bench.net);
        assert!(poll_once(bench.client.close(&mut line, ReasonCode::Success)).is_some());
        assert_eq!((bench.sent(), bench.wire().up), (vec!["Disconnect Success".to_owned()], false));
    }
}

#[test]
fn a_goodbye_completes_the_packet_that_is_being_written_and_acknowledges_what_was_handed_over() {
    for version in BOTH {
        let mut bench = TestBench::connected(version, config(), &[]);
        bench.publish("led", b"on", QoS::AtLeastOnce, 7);
        assert!(matches!(bench.client.poll(&mut bench.net), Some(Ok(Event::Message(_)))));
        bench.client.hang_up(&mut bench.net, ReasonCode::Success);
        assert_eq!(bench.sent(), ["PubAck 7", "Disconnect Success"]);

        bench.accept(false, &[]);
        let _ = bench.client.publish("half", &[b'x'; 20], QoS::AtMostOnce).unwrap();
        let mut patient = Patient { net: bench.net.clone(), takes: 10 };
        assert!(poll_once(bench.client.event(&mut patient)).is_none());
        patient.takes = usize::MAX;
        assert!(poll_once(bench.client.close(&mut patient, ReasonCode::Success)).is_some());
        assert_eq!(bench.sent(), ["Publish 0 half xxxxxxxxxxxxxxxxxxxx", "Disconnect Success"]);
    }
}

#[test]
fn a_goodbye_over_a_link_that_takes_nothing_ends_with_the_response_timeout() {
    for version in BOTH {
        for (write_stalls, flush_stalls) in [(true, false), (false, true)] {
            let mut bench = TestBench::connected(version, config().keep_alive(0), &[]);
            let mut line = Line { write_stalls, flush_stalls, ..Line::new(&bench.net) };
            let closing = bench.client.close(&mut line, ReasonCode::Success);
            assert!(run_for(&bench.net, 1_100, closing).is_some());
            assert!(!bench.wire().up);
        }
    }
}

#[test]
fn a_goodbye_that_is_dropped_is_forgotten_or_completed() {
    for version in BOTH {
        for polls in 0..4 {
            let mut bench = TestBench::connected(version, config(), &[]);
            let mut line = Line { hesitates: true, ..Line::new(&bench.net) };
            {
                let mut closing = core::pin::pin!(bench.client.close(&mut line, ReasonCode::Success));
                for _ in 0..polls {
                    if support::line::poll(closing.as_mut()).is_some() {
                        break;
                    }
                }
            }
            let was_up = bench.wire().up;
            bench.client.hang_up(&mut bench.net, ReasonCode::Success);
            assert_eq!(bench.sent(), ["Disconnect Success"], "{polls} {was_up}");
        }
    }
}

#[test]
fn the_word_of_a_dropped_message_is_told_after_a_goodbye_too() {
    let mut bench = TestBench::connected(Version::V5, config().policy(Policy::LatestPerTopic), &[]);
    bench.wire().up = false;
    assert_eq!(bench.poll(), [Seen::Disconnected(None)]);
    bench.pass_ms(60_000);
    bench.accept(true, &[]);
    let old = bench.client.publish_with(&Publication::new("t", b"1").qos(QoS::AtLeastOnce)).unwrap();
    let _ = bench.client.publish("t", b"2", QoS::AtLeastOnce).unwrap();
    bench.client.hang_up(&mut bench.net, ReasonCode::Success);
    assert_eq!(bench.poll(), [Seen::Dropped(old.id())]);
}

// The packet cannot be cut, so the link is closed within it.
#[test]
fn a_goodbye_inside_an_announced_payload_closes_the_link_without_disconnect() {
    for version in BOTH {
        let mut bench = TestBench::connected(version, config(), &[]);
        let head = Publication::new("large", b"").qos(QoS::AtLeastOnce);
        let _ = bench.client.publish_in_pieces(&head, 100).unwrap();
        assert_eq!(bench.poll(), [Seen::PayloadWanted(1, 0, 100)]);
        bench.wire().from_client.clear();
        bench.client.hang_up(&mut bench.net, ReasonCode::Success);
        assert_eq!(bench.wire().from_client, []);
        assert!(!bench.wire().up);
    }
}
