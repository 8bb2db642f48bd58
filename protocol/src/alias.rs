//! Topic aliases (`3.3.2.3.4`): a number in place of a topic name, for one network connection and
//! one direction.
//!
//! The storage is a slice with one slot for each alias. The caller decides what a slot is: a
//! growing vector in a broker, a fixed array on a microcontroller.

/// A slot that can hold one topic name.
pub trait TopicPlace {
    /// Returns the topic name; empty when there is none.
    fn topic(&self) -> &[u8];
    /// Stores a topic name. Returns `false`, and stays empty, when the name is too long for the
    /// slot.
    fn set(&mut self, topic: &[u8]) -> bool;
}

/// A slot for a topic name of up to `N` bytes.
#[derive(Clone, Copy, Debug)]
pub struct InlineTopic<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Default for InlineTopic<N> {
    fn default() -> Self {
        InlineTopic { bytes: [0; N], len: 0 }
    }
}

impl<const N: usize> TopicPlace for InlineTopic<N> {
    fn topic(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }

    fn set(&mut self, topic: &[u8]) -> bool {
        self.len = 0;
        let Some(place) = self.bytes.get_mut(..topic.len()) else { return false };
        place.copy_from_slice(topic);
        self.len = topic.len();
        true
    }
}

/// Error of a received topic alias.
///
/// DISCONNECT carries 0x94 for an alias that is 0 or above the maximum (`[MQTT-3.3.2-9]`), and 0x82
/// for an alias that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AliasError {
    /// The alias is 0, or above the maximum that was announced to the peer.
    OutOfRange,
    /// The alias is in range, but the peer never assigned a topic name to it.
    Unknown,
    /// The topic name is longer than its slot.
    TopicTooLong,
}

/// Learns or looks up the alias of a received PUBLISH, and returns its topic name. `places` has one
/// slot for each alias up to the announced Topic Alias Maximum.
///
/// # Errors
/// [`AliasError`].
#[inline]
pub fn resolve<'a, P: TopicPlace>(
    places: &'a mut [P],
    alias: u16,
    topic: &'a [u8],
) -> Result<&'a [u8], AliasError> {
    let index = usize::from(alias).checked_sub(1).ok_or(AliasError::OutOfRange)?;
    let place = places.get_mut(index).ok_or(AliasError::OutOfRange)?;
    if !topic.is_empty() && !place.set(topic) {
        return Err(AliasError::TopicTooLong);
    }
    match place.topic() {
        [] => Err(AliasError::Unknown),
        topic => Ok(topic),
    }
}

/// The way in which a PUBLISH names its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// The topic name alone.
    Name,
    /// The topic name, and this alias for it from now on.
    Introduce(u16),
    /// This alias; the topic name is left out.
    Alias(u16),
}

/// Aliases of a sender: a new topic gets the alias that was used least recently.
#[derive(Clone, Debug, Default)]
pub struct OutboundAliases {
    used: u64,
}

impl OutboundAliases {
    /// Creates a sender without aliases.
    pub const fn new() -> Self {
        OutboundAliases { used: 0 }
    }

    /// Chooses how to name `topic`.
    ///
    /// `places` has one slot for each alias that the peer's Topic Alias Maximum allows, with the
    /// time of its last use. The caller must send the PUBLISH, since an introduced alias counts as
    /// known afterwards.
    pub fn name<P: TopicPlace>(&mut self, places: &mut [(P, u64)], topic: &[u8]) -> Naming {
        self.used += 1;
        let mut oldest: Option<(usize, u64)> = None;
        for (index, (place, used)) in places.iter_mut().enumerate() {
            if place.topic() == topic {
                *used = self.used;
                return u16::try_from(index + 1).map_or(Naming::Name, Naming::Alias);
            }
            if oldest.is_none_or(|(_, time)| *used < time) {
                oldest = Some((index, *used));
            }
        }
        let Some((index, _)) = oldest else { return Naming::Name };
        let (Some((place, used)), Ok(alias)) = (places.get_mut(index), u16::try_from(index + 1)) else {
            return Naming::Name;
        };
        *used = self.used;
        if place.set(topic) { Naming::Introduce(alias) } else { Naming::Name }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // 5.0: [MQTT-3.3.2-8] [MQTT-3.3.2-9]
    #[test]
    fn a_receiver_learns_an_alias_and_refuses_one_out_of_range() {
        let mut places = [InlineTopic::<8>::default(); 2];
        assert_eq!(resolve(&mut places, 1, b""), Err(AliasError::Unknown));
        assert_eq!(resolve(&mut places, 1, b"a"), Ok(&b"a"[..]));
        assert_eq!(resolve(&mut places, 1, b""), Ok(&b"a"[..]));
        assert_eq!(resolve(&mut places, 1, b"b"), Ok(&b"b"[..]));
        assert_eq!(resolve(&mut places, 0, b"a"), Err(AliasError::OutOfRange));
        assert_eq!(resolve(&mut places, 3, b"a"), Err(AliasError::OutOfRange));
        assert_eq!(resolve(&mut places, 2, b"longer than 8"), Err(AliasError::TopicTooLong));
        assert_eq!(resolve(&mut places, 2, b""), Err(AliasError::Unknown));
    }

    // 5.0: [MQTT-3.1.2-26] [MQTT-3.1.2-27]
    #[test]
    fn a_sender_reuses_the_alias_that_rested_longest_and_never_exceeds_the_maximum() {
        let mut places = [(InlineTopic::<8>::default(), 0u64); 2];
        let mut aliases = OutboundAliases::new();
        assert_eq!(aliases.name(&mut places, b"a"), Naming::Introduce(1));
        assert_eq!(aliases.name(&mut places, b"b"), Naming::Introduce(2));
        assert_eq!(aliases.name(&mut places, b"a"), Naming::Alias(1));
        assert_eq!(aliases.name(&mut places, b"c"), Naming::Introduce(2));
        assert_eq!(aliases.name(&mut places, b"b"), Naming::Introduce(1));
        assert_eq!(aliases.name(&mut [] as &mut [(InlineTopic<8>, u64)], b"a"), Naming::Name);
    }
}
