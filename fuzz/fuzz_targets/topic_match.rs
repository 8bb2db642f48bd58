//! The topic tree against the plain matcher, while subscriptions come and go.
#![no_main]

use std::collections::BTreeSet;
use std::sync::Arc;

use lapwing::internals::config::QueuePolicy;
use lapwing::internals::message::{Message, MessageParts};
use lapwing::internals::outbox::{Outbox, QueueLimits};
use lapwing::internals::router::{Retained, RetainedLimits, RouteCache, Router, Subscriber};
use lapwing::internals::store::publish_record::PublishRecord;
use lapwing_protocol::{QoS, topic};
use libfuzzer_sys::fuzz_target;

/// Returns a short topic of few different levels, so that much matches; `wild` allows wildcards.
fn text(bytes: &mut &[u8], wild: bool) -> String {
    let levels: &[&str] =
        if wild { &["a", "b", "", "+", "#", "$s", "ab"] } else { &["a", "b", "", "$s", "ab"] };
    let mut take = || {
        let (first, rest) = bytes.split_first().unwrap_or((&0, &[]));
        *bytes = rest;
        usize::from(*first)
    };
    let n = take() % 5 + 1;
    (0..n).map(|_| levels[take() % levels.len()]).collect::<Vec<_>>().join("/")
}

fuzz_target!(|data: &[u8]| {
    let mut bytes = data;
    let retained = Retained::new(RetainedLimits { messages_max: 1, bytes_max: 1, cache_bytes_max: u64::MAX });
    let router = Router::new(retained, Default::default());
    let bounds = QueueLimits {
        messages_max: 1 << 20,
        bytes_max: 1 << 30,
        policy: QueuePolicy::DropNewest,
        keeps_qos0: false,
        stored_bytes_max: 0,
        stored_messages_max: 0,
    };
    let outboxes: Vec<Arc<Outbox>> = (1..5).map(|session| Arc::new(Outbox::new(session, bounds))).collect();
    outboxes.iter().for_each(|outbox| outbox.connect(&Default::default()));
    let mut held: BTreeSet<(String, usize)> = BTreeSet::new();
    let mut cache = RouteCache::default();
    while let Some((what, rest)) = bytes.split_first() {
        bytes = rest;
        let who = usize::from(what >> 2) % outboxes.len();
        match what % 3 {
            0 => {
                let filter = text(&mut bytes, true);
                if topic::check_filter(&filter).is_ok() {
                    let outbox = outboxes[who].clone();
                    let qos = QoS::AtLeastOnce;
                    router.subscribe(
                        &filter,
                        Subscriber { outbox, qos, no_local: false, retain_as_published: false, id: None },
                    );
                    held.insert((filter, who));
                }
            }
            1 => {
                let filter = text(&mut bytes, true);
                let was = held.remove(&(filter.clone(), who));
                assert_eq!(router.unsubscribe(&filter, who as u64 + 1), was);
            }
            _ => {
                let name = text(&mut bytes, false);
                // No packet brings another name, and a cache of routes relies on that.
                if !topic::is_name(&name) {
                    continue;
                }
                let message = Message::new(&MessageParts::new(&name, &[]));
                let routed =
                    router.route(&message, &mut cache, &mut Vec::new(), &mut PublishRecord::disabled());
                let expected: BTreeSet<usize> = held
                    .iter()
                    .filter(|(filter, _)| topic::matches(filter, &name))
                    .map(|(_, who)| *who)
                    .collect();
                assert_eq!(routed.matched, expected.len(), "{name} {held:?}");
            }
        }
        assert_eq!(router.counts().0, held.len());
    }
});
