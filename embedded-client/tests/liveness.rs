//! Signs of life: bytes that arrive, in both directions of a link that may be dead or slow.

mod support;

use lapwing_client::{Config, Event, Publication, QoS, ReasonCode, Version};
use lapwing_protocol::packet::Packet;
use support::line::{Line, run_for};
use support::{Bench, Seen, message};

const BOTH: [Version; 2] = [Version::V311, Version::V5];
const QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

type TestBench = Bench<'static, 4096, 128>;

fn config() -> Config<'static> {
    Config::new("s17").keep_alive(10).response_timeout_ms(5_000)
}

/// Milliseconds until the client leaves, while it publishes every second; `None` within an hour.
fn left_after_ms(mut bench: TestBench, qos: QoS, in_pieces: bool) -> Option<u32> {
    for passed_ms in (1_000..3_600_000).step_by(1_000) {
        bench.pass_ms(1_000);
        if in_pieces {
            let head = Publication::new("t", b"").qos(qos);
            let _ = bench.client.publish_in_pieces(&head, 1);
        } else {
            let _ = bench.client.publish("t", b"x", qos);
        }
        loop {
            let told = bench.poll();
            if told.contains(&Seen::Disconnected(None)) {
                return Some(passed_ms);
            }
            if !matches!(told.last(), Some(Seen::PayloadWanted(..))) {
                break;
            }
            bench.client.give_payload(&mut bench.net, b"x").unwrap();
        }
    }
    None
}

#[test]
fn a_half_open_link_is_found_while_messages_of_any_qos_are_published() {
    for version in BOTH {
        for qos in QOS {
            for in_pieces in [false, true] {
                let bench = TestBench::connected(version, config(), &[]);
                let left = left_after_ms(bench, qos, in_pieces);
                assert_eq!(left, Some(15_000), "{version:?} {qos:?} {in_pieces}: keep-alive and response");
            }
        }
    }
}

// 3.1.1: [MQTT-3.1.2-23]  5.0: [MQTT-3.1.2-20]
#[test]
fn a_client_that_only_listens_pings_although_messages_come() {
    for version in BOTH {
        let mut bench = TestBench::connected(version, config(), &[]);
        for _ in 0..3 {
            bench.publish("a", b"x", QoS::AtMostOnce, 0);
            bench.pass_ms(4_000);
            bench.poll();
        }
        assert_eq!(bench.sent(), ["PingReq"]);
    }
}

#[test]
fn no_ping_is_sent_while_packets_go_out_and_come_in_often_enough() {
    for version in BOTH {
        let mut bench = TestBench::connected(version, config(), &[]);
        for _ in 0..100 {
            bench.pass_ms(9_000);
            let token = bench.client.publish("t", b"x", QoS::AtLeastOnce).unwrap();
            assert_eq!(bench.poll(), []);
            bench.puback(token.id());
            assert_eq!(bench.poll(), [Seen::Delivered(token.id())]);
            assert!(bench.sent().iter().all(|packet| packet.starts_with("Publish")));
        }
    }
}

#[test]
fn a_client_pings_within_its_keep_alive_also_while_an_answer_is_slow() {
    for version in BOTH {
        let config = config().keep_alive(2).response_timeout_ms(9_000);
        let mut bench = TestBench::connected(version, config, &[]);
        let mut told = Vec::new();
        for _ in 0..10 {
            bench.pass_ms(1_000);
            told.extend(bench.poll());
        }
        assert_eq!((bench.sent().len(), told), (5, vec![]), "one every two seconds");
        bench.pass_ms(1_000);
        assert_eq!(bench.poll(), [Seen::Disconnected(None)], "nine seconds after the first");
    }
}

#[test]
fn a_message_that_comes_slowly_arrives_whole() {
    for version in BOTH {
        for ms_per_byte in [2, 10, 100, 4_999] {
            let mut bench: Bench<'_, 512, 8192> = Bench::connected(version, config(), &[]);
            let len = if ms_per_byte > 1_000 { 60 } else { 6_000 };
            bench.publish("slow", &vec![b'x'; len], QoS::AtLeastOnce, 7);
            let bytes: Vec<u8> = bench.wire().to_client.drain(..).collect();
            let mut told = Vec::new();
            for byte in bytes {
                bench.pass_ms(ms_per_byte);
                bench.say_bytes(&[byte]);
                told.extend(bench.poll());
            }
            assert_eq!(told, [message("slow", &vec![b'x'; len], QoS::AtLeastOnce)], "{ms_per_byte}");
            assert!(bench.sent().iter().any(|packet| packet == "PubAck 7"));
        }
    }
}

#[test]
fn a_message_that_stops_coming_ends_the_connection() {
    for version in BOTH {
        let mut bench: Bench<'_, 512, 8192> = Bench::connected(version, config(), &[]);
        bench.publish("slow", &[b'x'; 600], QoS::AtLeastOnce, 7);
        bench.wire().to_client.truncate(300);
        assert_eq!(bench.poll(), []);
        bench.pass_ms(10_000);
        assert_eq!((bench.poll(), bench.sent()), (vec![], vec!["PingReq".to_owned()]));
        bench.pass_ms(4_999);
        assert_eq!(bench.poll(), []);
        bench.pass_ms(1);
        assert_eq!(bench.poll(), [Seen::Disconnected(None)]);
    }
}

#[test]
fn a_connack_that_comes_slowly_is_awaited() {
    for version in BOTH {
        let mut bench = TestBench::new(version, config());
        assert_eq!(bench.poll(), []);
        bench.connack(false, ReasonCode::Success, &[]);
        let bytes: Vec<u8> = bench.wire().to_client.drain(..).collect();
        for byte in bytes {
            assert!(!bench.client.is_connected());
            bench.pass_ms(4_000);
            bench.say_bytes(&[byte]);
            bench.poll();
        }
        assert!(bench.client.is_connected());
    }
}

#[test]
fn a_flush_that_stalls_is_left_after_the_response_timeout_for_each_keep_alive() {
    for version in BOTH {
        for keep_alive_s in [0, 5, 60, 3_600] {
            for publishes in [false, true] {
                let config = config().keep_alive(keep_alive_s).response_timeout_ms(1_000);
                let mut bench = TestBench::connected(version, config, &[]);
                let mut line = Line { flush_stalls: true, ..Line::new(&bench.net) };
                let start_ms = bench.wire().now_ms;
                let mut left = false;
                // With messages that are published meanwhile, the deadline stays.
                for _ in 0..30 {
                    if publishes || bench.wire().now_ms == start_ms {
                        let _ = bench.client.publish("t", b"x", QoS::AtMostOnce);
                    }
                    let look_ms = if publishes { 99 } else { 1_199 };
                    let event = run_for(&bench.net, look_ms, bench.client.event(&mut line));
                    left = matches!(event, Some(Ok(Event::Disconnected(None))));
                    if left {
                        break;
                    }
                }
                let after_ms = bench.wire().now_ms.wrapping_sub(start_ms);
                assert!(left && (1_000..1_200).contains(&after_ms), "{keep_alive_s} {publishes}: {after_ms}");
            }
        }
    }
}

#[test]
fn messages_that_were_published_during_a_flush_leave_after_it() {
    for version in BOTH {
        let mut bench = TestBench::connected(version, config(), &[]);
        let mut line = Line { flush_stalls: true, ..Line::new(&bench.net) };
        for payload in [b"1", b"2"] {
            let _ = bench.client.publish("t", payload, QoS::AtMostOnce);
            assert!(run_for(&bench.net, 10, bench.client.event(&mut line)).is_none());
        }
        line.flush_stalls = false;
        assert!(run_for(&bench.net, 10, bench.client.event(&mut line)).is_none());
        assert_eq!(bench.sent(), ["Publish 0 t 1", "Publish 0 t 2"]);
    }
}

#[test]
fn an_answer_to_a_ping_is_any_byte() {
    for version in BOTH {
        let mut bench = TestBench::connected(version, config(), &[]);
        bench.pass_ms(10_000);
        assert_eq!((bench.poll(), bench.sent()), (vec![], vec!["PingReq".to_owned()]));
        bench.pass_ms(4_000);
        bench.say(Packet::PingResp);
        let last = bench.wire().to_client.pop_back().unwrap();
        assert_eq!(bench.poll(), []);
        bench.pass_ms(4_000);
        assert_eq!(bench.poll(), [], "the second half is still to come");
        bench.say_bytes(&[last]);
        assert_eq!(bench.poll(), []);
        bench.pass_ms(2_000);
        assert_eq!((bench.poll(), bench.sent()), (vec![], vec!["PingReq".to_owned()]));
    }
}
