//! Every call returns, or waits where others can run.

mod support;

use core::cell::Cell;
use core::convert::Infallible;
use std::rc::Rc;

use embedded_io::{ErrorType, Read, ReadReady, Write};
use lapwing_client::blocking::Dialer;
use lapwing_client::dialers::uart::UartDialer;
use lapwing_client::{Config, Error, Event, LinkDown, Publication, QoS, Version};
use support::line::{Line, run_for};
use support::waiting::poll_once;
use support::{Bench, Net, Seen};

const BOTH: [Version; 2] = [Version::V311, Version::V5];

type TestBench = Bench<'static, 512, 128>;

fn config() -> Config<'static> {
    Config::new("s17")
}

#[test]
fn next_and_wait_end_with_an_error_when_an_announced_payload_is_wanted() {
    for version in BOTH {
        let mut bench = TestBench::connected(version, config(), &[]);
        let head = Publication::new("large", b"").qos(QoS::AtLeastOnce);
        let _ = bench.client.publish_in_pieces(&head, 3).unwrap();
        let mut line = Line::new(&bench.net);
        for _ in 0..3 {
            let next = poll_once(bench.client.next(&mut line));
            assert_eq!(next.expect("it ends").err(), Some(Error::PayloadWanted));
            assert_eq!(bench.client.wait(&mut bench.net).err(), Some(Error::PayloadWanted));
        }
        // The connection is as good as before.
        assert_eq!(poll_once(bench.client.send_payload(&mut line, b"abc")), Some(Ok(3)));
        assert_eq!(bench.poll(), []);
        assert_eq!(bench.sent(), ["Publish 1 #1 large abc"]);
    }
}

#[test]
fn the_event_that_wants_a_payload_is_an_event_and_no_error() {
    let mut bench = TestBench::connected(Version::V5, config(), &[]);
    let _ = bench.client.publish_in_pieces(&Publication::new("large", b""), 3).unwrap();
    let mut line = Line::new(&bench.net);
    let event = poll_once(bench.client.event(&mut line)).unwrap();
    assert!(matches!(event, Ok(Event::PayloadWanted { offset: 0, left: 3, .. })), "{event:?}");
}

/// A dialer whose dials fail, with a clock that advances by itself as time does.
struct Failing {
    dials: usize,
    now_ms: u32,
    step_ms: u32,
}

impl Dialer for Failing {
    type Link = Net;

    fn dial(&mut self) -> Result<bool, LinkDown> {
        self.dials += 1;
        assert!(self.dials < 1_000, "it dials for ever");
        // A dial takes its time, too.
        self.now_ms += self.step_ms;
        Err(LinkDown)
    }

    fn link(&mut self) -> Option<&mut Net> {
        None
    }

    fn hang_up(&mut self) {}

    fn now_ms(&mut self) -> u32 {
        self.now_ms
    }
}

#[test]
fn poll_dials_once_although_no_pause_is_wanted() {
    for (shortest, longest) in [(0, 1_000), (0, 0), (1_000, 0), (1, 1)] {
        for step_ms in [0, 1, 50, 5_000] {
            let mut client = lapwing_client::Client::<64, 64>::new(config().backoff_ms(shortest, longest));
            let mut dialer = Failing { dials: 0, now_ms: 0, step_ms };
            assert!(client.poll(&mut dialer).is_none());
            assert_eq!(dialer.dials, 1, "{shortest} {longest} {step_ms}");
        }
    }
}

#[test]
fn the_async_client_pauses_although_no_pause_is_wanted() {
    for version in BOTH {
        let mut bench = TestBench::new(version, config().backoff_ms(0, 0));
        bench.wire().answers = false;
        let mut line = Line::new(&bench.net);
        assert!(run_for(&bench.net, 10, bench.client.event(&mut line)).is_none());
        let dials = bench.wire().dials;
        assert!((2..=12).contains(&dials), "{dials} in ten milliseconds");
    }
}

/// A link that takes and gives nothing, without an error.
struct Nothing(Rc<Cell<usize>>);

impl ErrorType for Nothing {
    type Error = Infallible;
}

impl ReadReady for Nothing {
    fn read_ready(&mut self) -> Result<bool, Infallible> {
        Ok(true)
    }
}

impl Read for Nothing {
    fn read(&mut self, out: &mut [u8]) -> Result<usize, Infallible> {
        self.0.set(self.0.get() + out.len());
        assert!(self.0.get() < 1_000_000, "it reads for ever");
        Ok(out.len())
    }
}

impl Write for Nothing {
    fn write(&mut self, _: &[u8]) -> Result<usize, Infallible> {
        self.0.set(self.0.get() + 1);
        assert!(self.0.get() < 1_000_000, "it writes for ever");
        Ok(0)
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

#[test]
fn a_uart_whose_peer_never_stops_does_not_keep_the_main_loop() {
    let read = Rc::new(Cell::new(0));
    let mut net = UartDialer::new(Nothing(read.clone()), || 0);
    let mut client = lapwing_client::Client::<64, 64>::new(config());
    for _ in 0..3 {
        assert!(client.poll(&mut net).is_none());
    }
    assert!(read.get() > 1_000);
}

#[test]
fn a_link_that_takes_no_bytes_counts_as_lost() {
    struct Deaf(Net, usize);
    impl Dialer for Deaf {
        type Link = Silent;
        fn dial(&mut self) -> Result<bool, LinkDown> {
            self.1 += 1;
            Ok(true)
        }
        fn link(&mut self) -> Option<&mut Silent> {
            None.or(Some(Box::leak(Box::new(Silent))))
        }
        fn hang_up(&mut self) {}
        fn now_ms(&mut self) -> u32 {
            self.0.0.borrow().now_ms
        }
    }
    struct Silent;
    impl ErrorType for Silent {
        type Error = Infallible;
    }
    impl ReadReady for Silent {
        fn read_ready(&mut self) -> Result<bool, Infallible> {
            Ok(false)
        }
    }
    impl Read for Silent {
        fn read(&mut self, _: &mut [u8]) -> Result<usize, Infallible> {
            Ok(0)
        }
    }
    impl Write for Silent {
        fn write(&mut self, _: &[u8]) -> Result<usize, Infallible> {
            Ok(0)
        }
        fn flush(&mut self) -> Result<(), Infallible> {
            Ok(())
        }
    }
    let bench = TestBench::new(Version::V5, config());
    let mut deaf = Deaf(bench.net.clone(), 0);
    let mut client = lapwing_client::Client::<64, 64>::new(config());
    assert!(client.poll(&mut deaf).is_none());
    assert_eq!((deaf.1, client.failures()), (1, 1));
}

// The dial may take as long as the response timeout, and CONNACK again.
#[test]
fn a_dial_that_took_long_leaves_time_for_the_answer() {
    for version in BOTH {
        let mut bench = TestBench::new(version, config().response_timeout_ms(3_000));
        struct Slow(Net);
        impl Dialer for Slow {
            type Link = Net;
            fn dial(&mut self) -> Result<bool, LinkDown> {
                self.0.0.borrow_mut().now_ms += 2_900;
                Dialer::dial(&mut self.0)
            }
            fn link(&mut self) -> Option<&mut Net> {
                Dialer::link(&mut self.0)
            }
            fn hang_up(&mut self) {
                Dialer::hang_up(&mut self.0);
            }
            fn now_ms(&mut self) -> u32 {
                self.0.0.borrow().now_ms
            }
        }
        bench.wire().now_ms = 1_000;
        let mut slow = Slow(bench.net.clone());
        assert!(bench.client.poll(&mut slow).is_none());
        bench.pass_ms(2_000);
        bench.connack(false, lapwing_client::ReasonCode::Success, &[]);
        assert_eq!(bench.poll(), [Seen::Connected(false)]);
    }
}
