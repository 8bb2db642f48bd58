//! Futures that are dropped at any await, as `select` does: nothing is lost, and all goes on.

mod support;

use core::cell::Cell;
use core::convert::Infallible;
use core::future::poll_fn;
use core::pin::pin;
use core::task::Poll;
use std::rc::Rc;

use lapwing_client::dialers::uart::UartDialer;
use lapwing_client::{Client, Config, Dialer, Event, Publication, QoS, ReasonCode, Subscription, Version};
use lapwing_protocol::packet::Packet;
use support::line::{Clock, Line, poll};
use support::{Bench, Seen, ack, seen};

const BOTH: [Version; 2] = [Version::V311, Version::V5];

/// Polls `event` on and on, and drops its future after the poll with this number, once. Returns the
/// events until nothing moves any more.
fn events(
    bench: &mut Bench<'_, 512, 128>,
    line: &mut Line,
    drop_after: usize,
    polls: &mut usize,
) -> Vec<Seen> {
    let mut told = Vec::new();
    loop {
        let before = line.pending.get();
        let (event, gave_up) = {
            let mut future = pin!(bench.client.event(line));
            let mut still = 0;
            loop {
                *polls += 1;
                if let Some(event) = poll(future.as_mut()) {
                    break (Some(seen(event)), false);
                }
                still += 1;
                if *polls == drop_after {
                    break (None, false);
                }
                // Each operation hesitates once: after some polls without a result, all wait.
                if still > 30 {
                    break (None, true);
                }
            }
        };
        let _ = before;
        match event {
            Some(Seen::PayloadWanted(..)) => {
                let mut piece = pin!(bench.client.send_payload(line, b"0123456789"));
                loop {
                    *polls += 1;
                    if poll(piece.as_mut()).is_some() || *polls == drop_after {
                        break;
                    }
                }
            }
            Some(event) => told.push(event),
            None if gave_up => return told,
            None => {}
        }
    }
}

/// A whole dialogue, during which the future is dropped after the poll with this number. Returns
/// the events, the sent packets, and the number of polls.
fn dialogue(version: Version, drop_after: usize) -> (Vec<Seen>, Vec<String>, usize) {
    let config = Config::new("s17").subscribe("led", QoS::AtLeastOnce).chunks(true).will("s/up", b"0");
    let mut bench: Bench<'_, 512, 128> = Bench::new(version, config);
    let mut line = Line { hesitates: true, ..Line::new(&bench.net) };
    let (mut told, mut sent, mut polls) = (Vec::new(), Vec::new(), 0);
    bench.wire().piece = 7;
    let _ = bench.client.publish("early", b"x", QoS::ExactlyOnce).unwrap();
    for session_present in [true, false] {
        told.extend(events(&mut bench, &mut line, drop_after, &mut polls));
        sent.extend(bench.sent());
        bench.connack(session_present, ReasonCode::Success, &[]);
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let _ = bench.client.publish("t", &[b'x'; 20], qos).unwrap();
        }
        let head = Publication::new("large", b"").qos(QoS::AtLeastOnce);
        let _ = bench.client.publish_in_pieces(&head, 25).unwrap();
        let _ = bench.client.subscribe(Subscription::new("more/#", QoS::AtMostOnce)).unwrap();
        bench.publish("led", b"on", QoS::AtLeastOnce, 70);
        bench.publish("led", &[b'y'; 300], QoS::ExactlyOnce, 71);
        for _ in 0..4 {
            told.extend(events(&mut bench, &mut line, drop_after, &mut polls));
            for packet in bench.sent() {
                let number = |word: &str| word.trim_start_matches('#').parse().ok();
                let id = packet.split_whitespace().find_map(number).unwrap_or(0);
                let named = packet.split_whitespace().find_map(|word| word.strip_prefix('#'));
                let named: u16 = named.map_or(0, |id| id.parse().unwrap());
                match packet.split_whitespace().take(2).collect::<Vec<_>>()[..] {
                    ["Publish", "1"] => bench.puback(named),
                    ["Publish", "2"] => bench.say(Packet::PubRec(ack(named))),
                    ["PubRel", _] => bench.say(Packet::PubComp(ack(id))),
                    ["PubRec", _] => bench.say(Packet::PubRel(ack(id))),
                    ["Subscribe", _] => bench.suback(named, &[ReasonCode::Success]),
                    _ => {}
                }
                sent.push(packet);
            }
        }
        bench.wire().up = false;
        told.extend(events(&mut bench, &mut line, drop_after, &mut polls));
        bench.pass_ms(60_000);
    }
    assert_eq!(bench.client.outbox_used(), 0, "{told:?}");
    (told, sent, polls)
}

#[test]
fn a_dialogue_is_the_same_when_its_future_is_dropped_once_at_any_await() {
    for version in BOTH {
        let (told, sent, polls) = dialogue(version, usize::MAX);
        assert!(told.iter().filter(|event| matches!(event, Seen::Delivered(_))).count() >= 9, "{told:?}");
        for drop_after in (1..=polls).step_by(if cfg!(miri) { 97 } else { 1 }) {
            let (told_then, sent_then, _) = dialogue(version, drop_after);
            assert_eq!(told_then, told, "{version:?}, dropped after poll {drop_after}");
            assert_eq!(sent_then, sent, "{version:?}, dropped after poll {drop_after}");
        }
    }
}

#[test]
fn a_client_whose_future_is_dropped_at_every_await_still_connects() {
    for version in BOTH {
        let mut bench: Bench<'_, 512, 128> = Bench::new(version, Config::new("s17"));
        let mut line = Line::new(&bench.net);
        for _ in 0..20 {
            assert!(support::waiting::poll_once(bench.client.event(&mut line)).is_none());
        }
        assert_eq!(bench.wire().dials, 1);
        assert!(bench.sent()[0].starts_with("Connect"));
        bench.connack(false, ReasonCode::Success, &[]);
        let event = support::waiting::poll_once(bench.client.event(&mut line));
        assert!(matches!(event, Some(Ok(Event::Connected { .. }))));
    }
}

/// A UART that is silent from a moment on.
struct Uart {
    clock: Clock,
    silent_from_ms: u32,
    read_ms: u32,
    written: Rc<Cell<usize>>,
}

impl embedded_io::ErrorType for Uart {
    type Error = Infallible;
}

impl embedded_io_async::Read for Uart {
    async fn read(&mut self, out: &mut [u8]) -> Result<usize, Infallible> {
        // A byte every five milliseconds.
        poll_fn(|_| {
            let now_ms = self.clock.0.0.borrow().now_ms;
            let due = now_ms - self.read_ms >= 5 && now_ms < self.silent_from_ms;
            if due { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        self.read_ms = self.clock.0.0.borrow().now_ms;
        out[0] = b'?';
        Ok(1)
    }
}

impl embedded_io_async::Write for Uart {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        self.written.set(self.written.get() + bytes.len());
        Ok(bytes.len())
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

#[test]
fn a_uart_dialer_connects_although_its_future_is_dropped_every_few_milliseconds() {
    for look_ms in [1, 2, 10, 19, 20, 21, 1_000] {
        let bench: Bench<'_, 64, 64> = Bench::new(Version::V311, Config::new("s17"));
        bench.wire().now_ms = 0;
        let (written, clock) = (Rc::new(Cell::new(0)), Clock(bench.net.clone()));
        let uart = Uart { clock: clock.clone(), silent_from_ms: 100, read_ms: 0, written: written.clone() };
        let mut dialer = UartDialer::new(uart, clock);
        let mut client = Client::<64, 64>::new(Config::new("s17").version(Version::V311));
        let connected_ms = loop {
            let future = client.event(&mut dialer);
            let _ = support::line::run_for(&bench.net, look_ms, future);
            if written.get() > 0 {
                break bench.wire().now_ms;
            }
            assert!(bench.wire().now_ms < 5_000, "not connected with a look every {look_ms} ms");
        };
        // After twenty milliseconds of silence, and not before.
        assert!(connected_ms >= 110, "{look_ms}: {connected_ms}");
    }
}

#[test]
fn a_dial_over_a_uart_begins_anew_after_it_was_given_up() {
    let bench: Bench<'_, 64, 64> = Bench::new(Version::V311, Config::new("s17"));
    bench.wire().now_ms = 0;
    let clock = Clock(bench.net.clone());
    let uart = Uart { clock: clock.clone(), silent_from_ms: 0, read_ms: 0, written: Rc::default() };
    let mut dialer = UartDialer::new(uart, clock);
    assert!(support::line::run_for(&bench.net, 15, dialer.dial()).is_none());
    dialer.hang_up();
    bench.pass_ms(10);
    assert!(support::line::run_for(&bench.net, 15, dialer.dial()).is_none(), "silence counts from here");
    assert!(support::line::run_for(&bench.net, 15, dialer.dial()).is_some());
}
