//! The client against a server that follows the test, on a clock that the test moves.

mod support;

use lapwing_client::{
    Config, Error, Property, Publication, PublishError, QoS, ReasonCode, Subscription, Version, Will,
};
use lapwing_protocol::packet::{Disconnect, Packet};
use support::{Bench, Seen, ack, message};

const BOTH: [Version; 2] = [Version::V311, Version::V5];
const QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

fn config() -> Config<'static> {
    Config::new("s17")
}

type TestBench = Bench<'static, 512, 128>;

#[test]
fn connect_says_who_it_is_and_what_it_wants() {
    for version in BOTH {
        let will = Will { properties: &[Property::WillDelayInterval(5)], ..Will::new("s/up", b"0") };
        let mut bench = TestBench::new(version, config().keep_alive(30).will_with(will).login("me", b"pw"));
        assert_eq!(bench.poll(), []);
        let properties =
            " SessionExpiryInterval(86400) ReceiveMaximum(8) TopicAliasMaximum(0) MaximumPacketSize(128)";
        let expected = match version {
            Version::V5 => {
                format!("Connect s17 clean=0 keep=30{properties} will s/up 0 WillDelayInterval(5)")
            }
            _ => "Connect s17 clean=0 keep=30 will s/up 0".to_owned(),
        };
        assert_eq!(bench.sent(), [expected]);
    }
}

#[test]
fn what_is_published_without_a_connection_is_sent_in_order_when_there_is_one() {
    for version in BOTH {
        let mut bench = TestBench::new(version, config());
        let _ = bench.client.publish("a", b"1", QoS::AtLeastOnce).unwrap();
        let _ = bench.client.publish("b", b"2", QoS::AtMostOnce).unwrap();
        let _ = bench.client.publish("c", b"3", QoS::ExactlyOnce).unwrap();
        bench.accept(false, &[]);
        assert_eq!(bench.sent(), ["Publish 1 #1 a 1", "Publish 0 b 2", "Publish 2 #2 c 3"]);
    }
}

#[test]
fn a_message_stays_in_the_outbox_until_it_is_delivered() {
    for version in BOTH {
        let mut bench = TestBench::connected(version, config(), &[]);
        let one = bench.client.publish("a", b"1", QoS::AtLeastOnce).unwrap();
        let two = bench.client.publish("b", b"2", QoS::ExactlyOnce).unwrap();
        assert_eq!(bench.poll(), []);
        assert!(bench.client.outbox_used() > 0);
        bench.puback(one.id());
        assert_eq!(bench.poll(), [Seen::Delivered(one.id())]);
        bench.say(Packet::PubRec(ack(two.id())));
        assert_eq!(bench.poll(), []);
        bench.say(Packet::PubComp(ack(two.id())));
        assert_eq!(bench.poll(), [Seen::Delivered(two.id())]);
        assert_eq!(bench.sent(), ["Publish 1 #1 a 1", "Publish 2 #2 b 2", "PubRel 2"]);
        assert_eq!(bench.client.outbox_used(), 0);
    }
}

// [MQTT-4.4.0-1] [MQTT-3.3.1-1]
#[test]
fn with_its_session_a_client_sends_again_with_dup_the_same_identifiers_and_in_the_same_order() {
    for version in BOTH {
        let mut bench = TestBench::connected(version, config(), &[]);
        for (topic, qos) in [("a", QoS::AtLeastOnce), ("b", QoS::ExactlyOnce), ("c", QoS::ExactlyOnce)] {
            let _ = bench.client.publish(topic, b"x", qos).unwrap();
        }
        assert_eq!(bench.poll(), []);
        bench.say(Packet::PubRec(ack(2)));
        assert_eq!(bench.poll(), []);
        bench.sent();
        bench.reconnect(true);
        let _ = bench.client.publish("d", b"x", QoS::AtLeastOnce).unwrap();
        assert_eq!(bench.poll(), []);
        assert_eq!(
            bench.sent(),
            ["Publish 1 dup #1 a x", "PubRel 2", "Publish 2 dup #3 c x", "Publish 1 #4 d x"]
        );
    }
}

#[test]
fn without_its_session_a_client_subscribes_again_and_sends_unacknowledged_messages_as_new() {
    for version in BOTH {
        let mut bench = TestBench::connected(version, config().subscribe("led", QoS::AtLeastOnce), &[]);
        assert_eq!(bench.sent(), ["Subscribe #1 led 1"]);
        bench.suback(1, &[ReasonCode::GrantedQoS1]);
        let _ = bench.client.publish("a", b"x", QoS::AtLeastOnce).unwrap();
        let _ = bench.client.publish("b", b"x", QoS::ExactlyOnce).unwrap();
        assert_eq!(bench.poll(), []);
        bench.say(Packet::PubRec(ack(3)));
        assert_eq!(bench.poll(), []);
        bench.sent();
        bench.lose();
        // The server had taken over the QoS 2 message.
        assert_eq!(bench.accepted(false, &[]), [Seen::Delivered(3)]);
        assert_eq!(bench.sent(), ["Subscribe #4 led 1", "Publish 1 #2 a x"]);
        bench.reconnect(true);
        let repeated = ["Subscribe #5 led 1", "Publish 1 dup #2 a x"];
        assert_eq!(bench.sent(), repeated, "nobody said that the subscription is there");
        bench.suback(5, &[ReasonCode::GrantedQoS1]);
        assert_eq!(bench.poll(), []);
        bench.reconnect(true);
        assert_eq!(bench.sent(), ["Publish 1 dup #2 a x"], "the subscription is the session's");
    }
}

#[test]
fn messages_come_byte_by_byte_as_they_were_sent_and_are_acknowledged_after_the_application_had_them() {
    for version in BOTH {
        for qos in QOS {
            let mut bench = TestBench::connected(version, config(), &[]);
            bench.wire().piece = 1;
            bench.publish("led", b"on", qos, if qos == QoS::AtMostOnce { 0 } else { 77 });
            let event = bench.client.poll(&mut bench.net).map(support::seen);
            assert_eq!(event, Some(message("led", b"on", qos)));
            assert!(bench.sent().is_empty(), "not before the application comes back");
            assert_eq!(bench.poll(), []);
            let answer: &[&str] = match qos {
                QoS::AtMostOnce => &[],
                QoS::AtLeastOnce => &["PubAck 77"],
                QoS::ExactlyOnce => &["PubRec 77"],
            };
            assert_eq!(bench.sent(), answer);
        }
    }
}

// [MQTT-4.3.3-10] [MQTT-4.3.3-12]
#[test]
fn a_qos_2_message_is_handed_over_once_until_it_is_released_also_across_a_reconnect() {
    for version in BOTH {
        let mut bench = TestBench::connected(version, config(), &[]);
        bench.publish("a", b"x", QoS::ExactlyOnce, 9);
        bench.publish("a", b"x", QoS::ExactlyOnce, 9);
        assert_eq!(bench.poll(), [message("a", b"x", QoS::ExactlyOnce)]);
        bench.reconnect(true);
        bench.sent();
        bench.publish("a", b"x", QoS::ExactlyOnce, 9);
        assert_eq!(bench.poll(), []);
        bench.say(Packet::PubRel(ack(9)));
        bench.publish("a", b"y", QoS::ExactlyOnce, 9);
        assert_eq!(bench.poll(), [message("a", b"y", QoS::ExactlyOnce)]);
        assert_eq!(bench.sent(), ["PubRec 9", "PubComp 9", "PubRec 9"]);
        // Another session, another message.
        bench.reconnect(false);
        bench.publish("a", b"z", QoS::ExactlyOnce, 9);
        assert_eq!(bench.poll(), [message("a", b"z", QoS::ExactlyOnce)]);
    }
}

#[test]
fn acknowledgements_that_belong_to_nothing_are_harmless_and_wrong_ones_end_the_connection() {
    for version in BOTH {
        let mut bench = TestBench::connected(version, config(), &[]);
        bench.puback(5);
        bench.say(Packet::PubComp(ack(5)));
        bench.say(Packet::PubRec(ack(5)));
        bench.suback(5, &[ReasonCode::GrantedQoS1]);
        assert_eq!(bench.poll(), []);
        let not_found = if version == Version::V5 { "PubRel 5 PacketIdentifierNotFound" } else { "PubRel 5" };
        assert_eq!(bench.sent(), [not_found]);
        let _ = bench.client.publish("a", b"x", QoS::AtLeastOnce).unwrap();
        assert_eq!(bench.poll(), []);
        bench.sent();
        bench.say(Packet::PubRec(ack(1)));
        assert_eq!(bench.poll(), [Seen::Disconnected(Some(ReasonCode::ProtocolError))]);
        let word: &[&str] = if version == Version::V5 { &["Disconnect ProtocolError"] } else { &[] };
        assert_eq!(bench.sent(), word);
    }
}

#[test]
fn a_silent_client_pings_and_leaves_a_link_that_does_not_answer() {
    for version in BOTH {
        let mut bench =
            TestBench::connected(version, config().keep_alive(10).response_timeout_ms(3_000), &[]);
        bench.pass_ms(9_999);
        assert_eq!((bench.poll(), bench.sent().len()), (vec![], 0));
        bench.pass_ms(1);
        assert_eq!((bench.poll(), bench.sent()), (vec![], vec!["PingReq".to_owned()]));
        bench.say(Packet::PingResp);
        assert_eq!(bench.poll(), []);
        bench.pass_ms(10_000);
        assert_eq!((bench.poll(), bench.sent()), (vec![], vec!["PingReq".to_owned()]));
        bench.pass_ms(3_000);
        assert_eq!(bench.poll(), [Seen::Disconnected(None)]);
        assert!(!bench.wire().up);
    }
}

#[test]
fn a_connack_that_does_not_come_ends_the_attempt() {
    let mut bench = TestBench::new(Version::V5, config().response_timeout_ms(3_000));
    assert_eq!(bench.poll(), []);
    bench.pass_ms(2_999);
    assert_eq!((bench.poll(), bench.wire().up), (vec![], true));
    bench.pass_ms(1);
    assert_eq!((bench.poll(), bench.wire().up), (vec![], false));
}

#[test]
fn pauses_double_up_to_their_limit_and_no_two_clients_keep_step() {
    let pauses = |id| {
        let mut bench: Bench<'_, 64, 64> = Bench::new(Version::V5, Config::new(id).backoff_ms(100, 1_000));
        bench.wire().answers = false;
        let mut all = Vec::new();
        for dial in 1..=8 {
            assert_eq!((bench.poll(), bench.wire().dials), (vec![], dial));
            let mut pause = 0;
            while bench.wire().dials == dial {
                bench.pass_ms(1);
                pause += 1;
                assert_eq!(bench.poll(), []);
            }
            all.push(pause);
        }
        all
    };
    let one = pauses("one");
    for (pause, most) in one.iter().zip([100, 200, 400, 800, 1_000, 1_000, 1_000, 1_000]) {
        assert!((most / 2..=most).contains(pause), "{one:?}");
    }
    assert_ne!(one, pauses("two"));
}

#[test]
fn a_refused_client_says_why_once_and_tries_again_later_but_a_busy_server_is_nobodys_mistake() {
    for version in BOTH {
        let mut bench = TestBench::new(version, config());
        assert_eq!(bench.poll(), []);
        bench.connack(false, ReasonCode::BadUserNameOrPassword, &[]);
        assert_eq!(bench.poll(), [Seen::Failed(Error::Refused(ReasonCode::BadUserNameOrPassword))]);
        assert_eq!(bench.wire().dials, 1);
        bench.pass_ms(1_000);
        assert_eq!(bench.poll(), []);
        bench.connack(false, ReasonCode::ServerUnavailable, &[]);
        assert_eq!(bench.poll(), []);
        bench.pass_ms(2_000);
        bench.accept(false, &[]);
        assert_eq!(bench.wire().dials, 3);
    }
}

#[test]
fn receive_maximum_of_the_server_holds_messages_back_in_order() {
    let mut bench = TestBench::connected(Version::V5, config(), &[Property::ReceiveMaximum(2)]);
    for topic in ["a", "b", "c"] {
        let _ = bench.client.publish(topic, b"x", QoS::AtLeastOnce).unwrap();
    }
    let _ = bench.client.publish("d", b"x", QoS::AtMostOnce).unwrap();
    assert_eq!(bench.poll(), []);
    assert_eq!(bench.sent(), ["Publish 1 #1 a x", "Publish 1 #2 b x"]);
    bench.puback(2);
    assert_eq!(bench.poll(), [Seen::Delivered(2)]);
    assert_eq!(bench.sent(), ["Publish 1 #3 c x", "Publish 0 d x"]);
}

#[test]
fn no_more_messages_are_on_their_way_than_the_configuration_says() {
    for version in BOTH {
        let mut bench = TestBench::connected(version, config().send_maximum(1), &[]);
        let _ = bench.client.publish("a", b"x", QoS::ExactlyOnce).unwrap();
        let _ = bench.client.publish("b", b"x", QoS::AtLeastOnce).unwrap();
        assert_eq!((bench.poll(), bench.sent()), (vec![], vec!["Publish 2 #1 a x".to_owned()]));
        bench.say(Packet::PubRec(ack(1)));
        assert_eq!((bench.poll(), bench.sent()), (vec![], vec!["PubRel 1".to_owned()]));
        bench.say(Packet::PubComp(ack(1)));
        assert_eq!(bench.poll(), [Seen::Delivered(1)]);
        assert_eq!(bench.sent(), ["Publish 1 #2 b x"]);
    }
}

// [MQTT-3.2.2-11] [MQTT-3.2.2-14] [MQTT-3.2.2-15] [MQTT-3.2.2-21]
#[test]
fn what_the_server_does_not_take_is_not_sent_to_it() {
    let limits = [
        Property::MaximumQoS(1),
        Property::RetainAvailable(0),
        Property::MaximumPacketSize(40),
        Property::ServerKeepAlive(5),
    ];
    let mut bench = TestBench::connected(Version::V5, config(), &limits);
    let _ = bench.client.publish_with(&Publication::new("a", b"x").qos(QoS::ExactlyOnce).retain()).unwrap();
    let large = bench.client.publish("large", &[b'x'; 60], QoS::AtLeastOnce).unwrap();
    assert_eq!(bench.poll(), [Seen::Dropped(large.id())]);
    assert_eq!(bench.sent(), ["Publish 1 #1 a x"]);
    bench.puback(1);
    assert_eq!(bench.poll(), [Seen::Delivered(1)]);
    bench.pass_ms(5_000);
    assert_eq!((bench.poll(), bench.sent()), (vec![], vec!["PingReq".to_owned()]));
    // Without QoS 1, QoS 0 is left.
    let mut bench = TestBench::connected(Version::V5, config(), &[Property::MaximumQoS(0)]);
    let _ = bench.client.publish("a", b"x", QoS::AtLeastOnce).unwrap();
    assert_eq!((bench.poll(), bench.sent()), (vec![Seen::Delivered(1)], vec!["Publish 0 a x".to_owned()]));
    assert_eq!(bench.client.outbox_used(), 0);
}

#[test]
fn topics_are_sent_as_aliases_from_the_second_time_on_and_anew_after_a_reconnect() {
    let config = config().alias_topics(&["long/topic/name", "another"]);
    let mut bench = TestBench::connected(Version::V5, config, &[Property::TopicAliasMaximum(1)]);
    for topic in ["long/topic/name", "long/topic/name", "another"] {
        let _ = bench.client.publish(topic, b"x", QoS::AtMostOnce).unwrap();
    }
    assert_eq!(bench.poll(), []);
    assert_eq!(
        bench.sent(),
        ["Publish 0 long/topic/name TopicAlias(1) x", "Publish 0  TopicAlias(1) x", "Publish 0 another x"]
    );
    bench.wire().up = false;
    assert_eq!(bench.poll(), [Seen::Disconnected(None)]);
    bench.pass_ms(60_000);
    bench.accept(true, &[Property::TopicAliasMaximum(2)]);
    let _ = bench.client.publish("long/topic/name", b"x", QoS::AtMostOnce).unwrap();
    assert_eq!(bench.poll(), []);
    assert_eq!(bench.sent(), ["Publish 0 long/topic/name TopicAlias(1) x"]);
}

#[test]
fn aliases_of_the_server_stand_for_their_topics_until_the_connection_ends() {
    let mut bench = TestBench::connected(Version::V5, config().inbound_aliases(2), &[]);
    let publish = |bench: &mut TestBench, topic: &str, alias: u16| {
        let mut block = [0; 8];
        let properties = support::block_of(&mut block, &[Property::TopicAlias(alias)]);
        bench.say(Packet::Publish(lapwing_protocol::packet::Publish {
            topic,
            properties,
            payload: b"x",
            ..Default::default()
        }));
        bench.poll()
    };
    let x = |topic| vec![message(topic, b"x", QoS::AtMostOnce)];
    assert_eq!(publish(&mut bench, "one", 1), x("one"));
    assert_eq!(publish(&mut bench, "two", 2), x("two"));
    assert_eq!(publish(&mut bench, "", 1), x("one"));
    assert_eq!(publish(&mut bench, "three", 1), x("three"));
    assert_eq!(publish(&mut bench, "", 1), x("three"));
    assert_eq!(publish(&mut bench, "", 2), x("two"));
    bench.reconnect(true);
    assert_eq!(bench.client.outbox_used(), 0);
    assert_eq!(publish(&mut bench, "", 2), [Seen::Disconnected(Some(ReasonCode::TopicAliasInvalid))]);
    assert_eq!(bench.sent(), ["Disconnect TopicAliasInvalid"]);
}

#[test]
fn everything_that_mqtt_5_says_about_a_message_goes_out_and_comes_in() {
    let properties = [
        Property::PayloadFormatIndicator(1),
        Property::ContentType("text/plain"),
        Property::ResponseTopic("answers"),
        Property::CorrelationData(b"17"),
        Property::UserProperty(("room", "kitchen")),
        Property::UserProperty(("room", "hall")),
    ];
    let mut bench = TestBench::connected(Version::V5, config(), &[]);
    let _ = bench.client.publish_with(&Publication::new("a", b"x").properties(&properties)).unwrap();
    assert_eq!(bench.poll(), []);
    let words: String = properties.iter().map(|property| format!(" {property:?}")).collect();
    assert_eq!(bench.sent(), [format!("Publish 0 a{words} x")]);
    let mut block = [0; 128];
    let properties = support::block_of(&mut block, &properties);
    bench.say(Packet::Publish(lapwing_protocol::packet::Publish {
        topic: "b",
        properties,
        ..Default::default()
    }));
    let Some(Ok(lapwing_client::Event::Message(came))) = bench.client.poll(&mut bench.net) else { panic!() };
    assert_eq!(came.properties(), properties);
    assert_eq!(came.properties().user_properties().count(), 2);
    // Properties that the client sets itself, or that only a server sends, are refused.
    for wrong in [Property::TopicAlias(1), Property::SubscriptionIdentifier(1), Property::ReceiveMaximum(1)] {
        let refused = bench.client.publish_with(&Publication::new("a", b"x").properties(&[wrong]));
        assert_eq!(refused, Err(PublishError::PropertyInvalid));
    }
}

#[test]
fn a_server_that_refuses_a_message_is_heard_and_not_asked_again() {
    let mut bench = TestBench::connected(Version::V5, config(), &[]);
    let one = bench.client.publish("a", b"x", QoS::AtLeastOnce).unwrap();
    let two = bench.client.publish("b", b"x", QoS::ExactlyOnce).unwrap();
    assert_eq!(bench.poll(), []);
    bench.say(Packet::PubAck(lapwing_protocol::packet::Ack { reason: ReasonCode::NotAuthorized, ..ack(1) }));
    bench.say(Packet::PubRec(lapwing_protocol::packet::Ack { reason: ReasonCode::QuotaExceeded, ..ack(2) }));
    assert_eq!(
        bench.poll(),
        [
            Seen::Refused(one.id(), ReasonCode::NotAuthorized),
            Seen::Refused(two.id(), ReasonCode::QuotaExceeded)
        ]
    );
    assert_eq!(bench.client.outbox_used(), 0);
}

#[test]
fn subscriptions_of_the_configuration_that_are_refused_are_told_and_run_time_ones_answer_with_their_token() {
    for version in BOTH {
        let config = config().subscribe("a", QoS::AtLeastOnce).subscribe("b", QoS::ExactlyOnce);
        let mut bench = TestBench::connected(version, config, &[]);
        assert_eq!(bench.sent(), ["Subscribe #1 a 1, b 2"]);
        bench.suback(1, &[ReasonCode::GrantedQoS1, ReasonCode::UnspecifiedError]);
        assert_eq!(bench.poll(), [Seen::Failed(Error::SubscriptionRefused)]);
        let good = bench.client.subscribe(Subscription::new("c/#", QoS::AtMostOnce)).unwrap();
        let bad = bench.client.subscribe(Subscription::new("d", QoS::AtMostOnce)).unwrap();
        let end = bench.client.unsubscribe("a").unwrap();
        assert_eq!(bench.poll(), []);
        assert_eq!(bench.sent(), ["Subscribe #2 c/# 0", "Subscribe #3 d 0", "Unsubscribe #4 a"]);
        bench.suback(good.id(), &[ReasonCode::Success]);
        bench.suback(bad.id(), &[ReasonCode::UnspecifiedError]);
        bench.unsuback(end.id(), &[ReasonCode::NoSubscriptionExisted]);
        assert_eq!(
            bench.poll(),
            [
                Seen::Delivered(good.id()),
                Seen::Refused(bad.id(), ReasonCode::UnspecifiedError),
                Seen::Delivered(end.id())
            ]
        );
        assert_eq!(bench.client.outbox_used(), 0);
        let wrong = bench.client.subscribe(Subscription::new("a/#/b", QoS::AtMostOnce));
        assert_eq!(wrong, Err(PublishError::TopicInvalid));
    }
}

#[test]
fn a_request_made_without_a_connection_is_made_with_it_and_again_when_nobody_answered() {
    let mut bench = TestBench::new(Version::V5, config());
    let token = bench.client.subscribe(Subscription::new("c", QoS::AtMostOnce)).unwrap();
    bench.accept(false, &[]);
    assert_eq!(bench.sent(), ["Subscribe #1 c 0"]);
    bench.reconnect(true);
    assert_eq!(bench.sent(), ["Subscribe #1 c 0"]);
    bench.suback(1, &[ReasonCode::Success]);
    assert_eq!(bench.poll(), [Seen::Delivered(token.id())]);
}

#[test]
fn a_message_larger_than_the_buffer_is_skipped_and_acknowledged_or_comes_in_chunks() {
    for qos in QOS {
        let id = if qos == QoS::AtMostOnce { 0 } else { 7 };
        let ack: &[&str] = match qos {
            QoS::AtMostOnce => &[],
            QoS::AtLeastOnce => &["PubAck 7"],
            QoS::ExactlyOnce => &["PubRec 7"],
        };
        let payload: Vec<u8> = (0..if cfg!(miri) { 150 } else { 1_000u32 }).map(|n| n as u8).collect();
        for piece in if cfg!(miri) { [7, 33, usize::MAX] } else { [1, 33, usize::MAX] } {
            let mut bench: Bench<'_, 128, 64> = Bench::connected(Version::V311, config(), &[]);
            bench.wire().piece = piece;
            bench.publish("large", &payload, qos, id);
            bench.publish("small", b"x", QoS::AtMostOnce, 0);
            assert_eq!(
                bench.poll(),
                [Seen::Failed(Error::MessageSkipped), message("small", b"x", QoS::AtMostOnce)]
            );
            assert_eq!(bench.sent(), ack);

            for version in BOTH {
                let mut bench: Bench<'_, 128, 64> = Bench::connected(version, config().chunks(true), &[]);
                bench.wire().piece = piece;
                bench.publish("large", &payload, qos, id);
                bench.publish("small", b"x", QoS::AtMostOnce, 0);
                let (mut whole, mut expected_left, mut seen_small) = (Vec::new(), 0, false);
                for event in bench.poll() {
                    match event {
                        Seen::Message { topic, payload, left, .. } if topic == "large" => {
                            whole.extend(payload);
                            expected_left = left;
                        }
                        Seen::Chunk(piece, left) => {
                            assert_eq!(expected_left - piece.len() as u32, left);
                            expected_left = left;
                            whole.extend(piece);
                        }
                        other => {
                            assert_eq!(other, message("small", b"x", QoS::AtMostOnce));
                            seen_small = true;
                        }
                    }
                }
                assert!(seen_small && expected_left == 0 && whole == payload);
                assert_eq!(bench.sent(), ack);
            }
        }
    }
}

#[test]
fn a_large_qos_2_message_that_broke_off_comes_again_from_its_beginning() {
    let mut bench: Bench<'_, 128, 64> = Bench::connected(Version::V5, config().chunks(true), &[]);
    bench.wire().passes = Some(300);
    bench.publish("large", &[b'x'; 1000], QoS::ExactlyOnce, 7);
    let events = bench.poll();
    assert!(matches!(events.last(), Some(Seen::Disconnected(None))), "{events:?}");
    bench.wire().passes = None;
    bench.pass_ms(60_000);
    bench.accept(true, &[]);
    bench.publish("large", &[b'x'; 1000], QoS::ExactlyOnce, 7);
    assert!(matches!(bench.poll().first(), Some(Seen::Message { left: 1.., .. })));
}

#[test]
fn a_payload_larger_than_the_outbox_goes_out_in_pieces_again_from_the_start_after_a_reconnect() {
    for version in BOTH {
        let mut bench: Bench<'_, 128, 64> = Bench::connected(version, config(), &[]);
        let head = Publication::new("large", b"").qos(QoS::AtLeastOnce);
        let token = bench.client.publish_in_pieces(&head, 1000).unwrap();
        let _ = bench.client.publish("next", b"x", QoS::AtMostOnce).unwrap();
        assert_eq!(bench.poll(), [Seen::PayloadWanted(1, 0, 1000)]);
        assert_eq!(bench.client.give_payload(&mut bench.net, &[b'a'; 400]), Ok(400));
        bench.wire().up = false;
        assert!(bench.client.give_payload(&mut bench.net, &[b'a'; 400]).is_err());
        assert_eq!(bench.poll(), [Seen::Disconnected(Some(ReasonCode::UnspecifiedError))]);
        bench.pass_ms(60_000);
        assert_eq!(bench.poll(), []);
        bench.sent();
        bench.connack(true, ReasonCode::Success, &[]);
        assert_eq!(bench.poll(), [Seen::Connected(true), Seen::PayloadWanted(1, 0, 1000)]);
        bench.wire().piece = 300;
        let mut given = 0;
        while given < 1000 {
            given += bench.client.give_payload(&mut bench.net, &[b'b'; 5000]).unwrap();
        }
        assert_eq!(bench.poll(), []);
        let sent = bench.sent();
        assert_eq!(sent[0], format!("Publish 1 dup #1 large {}", "b".repeat(1000)));
        assert_eq!(sent[1], "Publish 0 next x");
        bench.puback(token.id());
        assert_eq!(bench.poll(), [Seen::Delivered(1)]);
    }
}

#[test]
fn a_server_that_breaks_the_rules_is_told_which_and_left() {
    let cases: [(&[u8], ReasonCode); 7] = [
        (b"\x36\x05\x00\x01a\x00\x00", ReasonCode::MalformedPacket),
        (b"\x30\x04\x00\x01\xff\x00", ReasonCode::MalformedPacket),
        (b"\x30\x05\x00\x01+\x00x", ReasonCode::TopicNameInvalid),
        (b"\x00\x00", ReasonCode::MalformedPacket),
        (b"\x30\xff\xff\xff\xff", ReasonCode::MalformedPacket),
        (b"\x20\x03\x00\x00\x00", ReasonCode::ProtocolError),
        (b"\xf0\x00", ReasonCode::ProtocolError),
    ];
    for (bytes, reason) in cases {
        let mut bench = TestBench::connected(Version::V5, config(), &[]);
        bench.say_bytes(bytes);
        assert_eq!(bench.poll(), [Seen::Disconnected(Some(reason))], "{bytes:02x?}");
        assert_eq!(bench.sent(), [format!("Disconnect {reason:?}")]);
    }
}

#[test]
fn a_server_that_says_goodbye_is_heard() {
    let mut bench = TestBench::connected(Version::V5, config(), &[]);
    bench.say(Packet::Disconnect(Disconnect::new(ReasonCode::SessionTakenOver)));
    assert_eq!(bench.poll(), [Seen::Disconnected(Some(ReasonCode::SessionTakenOver))]);
    assert_eq!(bench.wire().dials, 1, "and not called again at once");
}

#[test]
fn a_client_that_closes_says_goodbye_and_keeps_its_outbox() {
    for version in BOTH {
        let mut bench = TestBench::connected(version, config(), &[]);
        let _ = bench.client.publish("a", b"x", QoS::AtLeastOnce).unwrap();
        assert_eq!(bench.poll(), []);
        bench.sent();
        bench.client.hang_up(&mut bench.net, ReasonCode::Success);
        assert_eq!((bench.sent(), bench.wire().up), (vec!["Disconnect Success".to_owned()], false));
        bench.accept(true, &[]);
        assert_eq!(bench.sent(), ["Publish 1 dup #1 a x"]);
        bench.client.hang_up(&mut bench.net, ReasonCode::DisconnectWithWill);
        let with_will: &[&str] =
            if version == Version::V5 { &["Disconnect DisconnectWithWill"] } else { &[] };
        assert_eq!(bench.sent(), with_will, "before MQTT 5 silence brings the will");
    }
}

#[test]
fn the_identifier_that_the_server_chose_is_used_from_then_on() {
    let assigned = [Property::AssignedClientIdentifier("auto-4711")];
    let mut bench = TestBench::connected(Version::V5, Config::new(""), &assigned);
    bench.wire().up = false;
    assert_eq!(bench.poll(), [Seen::Disconnected(None)]);
    bench.pass_ms(60_000);
    assert_eq!(bench.poll(), []);
    assert!(bench.sent()[0].starts_with("Connect auto-4711 "));
}

#[test]
fn clean_start_is_for_the_first_connection_in_mqtt_5_and_for_each_before_it() {
    for version in BOTH {
        let mut bench = TestBench::new(version, config().clean_start(true));
        bench.poll();
        assert!(bench.sent()[0].contains("clean=1"));
        bench.connack(false, ReasonCode::Success, &[]);
        bench.poll();
        bench.wire().up = false;
        bench.poll();
        bench.pass_ms(60_000);
        bench.poll();
        let again = if version == Version::V5 { "clean=0" } else { "clean=1" };
        assert!(bench.sent()[0].contains(again));
    }
}

#[test]
fn a_mistake_in_the_configuration_is_told() {
    let mut many = config();
    for filter in ["a", "b", "c", "d", "e"] {
        many = many.subscribe(filter, QoS::AtMostOnce);
    }
    let mut bench = TestBench::new(Version::V5, many);
    assert_eq!(bench.poll(), [Seen::Failed(Error::TooManySubscriptions)]);
    let mut bench: Bench<'_, 64, 64> = Bench::new(Version::V311, config().login("user", &[b'x'; 100]));
    assert_eq!(bench.poll(), [Seen::Failed(Error::ConfigTooLarge)]);
    let list = [Subscription::new(
        "a/filter/that/is/rather/long/for/a/buffer/of/sixty/four/bytes/really",
        QoS::AtMostOnce,
    )];
    let mut bench: Bench<'_, 64, 64> = Bench::new(Version::V311, config().subscriptions(&list));
    assert_eq!(bench.poll(), []);
    bench.connack(false, ReasonCode::Success, &[]);
    assert_eq!(bench.poll(), [Seen::Connected(false), Seen::Failed(Error::ConfigTooLarge)]);
}

#[test]
fn topics_that_are_none_are_refused_at_once() {
    let mut bench = TestBench::new(Version::V5, config());
    for wrong in ["", "a/+", "#", "a\0"] {
        assert_eq!(bench.client.publish(wrong, b"x", QoS::AtMostOnce), Err(PublishError::TopicInvalid));
    }
}

#[test]
fn packet_identifiers_in_use_are_not_given_again() {
    let mut bench = TestBench::connected(Version::V5, config(), &[]);
    let held = bench.client.publish("held", b"x", QoS::AtLeastOnce).unwrap();
    for _ in 0..65_535u32 {
        let token = bench.client.publish("t", b"", QoS::AtLeastOnce).unwrap();
        assert_ne!(token, held);
        let _ = bench.poll();
        bench.wire().from_client.clear();
        bench.puback(token.id());
        assert_eq!(bench.poll(), [Seen::Delivered(token.id())]);
        if cfg!(miri) && token.id() > 50 {
            break;
        }
    }
}
