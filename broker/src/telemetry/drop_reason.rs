//! Drop reasons: a closed list, the same in metrics, API and traces.

use std::sync::atomic::{AtomicU64, Ordering};

/// Kind of a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReasonKind {
    /// The broker did not accept the message from its publisher.
    Refused,
    /// The message was accepted, but a subscriber does not receive it.
    Lost,
    /// No present client was to receive it, by MQTT's own rules; no drop.
    Skipped,
}

macro_rules! reasons {
    ($($(#[doc = $text:literal])+ $name:ident $word:literal $kind:ident,)+) => {
        /// Reason why a message was not delivered.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[doc = $text])+ $name,)+ }

        impl Reason {
            /// All reasons.
            pub const ALL: [Reason; [$(Reason::$name),+].len()] = [$(Reason::$name),+];

            /// Name in metrics, API and traces.
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$name => $word,)+ }
            }

            /// Kind of the reason.
            pub const fn kind(self) -> ReasonKind {
                match self { $(Reason::$name => ReasonKind::$kind,)+ }
            }

            /// Description.
            pub const fn text(self) -> &'static str {
                match self { $(Reason::$name => concat!($($text),+).trim_ascii(),)+ }
            }
        }
    };
}

reasons! {
    /// the client may not publish to this topic
    DeniedPublish "denied_publish" Refused,
    /// topics that start with $ are reserved for the broker
    BrokerTopic "broker_topic" Refused,
    /// the topic exceeds limits.topic_bytes_max or limits.topic_levels_max
    TopicLimit "topic_limit" Refused,
    /// the user properties exceed limits.user_properties_max or limits.user_property_bytes_max
    UserProperties "user_properties" Refused,
    /// the payload is declared as UTF-8 text, but is not
    PayloadFormat "payload_format" Refused,
    /// the PUBLISH violates MQTT or what was agreed at CONNECT (size, QoS, retain, topic alias,
    /// receive maximum); the connection was closed
    Violation "violation" Refused,
    /// limits.retained_messages_max or limits.retained_bytes_max is reached
    RetainedFull "retained_full" Refused,
    /// the message cannot be stored: the disk is full, or the store has failed
    StoreRefused "store_refused" Refused,
    /// a subscriber's session queue is full, and limits.queue_policy is refuse
    SessionQueueRefused "session_queue_refused" Refused,
    /// the subscriber's session queue was full (limits.queued_messages_max,
    /// limits.queued_bytes_max)
    SessionQueueFull "session_queue_full" Lost,
    /// the subscriber's session queue was full; its oldest message made room (limits.queue_policy
    /// is drop_oldest)
    SessionQueueOldest "session_queue_oldest" Lost,
    /// the session queue on disk was full (store.queue_messages_max, store.queue_bytes_max)
    SessionQueueDiskFull "session_queue_disk_full" Lost,
    /// all session queues on disk together were full (store.queues_bytes_max)
    DiskQueuesFull "disk_queues_full" Lost,
    /// no member of the shared group could take it: their session queues were full
    NoMember "no_member" Lost,
    /// the subscriber may not receive messages of this topic
    DeniedDelivery "denied_delivery" Lost,
    /// the publisher of the retained message may no longer publish to its topic
    DeniedSource "denied_source" Lost,
    /// the topic is not below the mount point of the listener
    MountPoint "mount_point" Lost,
    /// the message is larger than the subscriber's Maximum Packet Size
    TooLarge "too_large" Lost,
    /// the message expired in the session queue
    Expired "expired" Lost,
    /// the message waited longer than limits.message_expiry_max_s
    WaitedTooLong "waited_too_long" Lost,
    /// the store no longer has the message: damage, or a replaced disk
    StoreLost "store_lost" Lost,
    /// the session ended before delivery
    SessionEnded "session_ended" Lost,
    /// no subscription matched, and the message was not retained
    NoSubscriber "no_subscriber" Skipped,
    /// the subscriber published the message itself and subscribed with No Local
    NoLocal "no_local" Skipped,
    /// the subscriber is offline, and QoS 0 is not queued for it (limits.queue_qos0)
    Offline "offline" Skipped,
}

impl Reason {
    /// Reasons that count as drops.
    pub fn drops() -> impl Iterator<Item = Reason> {
        Reason::ALL.into_iter().filter(|reason| reason.kind() != ReasonKind::Skipped)
    }

    /// Reasons that do not count as drops.
    pub fn skipped() -> impl Iterator<Item = Reason> {
        Reason::ALL.into_iter().filter(|reason| reason.kind() == ReasonKind::Skipped)
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Counters by reason.
#[derive(Debug, Default)]
pub struct Drops([AtomicU64; Reason::ALL.len()]);

impl Drops {
    /// Adds to a reason.
    pub fn add(&self, reason: Reason, n: u64) {
        if let Some(count) = self.0.get(reason as usize) {
            count.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// Count of a reason.
    pub fn get(&self, reason: Reason) -> u64 {
        self.0.get(reason as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Sum of all reasons that count as drops.
    pub fn sum(&self) -> u64 {
        Reason::drops().map(|reason| self.get(reason)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_name_text_and_counter() {
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
