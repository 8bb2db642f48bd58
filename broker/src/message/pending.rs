//! Messages that a session has taken from its queue and not sent yet.

use std::collections::VecDeque;

use super::Delivery;

/// Deliveries in order, with the sum of their bytes: one cannot change without the other.
#[derive(Debug, Default)]
pub struct PendingQueue {
    deliveries: VecDeque<Delivery>,
    bytes: usize,
}

impl PendingQueue {
    /// Number of messages.
    pub fn len(&self) -> usize {
        self.deliveries.len()
    }

    /// Returns `true` when there is none.
    pub fn is_empty(&self) -> bool {
        self.deliveries.is_empty()
    }

    /// Sum of the messages' sizes, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The message to send next.
    pub fn front(&self) -> Option<&Delivery> {
        self.deliveries.front()
    }

    /// Removes the message to send next.
    pub fn pop_front(&mut self) -> Option<Delivery> {
        let delivery = self.deliveries.pop_front()?;
        self.bytes = self.bytes.saturating_sub(delivery.message.size());
        Some(delivery)
    }

    /// Adds a message at the end.
    pub fn push_back(&mut self, delivery: Delivery) {
        self.bytes += delivery.message.size();
        self.deliveries.push_back(delivery);
    }

    /// Moves all messages of `queue` to the end; `bytes` is the sum of their sizes.
    pub fn append(&mut self, queue: &mut VecDeque<Delivery>, bytes: usize) {
        if self.deliveries.is_empty() {
            std::mem::swap(&mut self.deliveries, queue);
        } else {
            self.deliveries.append(queue);
        }
        self.bytes += bytes;
    }

    /// Keeps the messages that `keep` says `true` of.
    pub fn retain(&mut self, keep: impl FnMut(&Delivery) -> bool) {
        self.deliveries.retain(keep);
        self.bytes = self.deliveries.iter().map(|delivery| delivery.message.size()).sum();
    }

    /// Removes all messages.
    pub fn take_all(&mut self) -> VecDeque<Delivery> {
        self.bytes = 0;
        std::mem::take(&mut self.deliveries)
    }

    /// The messages in order.
    pub fn iter(&self) -> impl Iterator<Item = &Delivery> {
        self.deliveries.iter()
    }

    /// Gives back memory that is not needed.
    pub fn shrink_to_fit(&mut self) {
        self.deliveries.shrink_to_fit();
    }
}

impl Extend<Delivery> for PendingQueue {
    fn extend<T: IntoIterator<Item = Delivery>>(&mut self, deliveries: T) {
        deliveries.into_iter().for_each(|delivery| self.push_back(delivery));
    }
}
