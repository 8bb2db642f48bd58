//! An application message inside the broker: one allocation of exact size, or two where it is
//! large, shared by everybody who receives it.
//!
//! The bytes are a fixed head, then topic name, forwarded properties and payload as they will be
//! written to subscribers. Message expiry is a moment of the broker's clock here, so that whoever
//! sends the message can say what is left of it. Who is done with one says so
//! ([`Message::recycle`]): the last to do so leaves its memory to the next message (`pool`).

mod delivery;
mod pending;
mod pool;

use std::sync::Arc;

pub use delivery::{Delivery, DeliveryTerms, SubscriptionIds};
use lapwing_protocol::QoS;
use lapwing_protocol::property::{Properties, Property, PropertyId, PropertyWriter};
pub use pending::PendingQueue;

/// A moment of the broker's clock ([`Clock`](crate::clock::Clock)), in milliseconds since the Unix
/// epoch.
pub type Millis = u64;

/// Names a session within this broker; never reused. 0 is the broker itself.
pub type SessionNumber = u64;

/// The slot of a message in the stored queue of its session, from 1 on; 0 is none: the message is
/// in memory only.
pub type Seq = u64;

/// Set in the [`Seq`] of retained messages on their way to a new subscription: they are in flight,
/// never in the queue.
pub const REPLAYED: Seq = 1 << 63;

const EXPIRES: std::ops::Range<usize> = 0..8;
const PUBLISHER: std::ops::Range<usize> = 8..16;
const PROPERTIES_LEN: std::ops::Range<usize> = 16..20;
const TOPIC_LEN: std::ops::Range<usize> = 20..22;
const FLAGS: usize = 22;
/// Offset of the number of bytes behind the message that are not part of it; the length decides it.
const PADDING: usize = 23;
const PUBLISHED: std::ops::Range<usize> = 24..32;
const HEAD: usize = 32;
const NEVER: u64 = u64::MAX;
/// From this size on, a message is two allocations, in bytes.
const LARGE: usize = 4 * 1024;
const RETAIN: u8 = 0b100;
/// Behind the payload stands who published it, and then how long that is, in two bytes.
const SOURCED: u8 = 0b1000;
/// At the very end stands the number that it is traced by, in eight bytes. The three bits above are
/// set aside for the depth of rules.
const TRACED: u8 = 0b1_0000;
const TRACE_BYTES: usize = 8;
/// In a source, the byte in front of the identity.
const IDENTITY: u8 = 0xFF;
/// The longest source that is kept, in bytes.
const SOURCE_MAX: usize = 4_096;

/// Publisher of a message, kept with it where its right to publish may have to be asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedBy<'a> {
    /// The client identifier.
    pub client_id: &'a str,
    /// The user.
    pub user: Option<&'a str>,
    /// Identity beside the user, as `auth` packs it; `None`: not known.
    pub identity: Option<&'a [u8]>,
}

impl PublishedBy<'_> {
    /// Neither text holds U+0000, as MQTT forbids it, and no UTF-8 has the byte 0xFF.
    fn to_bytes(self) -> Vec<u8> {
        let behind = |mark: u8, part: Option<&[u8]>| part.map(|part| [&[mark], part].concat());
        let user = behind(0, self.user.map(str::as_bytes)).unwrap_or_default();
        [self.client_id.as_bytes(), &user, &behind(IDENTITY, self.identity).unwrap_or_default()].concat()
    }

    /// As bytes that are not too long to keep. With very many groups, only the names are kept: then
    /// the rights are not known, and nothing is believed.
    fn to_kept_bytes(self) -> Option<Vec<u8>> {
        let names = PublishedBy { identity: None, ..self };
        [self, names].into_iter().map(PublishedBy::to_bytes).find(|bytes| bytes.len() <= SOURCE_MAX)
    }

    fn from_bytes(bytes: &[u8]) -> Option<PublishedBy<'_>> {
        let split = bytes.iter().position(|byte| *byte == IDENTITY).unwrap_or(bytes.len());
        let (names, identity) = bytes.split_at_checked(split)?;
        let names = std::str::from_utf8(names).ok()?;
        let (client_id, user) = match names.split_once('\0') {
            Some((client_id, user)) => (client_id, Some(user)),
            None => (names, None),
        };
        Some(PublishedBy { client_id, user, identity: identity.get(1..) })
    }
}

/// Parts that a message is made of.
#[derive(Clone, Copy, Debug)]
pub struct MessageParts<'a> {
    /// The topic name, after topic aliases.
    pub topic: &'a str,
    /// The properties that go with the message from hop to hop, as a block; see [`forwarded`].
    pub properties: &'a [u8],
    /// The payload.
    pub payload: &'a [u8],
    /// As published.
    pub qos: QoS,
    /// As published.
    pub retain: bool,
    /// Whose message it is.
    pub publisher: SessionNumber,
    /// When it came in.
    pub published_at: Millis,
    /// When it becomes void.
    pub expires_at: Option<Millis>,
}

impl<'a> MessageParts<'a> {
    /// Parts of a QoS 0 message that no session has published, which came in at moment 0 and stays
    /// valid.
    pub const fn new(topic: &'a str, payload: &'a [u8]) -> MessageParts<'a> {
        MessageParts {
            topic,
            properties: &[],
            payload,
            qos: QoS::AtMostOnce,
            retain: false,
            publisher: 0,
            published_at: 0,
            expires_at: None,
        }
    }
}

/// An application message.
#[derive(Clone)]
pub struct Message(MessageBytes);

/// Small ones are one allocation. Filling that with zeros first, where none is left over from
/// another message, would be a copy more of a large one: it is two.
#[derive(Clone)]
enum MessageBytes {
    Small(Arc<[u8]>),
    Large(Arc<Vec<u8>>),
}

impl PartialEq for Message {
    fn eq(&self, other: &Message) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Message {}

/// Remaining life of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// It has no expiry.
    Never,
    /// Seconds, at least 1.
    Left(u32),
    /// It is void.
    Expired,
}

impl Message {
    /// Copies the content into one allocation.
    pub fn new(content: &MessageParts<'_>) -> Message {
        Message::from_source(content, None)
    }

    /// As [`new`](Self::new), with who published it.
    pub fn from_source(content: &MessageParts<'_>, source: Option<PublishedBy<'_>>) -> Message {
        let MessageParts { topic, properties, payload, .. } = content;
        let source = source.and_then(PublishedBy::to_kept_bytes);
        let sourced = if source.is_some() { SOURCED } else { 0 };
        let head = Message::head(content, sourced);
        match source {
            None => Message::assemble([&head, topic.as_bytes(), properties, payload]),
            Some(source) => {
                let len = (source.len() as u16).to_le_bytes();
                Message::assemble([&head, topic.as_bytes(), properties, payload, &source, &len])
            }
        }
    }

    /// One after the other; the head is in the first of them.
    #[inline]
    fn assemble<const N: usize>(parts: [&[u8]; N]) -> Message {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if len >= LARGE {
            let mut bytes = pool::take_large(len);
            let out = Arc::make_mut(&mut bytes);
            parts.iter().for_each(|part| out.extend_from_slice(part));
            out[PADDING] = 0;
            return Message(MessageBytes::Large(bytes));
        }
        let padding = pool::padding(len);
        let mut bytes = pool::take(len + padding);
        let out = Arc::make_mut(&mut bytes);
        let mut at = 0;
        for part in parts {
            out[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        out[PADDING] = padding as u8;
        Message(MessageBytes::Small(bytes))
    }

    /// The caller is done with it. Whoever is the last leaves its memory to the next message.
    #[inline]
    pub fn recycle(self) {
        match self.0 {
            MessageBytes::Small(bytes) if Arc::strong_count(&bytes) == 1 => pool::put(bytes),
            MessageBytes::Large(bytes) if Arc::strong_count(&bytes) == 1 => pool::put_large(bytes),
            _ => {}
        }
    }

    fn head(content: &MessageParts<'_>, sourced: u8) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        head[EXPIRES].copy_from_slice(&content.expires_at.unwrap_or(NEVER).to_le_bytes());
        head[PUBLISHED].copy_from_slice(&content.published_at.to_le_bytes());
        head[PUBLISHER].copy_from_slice(&content.publisher.to_le_bytes());
        // Both lengths come from one packet, whose fields are shorter than this.
        head[PROPERTIES_LEN].copy_from_slice(&(content.properties.len() as u32).to_le_bytes());
        head[TOPIC_LEN].copy_from_slice(&(content.topic.len() as u16).to_le_bytes());
        head[FLAGS] = content.qos as u8 | if content.retain { RETAIN } else { 0 } | sourced;
        head
    }

    /// The same with the number by which it is followed; for once, a copy is not what matters.
    #[must_use]
    #[cold]
    pub fn with_trace(self, id: TraceId) -> Message {
        let mut bytes = [self.as_bytes(), &id.to_le_bytes()].concat();
        if let Some(flags) = bytes.get_mut(FLAGS) {
            *flags |= TRACED;
        }
        Message::assemble([&bytes])
    }

    /// All of it as bytes, for the store.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        self.memory().get(..self.size()).unwrap_or(&[])
    }

    /// With what stands behind its end.
    #[inline]
    fn memory(&self) -> &[u8] {
        match &self.0 {
            MessageBytes::Small(bytes) => bytes,
            MessageBytes::Large(bytes) => bytes,
        }
    }

    /// Reads [`as_bytes`](Self::as_bytes) back; `None` where they are no message.
    pub fn from_bytes(bytes: &[u8]) -> Option<Message> {
        let message = (bytes.len() >= HEAD).then(|| Message::assemble([bytes]))?;
        let whole = message.payload_start() <= message.payload_end();
        let named = whole && std::str::from_utf8(message.topic()).is_ok_and(|topic| !topic.is_empty());
        (named && QoS::from_u8(message.flags() & 0b11).is_some()).then_some(message)
    }

    fn array<const N: usize>(&self, range: std::ops::Range<usize>) -> [u8; N] {
        self.memory().get(range).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
    }

    fn topic_end(&self) -> usize {
        HEAD + usize::from(u16::from_le_bytes(self.array(TOPIC_LEN)))
    }

    fn payload_start(&self) -> usize {
        self.topic_end() + u32::from_le_bytes(self.array(PROPERTIES_LEN)) as usize
    }

    #[inline]
    fn payload_end(&self) -> usize {
        match self.flags() & (SOURCED | TRACED) {
            0 => self.size(),
            _ => self.payload_end_before_more(),
        }
    }

    fn payload_end_before_more(&self) -> usize {
        let end = self.source_end();
        match self.flags() & SOURCED {
            0 => end,
            _ => end
                .saturating_sub(2 + usize::from(u16::from_le_bytes(self.array(end.saturating_sub(2)..end)))),
        }
    }

    fn source_end(&self) -> usize {
        let traced = if self.flags() & TRACED == 0 { 0 } else { TRACE_BYTES };
        self.size().saturating_sub(traced)
    }

    #[inline]
    fn flags(&self) -> u8 {
        self.memory().get(FLAGS).copied().unwrap_or(0)
    }

    /// The number by which it is followed, if it is.
    #[inline]
    pub fn trace(&self) -> Option<TraceId> {
        let traced = self.flags() & TRACED != 0;
        traced.then(|| TraceId::from_le_bytes(self.array(self.source_end()..self.size())))
    }

    /// Publisher, where it was kept.
    pub fn source(&self) -> Option<PublishedBy<'_>> {
        let bytes = self.memory().get(self.payload_end()..self.source_end())?;
        PublishedBy::from_bytes(bytes.get(..bytes.len().checked_sub(2)?)?)
    }

    /// The topic name, as bytes of UTF-8.
    #[inline]
    pub fn topic(&self) -> &[u8] {
        self.memory().get(HEAD..self.topic_end()).unwrap_or(&[])
    }

    /// The topic name as text.
    pub fn topic_str(&self) -> &str {
        std::str::from_utf8(self.topic()).unwrap_or("")
    }

    /// The forwarded properties, as a block.
    #[inline]
    pub fn properties(&self) -> &[u8] {
        self.memory().get(self.topic_end()..self.payload_start()).unwrap_or(&[])
    }

    /// The payload.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        self.memory().get(self.payload_start()..self.payload_end()).unwrap_or(&[])
    }

    /// As published.
    #[inline]
    pub fn qos(&self) -> QoS {
        QoS::from_u8(self.flags() & 0b11).unwrap_or_default()
    }

    /// As published.
    #[inline]
    pub fn retain(&self) -> bool {
        self.flags() & RETAIN != 0
    }

    /// Session that published it.
    #[inline]
    pub fn publisher(&self) -> SessionNumber {
        u64::from_le_bytes(self.array(PUBLISHER))
    }

    /// When it came in.
    #[inline]
    pub fn published_at(&self) -> Millis {
        u64::from_le_bytes(self.array(PUBLISHED))
    }

    /// When it becomes void.
    pub fn expires_at(&self) -> Option<Millis> {
        Some(u64::from_le_bytes(self.array(EXPIRES))).filter(|at| *at != NEVER)
    }

    /// Remaining life (`[MQTT-3.3.2-6]`).
    #[inline]
    pub fn expiry(&self, now: Millis) -> Expiry {
        match self.expires_at() {
            None => Expiry::Never,
            Some(at) if at <= now => Expiry::Expired,
            Some(at) => Expiry::Left(u32::try_from((at - now).div_ceil(1000)).unwrap_or(u32::MAX)),
        }
    }

    /// The memory it takes, in bytes.
    #[inline]
    pub fn size(&self) -> usize {
        let memory = self.memory();
        memory.len().saturating_sub(memory.get(PADDING).copied().unwrap_or(0).into())
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Message")
            .field("topic", &self.topic_str())
            .field("qos", &self.qos())
            .field("retain", &self.retain())
            .field("payload_len", &self.payload().len())
            .finish()
    }
}

/// The properties of a PUBLISH or a will that a server must forward unaltered and in order
/// (`[MQTT-3.3.2-4]`, `[MQTT-3.3.2-15]` … `[MQTT-3.3.2-20]`): all but those of this hop. `scratch`
/// serves where something has to be left out.
pub fn forwarded<'a>(properties: &Properties<'a>, scratch: &'a mut Vec<u8>) -> &'a [u8] {
    const OF_THIS_HOP: [PropertyId; 4] = [
        PropertyId::TopicAlias,
        PropertyId::MessageExpiryInterval,
        PropertyId::SubscriptionIdentifier,
        PropertyId::WillDelayInterval,
    ];
    if !OF_THIS_HOP.iter().any(|id| properties.has(*id)) {
        return properties.as_bytes();
    }
    scratch.clear();
    scratch.resize(properties.as_bytes().len(), 0);
    let mut writer = PropertyWriter::new(scratch);
    for property in properties.iter().filter(|property: &Property<'_>| !OF_THIS_HOP.contains(&property.id()))
    {
        // Part of a block always fits where the whole block did.
        let _ = writer.push(property);
    }
    writer.finish().as_bytes()
}

/// Names a followed message; unique over restarts.
pub type TraceId = u64;

/// When a record counts as kept (`docs/PROMISES.md`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// At once; it is written soon.
    None,
    /// When it is written: what a crash of the broker does not take. Synced by a timer.
    Interval,
    /// When it is on disk: what a loss of power does not take.
    #[default]
    Always,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_gives_back_its_parts_and_counts_its_expiry_down() {
        let message = Message::new(&MessageParts {
            properties: &[1, 1],
            qos: QoS::ExactlyOnce,
            retain: true,
            publisher: 7,
            expires_at: Some(5_000),
            ..MessageParts::new("a/ä", b"xyz")
        });
        assert_eq!(
            (message.topic_str(), message.properties(), message.payload()),
            ("a/ä", &[1, 1][..], &b"xyz"[..])
        );
        assert_eq!((message.qos(), message.retain(), message.publisher()), (QoS::ExactlyOnce, true, 7));
        assert_eq!(
            (message.source(), Message::from_bytes(message.as_bytes())),
            (None, Some(message.clone()))
        );
        assert_eq!(message.expiry(0), Expiry::Left(5));
        assert_eq!(message.expiry(4_001), Expiry::Left(1));
        assert_eq!(message.expiry(5_000), Expiry::Expired);
    }

    #[test]
    fn a_message_in_the_memory_of_another_shows_nothing_of_it() {
        fn content(payload: &[u8]) -> MessageParts<'_> {
            MessageParts { publisher: 7, ..MessageParts::new("a", payload) }
        }
        let place = |message: &Message| message.as_bytes().as_ptr();
        let (long, short) = ([b'x'; 70], [b'y'; 60]);
        let first = Message::new(&content(&long));
        let (at, shared) = (place(&first), first.clone());
        first.recycle();
        assert_ne!(place(&Message::new(&content(&short))), at, "somebody has it still");
        assert_eq!(shared.payload(), long);
        shared.recycle();
        let second = Message::from_source(&content(&short), None);
        assert_eq!((place(&second), second.payload(), second.size()), (at, &short[..], HEAD + 1 + 60));
        // All lengths, small and large, in memory that is all x.
        for len in (0..1_100).chain(LARGE - 200..LARGE + 200) {
            for _ in 0..2 {
                let payload = vec![b'x'; len + 15];
                Message::new(&content(&payload)).recycle();
            }
            let message = Message::new(&content(&vec![b'y'; len]));
            let read = Message::from_bytes(message.as_bytes());
            assert_eq!((message.size(), read.as_ref()), (HEAD + 1 + len, Some(&message)), "{len}");
            assert!(message.payload().iter().all(|byte| *byte == b'y'));
            message.recycle();
        }
    }

    #[test]
    fn a_message_keeps_who_published_it_through_the_store() {
        let content = MessageParts {
            properties: &[1, 1],
            retain: true,
            publisher: 7,
            ..MessageParts::new("a", b"xyz")
        };
        let by = |client_id, user, identity| PublishedBy { client_id, user, identity };
        let identity: &[u8] = &[0, 0xFF, 7];
        let sources = [
            by("c", Some("ann"), None),
            by("", None, None),
            by("", None, Some(identity)),
            by("c", Some(""), Some(identity)),
            by("c", None, Some(&[])),
        ];
        for source in sources {
            let message = Message::from_source(&content, Some(source));
            let read = Message::from_bytes(message.as_bytes()).unwrap();
            assert_eq!(
                (read.source(), read.payload(), read.properties()),
                (Some(source), &b"xyz"[..], &[1, 1][..])
            );
            assert_eq!(read.trace(), None);
            // Followed, it is the same message with a number.
            for (source, id) in [(Some(source), 7), (None, u64::MAX)] {
                let message = Message::from_source(&content, source).with_trace(id);
                let read = Message::from_bytes(message.as_bytes()).unwrap();
                assert_eq!((read.trace(), read.source(), read.payload()), (Some(id), source, &b"xyz"[..]));
            }
        }
        // What is too long is left out from behind: the identity, then all of it.
        let (long, longer) = (vec![7; SOURCE_MAX], "c".repeat(SOURCE_MAX + 1));
        let kept = |source| Message::from_source(&content, Some(source));
        assert_eq!(kept(by("c", Some("ann"), Some(&long))).source(), Some(by("c", Some("ann"), None)));
        assert_eq!(kept(by(&longer, None, None)).source(), None);
        let mut cut = Message::from_source(&content, Some(by("c", None, None))).as_bytes().to_vec();
        let len = cut.len();
        cut[len - 2..].copy_from_slice(&u16::MAX.to_le_bytes());
        assert_eq!(Message::from_bytes(&cut), None);
    }
}
