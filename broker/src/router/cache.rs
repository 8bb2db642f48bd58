//! The route cache: targets of the topics that one publisher used last.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Router;
use crate::message::Message;
use crate::router::Target;

/// Topics, and targets in all, that every publisher may cache.
const TOPICS: usize = 64;
const TARGETS: usize = 4_096;
/// Bytes that one publisher may cache beyond that; all publishers share a bound, too.
const PUBLISHER_BYTES_MAX: usize = 4 << 20;
const ALL_BYTES_MAX: usize = 64 << 20;
/// One in this many further topics is cached, at random. A topic that repeats is cached soon;
/// topics that never do cost little.
const ONE_IN: usize = 8;
/// Memory of a cached topic beyond its name and targets: its slot in the map, which may be twice as
/// large as needed, and two allocations.
const TOPIC_BYTES: usize = 128;

/// The targets of the topics that one publisher used last, until any subscription changes.
#[derive(Debug, Default)]
pub struct RouteCache {
    generation: u64,
    /// The previous topic: most publishers have one, or stay with it for a while.
    last: (Vec<u8>, Arc<[Target]>),
    /// Further topics, allocated when there is more than one.
    known: Option<Box<CachedTopics>>,
}

#[derive(Debug, Default)]
struct CachedTopics {
    topics: HashMap<Box<[u8]>, Arc<[Target]>>,
    targets: usize,
    /// Uncached topics since the last one that was cached beyond the free share.
    skipped: usize,
    quota: CacheQuota,
}

/// Bytes that all publishers cache beyond their free shares.
#[derive(Debug, Default)]
pub(super) struct CacheUsage(Arc<AtomicUsize>);

/// One publisher's part of [`CacheUsage`], returned when it is dropped.
#[derive(Debug, Default)]
struct CacheQuota {
    of: Option<Arc<AtomicUsize>>,
    bytes: usize,
}

impl RouteCache {
    pub(super) fn targets(&mut self, router: &Router, message: &Message) -> &Arc<[Target]> {
        let (generation, topic) = (router.generation(), message.topic());
        if self.generation != generation {
            self.forget();
            self.generation = generation;
        }
        // No topic is empty, so an empty `last` never matches.
        if *self.last.0 != *topic {
            let known = self.known.as_ref().and_then(|known| known.topics.get(topic).cloned());
            let targets = known.unwrap_or_else(|| self.look_up(router, message));
            let (last, last_targets) = &mut self.last;
            last.clear();
            last.extend_from_slice(topic);
            *last_targets = targets;
        }
        &self.last.1
    }

    #[cold]
    fn look_up(&mut self, router: &Router, message: &Message) -> Arc<[Target]> {
        let targets: Arc<[Target]> = router.targets(message.topic_str()).into();
        let (last, last_targets) = &self.last;
        if !last.is_empty() {
            let known = self.known.get_or_insert_with(|| {
                let mut known = Box::<CachedTopics>::default();
                known.remember(last, last_targets, &router.cache_usage);
                known
            });
            known.remember(message.topic(), &targets, &router.cache_usage);
        }
        targets
    }

    /// Frees the memory.
    pub fn forget(&mut self) {
        *self = RouteCache::default();
    }
}

impl CachedTopics {
    /// Caches the targets of a topic; clears the cache first where there is no room.
    fn remember(&mut self, topic: &[u8], targets: &Arc<[Target]>, all: &CacheUsage) {
        if self.topics.len() >= TOPICS || self.targets >= TARGETS {
            self.skipped = (self.skipped + 1) % ONE_IN;
            if self.skipped != 0 {
                return;
            }
            let bytes = TOPIC_BYTES + topic.len() + size_of_val(&**targets);
            if !self.quota.grow(bytes, all) {
                *self = CachedTopics::default();
            }
        }
        self.targets += targets.len();
        self.topics.insert(topic.into(), targets.clone());
    }
}

impl CacheQuota {
    fn grow(&mut self, bytes: usize, all: &CacheUsage) -> bool {
        if self.bytes + bytes > PUBLISHER_BYTES_MAX {
            return false;
        }
        if all.0.fetch_add(bytes, Ordering::Relaxed) + bytes > ALL_BYTES_MAX {
            all.0.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.of.get_or_insert_with(|| all.0.clone());
        self.bytes += bytes;
        true
    }
}

impl Drop for CacheQuota {
    fn drop(&mut self) {
        if let Some(of) = &self.of {
            of.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use lapwing_protocol::QoS;

    use super::super::{Retained, RetainedLimits, subscriber};
    use super::*;
    use crate::message::MessageParts;
    use crate::outbox::{Outbox, QueueLimits};

    fn router() -> Router {
        let space = RetainedLimits { messages_max: 1, bytes_max: 1, cache_bytes_max: u64::MAX };
        let router = Router::new(Retained::new(space), Arc::default());
        let outbox = Arc::new(Outbox::new(1, QueueLimits::default()));
        router.subscribe("t/#", subscriber(&outbox, QoS::AtMostOnce));
        router
    }

    fn message(topic: &str) -> Message {
        Message::new(&MessageParts { publisher: 2, ..MessageParts::new(topic, &[]) })
    }

    fn topics(cache: &RouteCache) -> usize {
        cache.known.as_ref().map_or(0, |known| known.topics.len())
    }

    fn lent(router: &Router) -> usize {
        router.cache_usage.0.load(Ordering::Relaxed)
    }

    #[test]
    fn a_publisher_caches_ten_thousand_topics_and_frees_them() {
        let (router, mut cache) = (router(), RouteCache::default());
        cache.targets(&router, &message("t/0"));
        assert!(cache.known.is_none(), "one topic needs no map");
        let mut turns = 0;
        while topics(&cache) < 10_001 {
            for n in 0..10_000 {
                assert_eq!(cache.targets(&router, &message(&format!("t/{n}"))).len(), 1);
                assert_eq!(cache.targets(&router, &message("other")).len(), 0);
            }
            turns += 1;
            assert!(turns < 100, "{} of 10,001", topics(&cache));
        }
        assert!(lent(&router) > 1 << 20);
        // Change any subscription.
        router.unsubscribe("t/#", 1);
        assert_eq!(cache.targets(&router, &message("t/1")).len(), 0);
        assert_eq!((topics(&cache), lent(&router)), (0, 0));
    }

    #[test]
    fn topics_that_do_not_repeat_are_rarely_cached() {
        let (router, mut cache) = (router(), RouteCache::default());
        for n in 0..10_000 {
            assert_eq!(cache.targets(&router, &message(&format!("t/{n}"))).len(), 1);
        }
        assert!(topics(&cache) <= TOPICS + 10_000 / ONE_IN, "{}", topics(&cache));
    }

    #[test]
    fn the_cache_is_bounded_for_each_publisher_and_in_sum() {
        let router = router();
        let mut caches: Vec<RouteCache> = (0..20).map(|_| RouteCache::default()).collect();
        let long = "x".repeat(3_000);
        let mut most = 0;
        for n in 0..1_500 * ONE_IN {
            for cache in &mut caches {
                assert_eq!(cache.targets(&router, &message(&format!("t/{n}/{long}"))).len(), 1);
                let bytes = cache.known.as_ref().map_or(0, |known| known.quota.bytes);
                assert!(bytes <= PUBLISHER_BYTES_MAX);
                most = most.max(bytes);
            }
            assert!(lent(&router) <= ALL_BYTES_MAX);
        }
        assert!(most > PUBLISHER_BYTES_MAX / 2);
        drop(caches);
        assert_eq!(lent(&router), 0);
    }
}
