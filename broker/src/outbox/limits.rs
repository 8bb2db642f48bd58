//! Limits of session queues: of one session, and of all on disk together.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::{Config, QueuePolicy};

/// Limits of one session queue.
#[derive(Clone, Copy, Debug, Default)]
pub struct QueueLimits {
    /// Largest number of messages in memory.
    pub messages_max: usize,
    /// Largest sum of their sizes, in bytes.
    pub bytes_max: usize,
    /// Policy for a message that does not fit.
    pub policy: QueuePolicy,
    /// Set when QoS 0 messages wait while the session is offline.
    pub keeps_qos0: bool,
    /// Largest sum of the sizes of messages on disk only, in bytes.
    pub stored_bytes_max: u64,
    /// Largest number of messages on disk only.
    pub stored_messages_max: u64,
}

impl QueueLimits {
    /// Returns the configured limits.
    pub fn of(config: &Config) -> QueueLimits {
        let limits = &config.limits;
        QueueLimits {
            messages_max: limits.queued_messages_max as usize,
            bytes_max: usize::try_from(limits.queued_bytes_max).unwrap_or(usize::MAX),
            policy: limits.queue_policy,
            keeps_qos0: limits.queue_qos0,
            stored_bytes_max: config.store.queue_bytes_max,
            stored_messages_max: config.store.queue_messages_max.into(),
        }
    }
}

/// The bytes of messages on disk only, of all sessions, and their bound.
#[derive(Debug)]
pub struct DiskTotal {
    bytes: AtomicU64,
    max: AtomicU64,
}

impl DiskTotal {
    /// Creates a sum of zero.
    pub fn new(max: u64) -> DiskTotal {
        DiskTotal { bytes: AtomicU64::new(0), max: AtomicU64::new(max) }
    }

    /// Sets the limit.
    pub fn set_max(&self, max: u64) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// Returns the sum, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Returns `true` when this many bytes more stay within the bound.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.bytes() + bytes <= self.max.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn take(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}
