//! Reasons why a message went no further: a closed list, the same in figures, API and traces.

use std::sync::atomic::{AtomicU64, Ordering};

/// What kind of end a reason is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReasonKind {
    /// The broker did not take it from its publisher.
    Refused,
    /// It was taken, and a subscriber that was to have it does not get it.
    Lost,
    /// Nobody was to have it, or nobody who is there: as MQTT has it, and no drop.
    Skipped,
}

macro_rules! reasons {
    ($($(#[doc = $text:literal])+ $name:ident $word:literal $kind:ident,)+) => {
        /// Why a message went no further.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[doc = $text])+ $name,)+ }

        impl Reason {
            /// All of them.
            pub const ALL: [Reason; [$(Reason::$name),+].len()] = [$(Reason::$name),+];

            /// As figures, API and traces call it.
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$name => $word,)+ }
            }

            /// What kind of end it is.
            pub const fn kind(self) -> ReasonKind {
                match self { $(Reason::$name => ReasonKind::$kind,)+ }
            }

            /// In words.
            pub const fn text(self) -> &'static str {
                match self { $(Reason::$name => concat!($($text),+).trim_ascii(),)+ }
            }
        }
    };
}

reasons! {
    /// this client may not publish to this topic
    DeniedPublish "denied_publish" Refused,
    /// topics that start with $ are the broker's own
    BrokerTopic "broker_topic" Refused,
    /// the topic is longer than limits.topic_bytes_max or limits.topic_levels_max
    TopicLimit "topic_limit" Refused,
    /// more user properties than limits.user_properties_max allows, or
    /// limits.user_property_bytes_max
    UserProperties "user_properties" Refused,
    /// the payload is not the UTF-8 text it is said to be
    PayloadFormat "payload_format" Refused,
    /// the PUBLISH broke MQTT or what was agreed at CONNECT (size, QoS, retain, topic alias,
    /// receive maximum), and its connection was closed
    Violation "violation" Refused,
    /// limits.retained_messages_max or limits.retained_bytes_max is reached
    RetainedFull "retained_full" Refused,
    /// the message cannot be stored: the disk is full, or the store has failed
    StoreRefused "store_refused" Refused,
    /// a subscriber's queue is full and limits.queue_policy is refuse
    SessionQueueRefused "session_queue_refused" Refused,
    /// the queue of the subscriber was full: this message did not get in
    /// (limits.queued_messages_max, limits.queued_bytes_max)
    SessionQueueFull "session_queue_full" Lost,
    /// the queue of the subscriber was full: it was the oldest there and made room
    /// (limits.queue_policy is drop_oldest)
    SessionQueueOldest "session_queue_oldest" Lost,
    /// the queue of the session on disk was full (store.queue_messages_max, store.queue_bytes_max)
    SessionQueueDiskFull "session_queue_disk_full" Lost,
    /// the queues on disk were full, all together (store.queues_bytes_max)
    DiskQueuesFull "disk_queues_full" Lost,
    /// no member of the shared group could take it: their queues were full
    NoMember "no_member" Lost,
    /// this client may not have messages of this topic
    DeniedDelivery "denied_delivery" Lost,
    /// who published this retained message may not any more
    DeniedSource "denied_source" Lost,
    /// the topic is not below the mount point of the listener
    MountPoint "mount_point" Lost,
    /// it is larger than the Maximum Packet Size of the subscriber
    TooLarge "too_large" Lost,
    /// its own expiry passed while it waited
    Expired "expired" Lost,
    /// it waited longer than limits.message_expiry_max_s
    WaitedTooLong "waited_too_long" Lost,
    /// the store does not have it any more: damage, or a disk that was changed
    StoreLost "store_lost" Lost,
    /// it waited for a session that ended
    SessionEnded "session_ended" Lost,
    /// no subscription matched, and it was not retained
    NoSubscriber "no_subscriber" Skipped,
    /// the subscriber published it itself and subscribed with No Local
    NoLocal "no_local" Skipped,
    /// the subscriber is away, and QoS 0 is not kept for it (limits.queue_qos0)
    Offline "offline" Skipped,
}

impl Reason {
    /// Those that count as dropped.
    pub fn drops() -> impl Iterator<Item = Reason> {
        Reason::ALL.into_iter().filter(|reason| reason.kind() != ReasonKind::Skipped)
    }

    /// Those that do not.
    pub fn skipped() -> impl Iterator<Item = Reason> {
        Reason::ALL.into_iter().filter(|reason| reason.kind() == ReasonKind::Skipped)
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Ends by reason.
#[derive(Debug, Default)]
pub struct Drops([AtomicU64; Reason::ALL.len()]);

impl Drops {
    /// So many more.
    pub fn add(&self, reason: Reason, n: u64) {
        if let Some(count) = self.0.get(reason as usize) {
            count.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// So many so far.
    pub fn get(&self, reason: Reason) -> u64 {
        self.0.get(reason as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// All that count as dropped.
    pub fn sum(&self) -> u64 {
        Reason::drops().map(|reason| self.get(reason)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_name_of_its_own_and_words_and_counts_alone() {
        let mut names: Vec<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            let drops = Drops::default();
            drops.add(reason, 2);
            let counted: Vec<Reason> =
                Reason::ALL.into_iter().filter(|other| drops.get(*other) > 0).collect();
            assert_eq!(counted, [reason]);
            assert_eq!(drops.sum(), if reason.kind() == ReasonKind::Skipped { 0 } else { 2 });
            assert!(reason.text().len() > 10 && !reason.text().contains("  "), "{}", reason.text());
        }
    }
}
