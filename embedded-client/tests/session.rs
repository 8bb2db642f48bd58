//! The two halves of a session: after a start without stored state, and tokens that end once.

mod support;

use lapwing_client::{Config, Policy, Property, Publication, QoS, ReasonCode, Subscription, Version};
use lapwing_protocol::packet::{Ack, Packet};
use support::{Bench, Seen, ack, message};

const BOTH: [Version; 2] = [Version::V311, Version::V5];

type TestBench = Bench<'static, 512, 128>;

fn config() -> Config<'static> {
    Config::new("s17")
}

/// A client that was started without its state, and whose session the server has.
fn restarted(version: Version) -> TestBench {
    let mut bench = TestBench::new(version, config().subscribe("led", QoS::AtLeastOnce));
    bench.accept(true, &[]);
    assert_eq!(bench.sent(), ["Subscribe #1 led 1"]);
    bench.suback(1, &[ReasonCode::GrantedQoS1]);
    assert_eq!(bench.poll(), []);
    bench
}

#[test]
fn after_a_start_a_qos_2_message_does_not_meet_one_of_the_earlier_life() {
    for version in BOTH {
        let mut bench = restarted(version);
        let one = bench.client.publish("a", b"1", QoS::ExactlyOnce).unwrap();
        let two = bench.client.publish("b", b"2", QoS::ExactlyOnce).unwrap();
        let _ = bench.client.publish("c", b"3", QoS::AtLeastOnce).unwrap();
        assert_eq!(bench.poll(), []);
        assert_eq!(
            bench.sent(),
            ["PubRel 2", "PubRel 3"],
            "each identifier is released before its first use"
        );
        let not_found = Ack { reason: ReasonCode::PacketIdentifierNotFound, ..ack(3) };
        bench.say(Packet::PubComp(if version == Version::V5 { not_found } else { ack(3) }));
        assert_eq!((bench.poll(), bench.sent()), (vec![], vec![]), "messages keep their order");
        bench.say(Packet::PubComp(ack(2)));
        assert_eq!(bench.poll(), [], "these end no message");
        assert_eq!(bench.sent(), ["Publish 2 #2 a 1", "Publish 2 #3 b 2", "Publish 1 #4 c 3"]);
        for token in [one, two] {
            bench.say(Packet::PubRec(ack(token.id())));
            assert_eq!(bench.poll(), []);
            assert_eq!(bench.sent(), [format!("PubRel {}", token.id())]);
            bench.say(Packet::PubComp(ack(token.id())));
            assert_eq!(bench.poll(), [Seen::Delivered(token.id())]);
        }
    }
}

#[test]
fn an_identifier_is_not_released_again_when_its_message_is_repeated() {
    for version in BOTH {
        let mut bench = restarted(version);
        let token = bench.client.publish("a", b"1", QoS::ExactlyOnce).unwrap();
        assert_eq!(bench.poll(), []);
        bench.say(Packet::PubComp(ack(2)));
        assert_eq!(bench.poll(), []);
        assert_eq!(bench.sent(), ["PubRel 2", "Publish 2 #2 a 1"]);
        bench.reconnect(true);
        assert_eq!(bench.sent(), ["Publish 2 dup #2 a 1"]);
        bench.say(Packet::PubRec(ack(token.id())));
        bench.say(Packet::PubComp(ack(token.id())));
        assert_eq!(bench.poll(), [Seen::Delivered(token.id())]);
    }
}

#[test]
fn a_release_that_was_lost_with_its_link_is_sent_again() {
    for version in BOTH {
        let mut bench = restarted(version);
        let _ = bench.client.publish("a", b"1", QoS::ExactlyOnce).unwrap();
        assert_eq!((bench.poll(), bench.sent()), (vec![], vec!["PubRel 2".to_owned()]));
        bench.reconnect(true);
        assert_eq!(bench.sent(), ["PubRel 2"]);
        bench.say(Packet::PubComp(ack(2)));
        assert_eq!((bench.poll(), bench.sent()), (vec![], vec!["Publish 2 #2 a 1".to_owned()]));
    }
}

#[test]
fn an_identifier_that_was_released_stays_so_when_the_link_breaks() {
    for version in BOTH {
        let mut bench = restarted(version);
        let _ = bench.client.publish("a", b"1", QoS::ExactlyOnce).unwrap();
        assert_eq!(bench.poll(), []);
        bench.say(Packet::PubComp(ack(2)));
        bench.wire().passes = Some(4);
        assert_eq!(bench.poll(), [Seen::Disconnected(None)]);
        bench.wire().passes = None;
        bench.pass_ms(60_000);
        bench.accept(true, &[]);
        assert_eq!(bench.sent(), ["Publish 2 dup #2 a 1"]);
    }
}

#[test]
fn messages_that_waited_at_the_server_come_after_a_restart() {
    for version in BOTH {
        let mut bench = restarted(version);
        bench.publish("led", b"on", QoS::AtLeastOnce, 9);
        assert_eq!(bench.poll(), [message("led", b"on", QoS::AtLeastOnce)]);
        assert_eq!(bench.sent(), ["PubAck 9"]);
    }
}

#[test]
fn identifiers_of_a_new_session_need_no_release() {
    for version in BOTH {
        let mut bench = restarted(version);
        bench.lose();
        bench.accept(false, &[]);
        bench.sent();
        let _ = bench.client.publish("a", b"1", QoS::ExactlyOnce).unwrap();
        assert_eq!(bench.poll(), []);
        assert_eq!(bench.sent(), ["Publish 2 #3 a 1"]);
        let mut bench = TestBench::connected(version, config(), &[]);
        bench.reconnect(true);
        let _ = bench.client.publish("a", b"1", QoS::ExactlyOnce).unwrap();
        assert_eq!(bench.poll(), []);
        assert_eq!(bench.sent(), ["Publish 2 #1 a 1"]);
    }
}

// What happens to a token is told once, wherever it was when the session was lost.
#[test]
fn every_token_ends_once_when_the_server_has_lost_the_session() {
    for version in BOTH {
        let mut bench = TestBench::connected(version, config(), &[]);
        let received = bench.client.publish("received", b"x", QoS::ExactlyOnce).unwrap().id();
        let sent = bench.client.publish("sent", b"x", QoS::ExactlyOnce).unwrap().id();
        let once = bench.client.publish("once", b"x", QoS::AtLeastOnce).unwrap().id();
        let asked = bench.client.subscribe(Subscription::new("more", QoS::AtMostOnce)).unwrap().id();
        assert_eq!(bench.poll(), []);
        bench.say(Packet::PubRec(ack(received)));
        assert_eq!(bench.poll(), []);
        bench.lose();
        assert_eq!(bench.accepted(false, &[]), [Seen::Delivered(received)], "the server had it");
        bench.say(Packet::PubRec(ack(sent)));
        bench.say(Packet::PubComp(ack(sent)));
        bench.puback(once);
        bench.suback(asked, &[ReasonCode::Success]);
        let told = bench.poll();
        assert_eq!(told, [Seen::Delivered(sent), Seen::Delivered(once), Seen::Delivered(asked)]);
        bench.lose();
        assert_eq!(bench.accepted(false, &[]), []);
        assert_eq!(bench.client.outbox_used(), 0);
    }
}

#[test]
fn a_message_that_a_server_takes_with_qos_0_only_is_told_when_it_was_sent() {
    let mut bench = TestBench::connected(Version::V5, config(), &[Property::MaximumQoS(0)]);
    let one = bench.client.publish("a", b"x", QoS::AtLeastOnce).unwrap();
    let two = bench.client.publish("b", b"x", QoS::ExactlyOnce).unwrap();
    assert_eq!(bench.poll(), [Seen::Delivered(one.id()), Seen::Delivered(two.id())]);
    assert_eq!(bench.sent(), ["Publish 0 a x", "Publish 0 b x"]);
    let head = Publication::new("c", b"").qos(QoS::AtLeastOnce);
    let three = bench.client.publish_in_pieces(&head, 2).unwrap();
    assert_eq!(bench.poll(), [Seen::PayloadWanted(three.id(), 0, 2)]);
    assert_eq!(bench.client.give_payload(&mut bench.net, b"xy"), Ok(2));
    assert_eq!(bench.poll(), [Seen::Delivered(three.id())]);
}

// [MQTT-3.2.2-15]
#[test]
fn a_request_larger_than_the_server_accepts_is_refused_and_holds_up_nobody() {
    let mut bench = TestBench::connected(Version::V5, config(), &[Property::MaximumPacketSize(30)]);
    let long =
        bench.client.subscribe(Subscription::new("a/filter/of/more/than/thirty/bytes", QoS::AtMostOnce));
    let _ = bench.client.publish("a", b"x", QoS::AtMostOnce).unwrap();
    assert_eq!(bench.poll(), [Seen::Refused(long.unwrap().id(), ReasonCode::PacketTooLarge)]);
    assert_eq!(bench.sent(), ["Publish 0 a x"]);
}

// Tokens of all kinds, each answered, refused, dropped or expired, with links that break anywhere.
#[test]
fn every_token_ends_exactly_once_whatever_the_link_does() {
    for version in BOTH {
        for breaks_after in (1..160).step_by(if cfg!(miri) { 53 } else { 1 }) {
            for keeps_session in [true, false] {
                let config = config().policy(Policy::DropOldest).send_maximum(2);
                let mut bench: Bench<'_, 256, 64> = Bench::new(version, config);
                bench.accept(keeps_session, &[]);
                bench.wire().passes = Some(breaks_after);
                let (mut open, mut told) = (Vec::new(), Vec::new());
                for n in 0..6u8 {
                    let qos = if n % 2 == 0 { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
                    let expires = if n == 3 { 1 } else { 1_000 };
                    let payload = [n; 12];
                    let message = Publication::new("topic", &payload).qos(qos).expires_in_s(expires);
                    open.push(bench.client.publish_with(&message).unwrap().id());
                }
                open.push(bench.client.unsubscribe("x").unwrap().id());
                for _ in 0..40 {
                    told.extend(answer(&mut bench, keeps_session));
                    bench.wire().passes = None;
                    bench.pass_ms(2_000);
                }
                told.sort_unstable();
                open.sort_unstable();
                assert_eq!(told, open, "{version:?} {breaks_after} {keeps_session}");
                assert_eq!(bench.client.outbox_used(), 0);
            }
        }
    }
}

/// Answers everything that the client has sent. Returns the tokens that ended.
fn answer<const O: usize, const I: usize>(bench: &mut Bench<'_, O, I>, session_present: bool) -> Vec<u16> {
    let mut ended: Vec<_> = bench.poll().iter().filter_map(token).collect();
    for packet in bench.sent() {
        let id = packet.split_whitespace().find_map(|word| word.trim_start_matches('#').parse().ok());
        let id: u16 = id.unwrap_or(0);
        match packet.split_whitespace().next().unwrap() {
            "Connect" => bench.connack(session_present, ReasonCode::Success, &[]),
            "Publish" if packet.starts_with("Publish 1") => bench.puback(identifier(&packet)),
            "Publish" => bench.say(Packet::PubRec(ack(identifier(&packet)))),
            "PubRel" => bench.say(Packet::PubComp(ack(id))),
            "Unsubscribe" => bench.unsuback(id, &[ReasonCode::Success]),
            "PingReq" => bench.say(Packet::PingResp),
            other => panic!("{other}"),
        }
    }
    ended.extend(bench.poll().iter().filter_map(token));
    ended
}

fn identifier(packet: &str) -> u16 {
    packet.split_whitespace().find_map(|word| word.strip_prefix('#')).unwrap().parse().unwrap()
}

fn token(event: &Seen) -> Option<u16> {
    match event {
        Seen::Delivered(id) | Seen::Refused(id, _) | Seen::Dropped(id) => Some(*id),
        _ => None,
    }
}
