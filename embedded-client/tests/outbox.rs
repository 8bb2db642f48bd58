//! The outbox without room, time or connection, and what the application is told.

mod support;

use lapwing_client::{Config, Policy, Property, Publication, PublishError, QoS, Subscription, Version};
use lapwing_protocol::packet::Packet;
use support::waiting::{Patient, poll_once};
use support::{Bench, Seen};

const BOTH: [Version; 2] = [Version::V311, Version::V5];

fn config() -> Config<'static> {
    Config::new("s17")
}

type TestBench = Bench<'static, 512, 128>;

#[test]
fn a_full_outbox_refuses_or_forgets_the_oldest_but_never_one_that_is_on_its_way() {
    for version in BOTH {
        let mut bench: Bench<'_, 128, 64> = Bench::connected(version, config(), &[]);
        let _ = bench.client.publish("on-its-way", &[0; 16], QoS::AtLeastOnce).unwrap();
        assert_eq!(bench.poll(), []);
        bench.sent();
        bench.wire().up = false;
        assert_eq!(bench.poll(), [Seen::Disconnected(None)]);
        let first = bench.client.publish("first", &[1; 8], QoS::AtLeastOnce).unwrap();
        let next = Publication::new("second", &[2; 2]).qos(QoS::AtLeastOnce);
        assert_eq!(bench.client.publish_with(&next), Err(PublishError::Full));
        let _ = bench.client.publish_with(&next.policy(Policy::DropOldest)).unwrap();
        // A message that never fits displaces nothing.
        let huge = Publication::new("huge", &[3; 200]).policy(Policy::DropOldest);
        assert_eq!(bench.client.publish_with(&huge), Err(PublishError::Full));
        bench.pass_ms(1_000);
        assert_eq!(bench.poll(), [Seen::Dropped(first.id())]);
        bench.accept(true, &[]);
        let sent = bench.sent();
        assert!(sent[0].starts_with("Publish 1 dup #1 on-its-way"), "{sent:?}");
        assert!(sent[1].starts_with("Publish 1 #"), "{sent:?}");
        assert!(sent[1].contains(" second "), "{sent:?}");
        assert_eq!((sent.len(), bench.client.dropped()), (2, 1));
    }
}

#[test]
fn the_newest_value_of_a_topic_takes_the_place_of_one_that_was_not_sent() {
    for version in BOTH {
        let mut bench = TestBench::new(version, config().policy(Policy::LatestPerTopic));
        for (topic, payload) in [("t", b"1"), ("u", b"2"), ("t", b"3"), ("t", b"4")] {
            let _ = bench.client.publish(topic, payload, QoS::AtLeastOnce).unwrap();
        }
        assert_eq!(bench.poll(), [Seen::Dropped(1), Seen::Dropped(3)]);
        bench.accept(false, &[]);
        let sent = bench.sent();
        assert!(sent.len() == 2 && sent[0].ends_with("u 2") && sent[1].ends_with("t 4"), "{sent:?}");
        // These are being sent: a newer one waits behind them.
        let _ = bench.client.publish("t", b"5", QoS::AtLeastOnce).unwrap();
        assert_eq!(bench.poll(), []);
        assert!(bench.sent()[0].ends_with("t 5"));
        assert_eq!(bench.client.dropped(), 2);
    }
}

#[test]
fn a_message_too_old_is_dropped_with_a_word_and_a_server_of_mqtt_5_is_told_what_is_left() {
    for version in BOTH {
        let mut bench = TestBench::new(version, config());
        bench.wire().answers = false;
        assert_eq!(bench.poll(), []);
        let short = Publication::new("short", b"x").qos(QoS::AtLeastOnce).expires_in_s(10);
        let _ = bench.client.publish_with(&short.qos(QoS::AtMostOnce)).unwrap();
        let short = bench.client.publish_with(&short).unwrap();
        let long = Publication::new("long", b"x").qos(QoS::AtLeastOnce).expires_in_s(100);
        let _ = bench.client.publish_with(&long).unwrap();
        // The first call afterwards starts the clock.
        bench.pass_ms(1_000);
        assert_eq!(bench.poll(), []);
        bench.pass_ms(9_000);
        assert_eq!((bench.poll(), bench.client.dropped()), (vec![], 0));
        bench.pass_ms(1_000);
        assert_eq!(bench.poll(), [Seen::Dropped(short.id())]);
        assert_eq!(bench.client.dropped(), 2, "with the one of QoS 0, which has no token");
        bench.pass_ms(20_500);
        bench.wire().answers = true;
        bench.pass_ms(60_000);
        bench.poll();
        bench.accept(false, &[]);
        let sent = bench.sent().join("; ");
        let expected = if version == Version::V5 {
            "Publish 1 #2 long MessageExpiryInterval(10) x"
        } else {
            "Publish 1 #2 long x"
        };
        assert_eq!(sent, expected);
    }
}

#[test]
fn every_message_that_is_dropped_is_told_once_in_order_while_somebody_listens_and_counted_in_any_case() {
    let mut bench: Bench<'_, 256, 64> = Bench::new(Version::V5, config().policy(Policy::DropOldest));
    bench.wire().answers = false;
    let (mut put, mut told) = (Vec::new(), Vec::new());
    for n in 0..50u8 {
        put.push(bench.client.publish("sensor/temperature", &[n], QoS::AtLeastOnce).unwrap().id());
        told.extend(bench.poll());
    }
    let kept = put.len() - told.len();
    assert!((2..10).contains(&kept), "{kept}");
    let expected: Vec<_> = put[..50 - kept].iter().map(|id| Seen::Dropped(*id)).collect();
    assert_eq!(told, expected);
    assert_eq!(usize::from(bench.client.dropped()), 50 - kept);
}

#[test]
fn words_that_nobody_listens_to_make_room_for_messages() {
    let mut bench: Bench<'_, 256, 64> = Bench::new(Version::V5, config().policy(Policy::DropOldest));
    for n in 0..10_000u16 {
        let token = bench.client.publish("sensor/temperature", &n.to_be_bytes(), QoS::AtLeastOnce).unwrap();
        assert_ne!(token.id(), 0);
    }
    let told = bench.poll();
    assert!(!told.is_empty() && told.iter().all(|event| matches!(event, Seen::Dropped(_))), "{told:?}");
    bench.accept(false, &[]);
    let sent = bench.sent();
    assert_eq!(usize::from(bench.client.dropped()), 10_000 - sent.len());
    assert!(sent.len() >= 2, "{sent:?}");
}

#[test]
fn a_message_of_qos_0_larger_than_the_server_takes_holds_up_nobody_and_is_counted() {
    let mut bench = TestBench::connected(Version::V5, config(), &[Property::MaximumPacketSize(40)]);
    let _ = bench.client.publish("large", &[b'x'; 60], QoS::AtMostOnce).unwrap();
    let _ = bench.client.publish("a", b"x", QoS::AtMostOnce).unwrap();
    assert_eq!(bench.poll(), []);
    assert_eq!((bench.sent(), bench.client.dropped()), (vec!["Publish 0 a x".to_owned()], 1));
}

// Records behind a removed message move down, also while one is being written.
#[test]
fn a_request_that_is_half_written_stays_whole_when_a_message_before_it_is_displaced() {
    for version in BOTH {
        let config = config().policy(Policy::DropOldest).send_maximum(1);
        let mut bench: Bench<'_, 128, 64> = Bench::connected(version, config, &[]);
        let _ = bench.client.publish("first", b"1", QoS::AtLeastOnce).unwrap();
        let waits = bench.client.publish("waits", b"2", QoS::AtLeastOnce).unwrap();
        let _ = bench.client.subscribe(Subscription::new("more/#", QoS::AtLeastOnce)).unwrap();
        let mut patient = Patient { net: bench.net.clone(), takes: 15 };
        assert!(poll_once(bench.client.event(&mut patient)).is_none());
        let _ = bench.client.publish("new", &[b'3'; 16], QoS::AtMostOnce).unwrap();
        assert_eq!(bench.client.dropped(), 1);
        assert_eq!(bench.poll(), [Seen::Dropped(waits.id())]);
        let expected = ["Publish 1 #1 first 1", "Subscribe #3 more/# 1", "Publish 0 new 3333333333333333"];
        assert_eq!(bench.sent(), expected);
    }
}

/// Puts a message that does not fit, and checks that nothing changed by it.
fn refused_without_effect<const O: usize>(bench: &mut Bench<'_, O, 64>, message: &Publication<'_>) {
    let (used, dropped) = (bench.client.outbox_used(), bench.client.dropped());
    let refused = bench.client.publish_with(message);
    assert!(refused.is_err(), "{message:?}");
    assert_eq!((bench.client.outbox_used(), bench.client.dropped()), (used, dropped), "{message:?}");
    assert_eq!(bench.poll(), [], "{message:?}");
}

/// A client without a connection, with a message that was in flight and one that waits.
fn one_in_flight_and_one_that_waits(version: Version, policy: Policy) -> Bench<'static, 128, 64> {
    let mut bench: Bench<'_, 128, 64> = Bench::connected(version, config().policy(policy), &[]);
    let _ = bench.client.publish("in-flight", &[0; 16], QoS::AtLeastOnce).unwrap();
    assert_eq!(bench.poll(), []);
    bench.wire().answers = false;
    bench.wire().up = false;
    assert_eq!(bench.poll(), [Seen::Disconnected(None)]);
    let _ = bench.client.publish("waits", &[1; 8], QoS::AtLeastOnce).unwrap();
    bench
}

#[test]
fn a_message_that_does_not_fit_displaces_nothing_whatever_stands_in_its_way() {
    for version in BOTH {
        for policy in [Policy::Reject, Policy::DropOldest, Policy::LatestPerTopic] {
            let mut bench = one_in_flight_and_one_that_waits(version, policy);
            for topic in ["waits", "new"] {
                for len in 28..200 {
                    let payload = vec![2; len];
                    let message = Publication::new(topic, &payload).qos(QoS::AtLeastOnce);
                    refused_without_effect(&mut bench, &message);
                }
            }
        }
    }
}

#[test]
fn the_check_of_the_room_counts_what_the_record_takes() {
    for version in BOTH {
        for policy in [Policy::Reject, Policy::DropOldest, Policy::LatestPerTopic] {
            // 128 bytes, less six for each of eight inbound identifiers, less the 14 of a record.
            for len in 60..80usize {
                let mut bench: Bench<'_, 128, 64> = Bench::new(version, config().policy(policy));
                bench.wire().answers = false;
                let _ = bench.client.publish("t", b"old", QoS::AtLeastOnce).unwrap();
                let payload = vec![b'x'; len];
                let message = Publication::new("t", &payload).qos(QoS::AtLeastOnce);
                if policy != Policy::Reject && 1 + len + 14 <= 80 {
                    assert!(bench.client.publish_with(&message).is_ok(), "{version:?} {policy:?} {len}");
                    assert_eq!(bench.client.dropped(), 1, "{len}");
                } else {
                    refused_without_effect(&mut bench, &message);
                }
            }
        }
    }
}

#[test]
fn a_message_whose_properties_do_not_fit_or_are_wrong_displaces_nothing() {
    let long = "x".repeat(300);
    let (too_large, twice) = ([Property::UserProperty(("k", &long))], [Property::ContentType("a"); 2]);
    let wrong: [&[Property<'_>]; 8] = [
        &too_large,
        &twice,
        &[Property::PayloadFormatIndicator(2)],
        &[Property::ContentType("a\0")],
        &[Property::UserProperty(("a\0", "b"))],
        &[Property::UserProperty(("a", "b\0"))],
        &[Property::ResponseTopic("a/#")],
        &[Property::TopicAlias(1)],
    ];
    for policy in [Policy::DropOldest, Policy::LatestPerTopic] {
        let mut bench: Bench<'_, 256, 64> = Bench::new(Version::V5, config().policy(policy));
        bench.wire().answers = false;
        for n in 0..5 {
            let _ = bench.client.publish("topic", &[n; 20], QoS::AtLeastOnce).unwrap();
        }
        bench.poll();
        for properties in wrong {
            let message = Publication::new("topic", b"x").qos(QoS::AtLeastOnce).properties(properties);
            refused_without_effect(&mut bench, &message);
            let full = bench.client.publish_with(&message).unwrap_err();
            let expected =
                if properties == too_large { PublishError::Full } else { PublishError::PropertyInvalid };
            assert_eq!(full, expected, "{properties:?}");
        }
    }
}

#[test]
fn a_message_with_properties_fits_to_the_last_byte() {
    for len in 0..150 {
        let value = "v".repeat(len);
        let properties = [
            Property::PayloadFormatIndicator(1),
            Property::ContentType("c"),
            Property::ResponseTopic("r"),
            Property::CorrelationData(b"\0"),
            Property::UserProperty(("k", &value)),
        ];
        let mut bench: Bench<'_, 240, 64> = Bench::new(Version::V5, config());
        let message = Publication::new("t", b"x").qos(QoS::AtLeastOnce).properties(&properties);
        let block = 2 + 3 * 4 + 5 + 1 + len;
        let taken = 14 + 1 + block + 1;
        assert_eq!(bench.client.publish_with(&message).is_ok(), taken <= 240 - 48, "{len}");
        assert_eq!(bench.client.outbox_used(), if taken <= 240 - 48 { taken } else { 0 }, "{len}");
    }
}

#[test]
fn a_request_that_does_not_fit_changes_nothing() {
    for version in BOTH {
        for policy in [Policy::Reject, Policy::DropOldest, Policy::LatestPerTopic] {
            let mut bench = one_in_flight_and_one_that_waits(version, policy);
            let (used, dropped) = (bench.client.outbox_used(), bench.client.dropped());
            let filter = "a/long/filter/that/does/not/fit/beside/the/others";
            let asked = bench.client.subscribe(Subscription::new(filter, QoS::AtMostOnce));
            assert_eq!(asked, Err(PublishError::Full));
            assert_eq!(bench.client.unsubscribe(filter), Err(PublishError::Full));
            assert_eq!((bench.client.outbox_used(), bench.client.dropped()), (used, dropped));
        }
    }
}

// The clock goes on in whole seconds: a part of one has not passed.
#[test]
fn an_expiry_does_not_age_by_a_second_that_has_not_passed() {
    for version in BOTH {
        let mut bench = TestBench::connected(version, config().send_maximum(1), &[]);
        let _ = bench.client.publish("first", b"x", QoS::AtLeastOnce).unwrap();
        assert_eq!(bench.poll(), []);
        bench.pass_ms(900);
        assert_eq!(bench.poll(), []);
        let two_s = Publication::new("short", b"x").qos(QoS::AtLeastOnce).expires_in_s(2);
        let _ = bench.client.publish_with(&two_s).unwrap();
        bench.wire().up = false;
        assert_eq!(bench.poll(), [Seen::Disconnected(None)]);
        // 1.9 seconds after it was published.
        bench.pass_ms(1_900);
        assert_eq!(bench.poll(), []);
        bench.pass_ms(2_000);
        assert_eq!(bench.poll(), [Seen::Dropped(2)]);
    }
}

// 3.1.1 has no Receive Maximum: six bytes for each message that the server has in flight.
#[test]
fn qos_2_messages_beyond_the_room_for_identifiers_come_and_keep_the_connection_before_mqtt_5() {
    let mut bench: Bench<'_, 64, 64> = Bench::connected(Version::V311, config(), &[]);
    for id in 1..=40 {
        bench.publish("a", b"x", QoS::ExactlyOnce, id);
    }
    let told = bench.poll();
    assert_eq!(told.len(), 40, "{told:?}");
    assert_eq!(bench.sent().len(), 40);
    for id in 1..=40 {
        bench.say(Packet::PubRel(support::ack(id)));
    }
    assert_eq!(bench.poll(), []);
    assert_eq!(bench.client.outbox_used(), 0);
    // A server of MQTT 5 knows the number.
    let mut bench: Bench<'_, 64, 64> = Bench::connected(Version::V5, config(), &[]);
    for id in 1..=11 {
        bench.publish("a", b"x", QoS::ExactlyOnce, id);
    }
    let told = bench.poll();
    assert_eq!(
        told.last(),
        Some(&Seen::Disconnected(Some(lapwing_client::ReasonCode::ReceiveMaximumExceeded)))
    );
}
