//! The session across deep sleep: saved, and found whole or not at all.

mod support;

use lapwing_client::{Client, Config, Persist, Policy, Publication, QoS, Version};
use lapwing_protocol::packet::Packet;
use support::{Bench, Seen, ack, message};

/// A page of flash that can lose power.
#[derive(Clone, Default)]
struct Page {
    bytes: Vec<u8>,
    /// Bytes that are still written before the power fails.
    power: Option<usize>,
}

impl Persist for Page {
    type Error = ();

    fn begin(&mut self, len: usize) -> Result<(), ()> {
        self.bytes = vec![0xff; len];
        Ok(())
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), ()> {
        for (at, byte) in bytes.iter().enumerate() {
            if let Some(left) = &mut self.power {
                *left = left.checked_sub(1).ok_or(())?;
            }
            assert_eq!(self.bytes[offset + at], 0xff, "flash is written once");
            self.bytes[offset + at] = *byte;
        }
        Ok(())
    }

    fn read(&mut self, offset: usize, out: &mut [u8]) -> Result<(), ()> {
        for (at, place) in out.iter_mut().enumerate() {
            *place = self.bytes.get(offset + at).copied().unwrap_or(0xff);
        }
        Ok(())
    }
}

const BOTH: [Version; 2] = [Version::V311, Version::V5];

fn asleep(version: Version) -> Page {
    let mut bench: Bench<'_> = Bench::connected(version, Config::new("s17"), &[]);
    let _ = bench.client.publish("a", b"1", QoS::AtLeastOnce).unwrap();
    let _ = bench.client.publish("b", b"2", QoS::ExactlyOnce).unwrap();
    assert_eq!(bench.poll(), []);
    bench.say(Packet::PubRec(ack(2)));
    bench.publish("in", b"once", QoS::ExactlyOnce, 9);
    assert_eq!(bench.poll(), [message("in", b"once", QoS::ExactlyOnce)]);
    let old = Publication::new("old", b"3").qos(QoS::AtLeastOnce).expires_in_s(60);
    bench.net.0.borrow_mut().up = false;
    assert_eq!(bench.poll(), [Seen::Disconnected(None)]);
    let _ = bench.client.publish_with(&old).unwrap();
    bench.pass_ms(1_000);
    bench.net.0.borrow_mut().answers = false;
    assert_eq!(bench.poll(), []);
    assert!(bench.client.is_dirty());
    let mut page = Page::default();
    bench.client.save(&mut page).unwrap();
    assert!(!bench.client.is_dirty());
    page
}

#[test]
fn a_restored_client_goes_on_where_it_was() {
    for version in BOTH {
        let mut page = asleep(version);
        let mut bench: Bench<'_> = Bench::new(version, Config::new("s17"));
        assert_eq!(bench.client.restore(&mut page, 30), Ok(true));
        bench.accept(true, &[]);
        let expiry = if version == Version::V5 { " MessageExpiryInterval(30)" } else { "" };
        assert_eq!(
            bench.sent(),
            ["Publish 1 dup #1 a 1".to_owned(), "PubRel 2".to_owned(), format!("Publish 1 #3 old{expiry} 3")]
        );
        bench.publish("in", b"once", QoS::ExactlyOnce, 9);
        assert_eq!(bench.poll(), [], "it was handed over before the sleep");
        let next = bench.client.publish("next", b"", QoS::AtLeastOnce).unwrap();
        assert_eq!(next.id(), 4);
    }
}

#[test]
fn what_expired_during_the_sleep_is_dropped() {
    let mut page = asleep(Version::V5);
    let mut bench: Bench<'_> = Bench::new(Version::V5, Config::new("s17"));
    assert_eq!(bench.client.restore(&mut page, 60), Ok(true));
    assert_eq!(bench.poll(), [Seen::Dropped(3)]);
}

#[test]
fn the_word_of_a_message_that_was_displaced_before_the_sleep_comes_after_it() {
    let config = || Config::new("s17").policy(Policy::LatestPerTopic);
    let mut bench: Bench<'_> = Bench::new(Version::V5, config());
    let older = bench.client.publish("t", b"1", QoS::AtLeastOnce).unwrap();
    let _ = bench.client.publish("t", b"2", QoS::AtLeastOnce).unwrap();
    let mut page = Page::default();
    bench.client.save(&mut page).unwrap();
    let mut bench: Bench<'_> = Bench::new(Version::V5, config());
    assert_eq!(bench.client.restore(&mut page, 0), Ok(true));
    assert_eq!(bench.poll(), [Seen::Dropped(older.id())]);
    bench.accept(false, &[]);
    assert_eq!(bench.sent(), ["Publish 1 #2 t 2"]);
}

#[test]
fn a_write_that_was_cut_anywhere_is_found_out() {
    let whole = asleep(Version::V5).bytes.len();
    let mut bench: Bench<'_> = Bench::new(Version::V5, Config::new("s17"));
    let _ = bench.client.publish("topic", b"payload", QoS::AtLeastOnce).unwrap();
    let mut page = Page::default();
    bench.client.save(&mut page).unwrap();
    let len = page.bytes.len();
    assert!(len < whole);
    for power in 0..len {
        let mut page = Page { power: Some(power), ..Page::default() };
        assert_eq!(bench.client.save(&mut page), Err(()));
        let mut fresh: Client<'_, 512, 128> = Client::new(Config::new("s17"));
        assert_eq!(fresh.restore(&mut page, 0), Ok(false), "{power}");
        assert_eq!(fresh.outbox_used(), 0);
    }
}

#[test]
fn a_flipped_bit_a_smaller_outbox_and_an_empty_page_are_no_session() {
    let page = asleep(Version::V5);
    for bit in (0..page.bytes.len() * 8).step_by(if cfg!(miri) { 37 } else { 1 }) {
        let mut page = page.clone();
        page.bytes[bit / 8] ^= 1 << (bit % 8);
        let mut fresh: Client<'_, 512, 128> = Client::new(Config::new("s17"));
        assert_eq!(fresh.restore(&mut page, 0), Ok(false), "bit {bit}");
        assert_eq!(fresh.outbox_used(), 0);
    }
    let mut small: Client<'_, 16, 64> = Client::new(Config::new("s17"));
    assert_eq!(small.restore(&mut page.clone(), 0), Ok(false));
    let mut fresh: Client<'_, 512, 128> = Client::new(Config::new("s17"));
    assert_eq!(fresh.restore(&mut Page::default(), 0), Ok(false));
}
