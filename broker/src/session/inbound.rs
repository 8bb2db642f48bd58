//! The QoS 2 messages that a client has sent and not yet released (`4.3.3`).

use lapwing_protocol::PacketId;
use lapwing_protocol::flight::InboundStore;

/// Above this many, a bit for each possible identifier is the smaller and the faster store.
const LIST_MAX: usize = 64;
const WORDS: usize = 1 << 10;

/// A set of packet identifiers: a short list for the usual client, 8 KiB of bits for one that keeps
/// thousands open (MQTT 3 has no way to tell it not to).
#[derive(Debug)]
pub enum ReceivedIds {
    /// In the order of arrival.
    List(Vec<PacketId>),
    /// One bit for each identifier.
    Bits {
        /// 65,536 of them.
        words: Box<[u64; WORDS]>,
        /// Number of identifiers that are set.
        count: usize,
    },
}

impl Default for ReceivedIds {
    fn default() -> Self {
        ReceivedIds::List(Vec::new())
    }
}

impl InboundStore for ReceivedIds {
    fn contains(&self, id: PacketId) -> bool {
        match self {
            ReceivedIds::List(ids) => ids.contains(&id),
            ReceivedIds::Bits { words, .. } => words[word(id)] & bit(id) != 0,
        }
    }

    fn insert(&mut self, id: PacketId) -> bool {
        match self {
            ReceivedIds::List(ids) if ids.len() < LIST_MAX => ids.push(id),
            ReceivedIds::List(ids) => {
                let mut words = Box::new([0u64; WORDS]);
                ids.iter().chain([&id]).for_each(|id| words[word(*id)] |= bit(*id));
                *self = ReceivedIds::Bits { words, count: LIST_MAX + 1 };
            }
            ReceivedIds::Bits { words, count } => {
                words[word(id)] |= bit(id);
                *count += 1;
            }
        }
        true
    }

    fn remove(&mut self, id: PacketId) -> bool {
        match self {
            ReceivedIds::List(ids) => {
                let at = ids.iter().position(|kept| *kept == id);
                at.map(|at| ids.remove(at)).is_some()
            }
            ReceivedIds::Bits { words, count } => {
                let was_set = words[word(id)] & bit(id) != 0;
                if was_set {
                    words[word(id)] &= !bit(id);
                    *count -= 1;
                    if *count == 0 {
                        *self = ReceivedIds::default();
                    }
                }
                was_set
            }
        }
    }

    fn len(&self) -> usize {
        match self {
            ReceivedIds::List(ids) => ids.len(),
            ReceivedIds::Bits { count, .. } => *count,
        }
    }
}

/// Returns the index of the word: always below [`WORDS`], since an identifier has 16 bits.
fn word(id: PacketId) -> usize {
    usize::from(id.get() >> 6)
}

fn bit(id: PacketId) -> u64 {
    1 << (id.get() & 63)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_identifiers_can_be_open_and_are_forgotten_one_by_one() {
        let mut ids = ReceivedIds::default();
        for n in 1..=u16::MAX {
            assert!(ids.insert(PacketId::new(n).unwrap()));
        }
        assert_eq!(ids.len(), 65_535);
        for n in 1..=u16::MAX {
            let id = PacketId::new(n).unwrap();
            assert!(ids.contains(id) && ids.remove(id) && !ids.remove(id));
        }
        assert!(ids.is_empty() && matches!(ids, ReceivedIds::List(_)));
    }
}
