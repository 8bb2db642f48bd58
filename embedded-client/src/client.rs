//! The client: the core and its buffers in one value.

use core::ops::Range;

use lapwing_protocol::{EncodeError, PacketId, QoS, packet, topic};

use crate::machine::{Buffers, Machine};
use crate::shelf::{HEADER, Shelf, flag, kind};
use crate::{Config, Publication, PublishError, Subscription, Token};

/// An MQTT client with an outbox of `OUTBOX` bytes and room for inbound packets of `INBOX` bytes.
///
/// The outbox keeps what is published until it is delivered, also without a connection; a message takes its topic, its payload, its
/// properties and 8 to 14 bytes. It also keeps what the session has to remember: six bytes for each QoS 2 message that is coming in. At most
/// 65,535 bytes of it are used.
///
/// `INBOX` bounds the packets that are taken whole ([`Config::chunks`] takes larger ones), and CONNECT and SUBSCRIBE, which are written
/// there. At least 64, at most 65,535.
pub struct Client<'a, const OUTBOX: usize, const INBOX: usize> {
    pub(crate) machine: Machine<'a>,
    pub(crate) used: u16,
    pub(crate) outbox: [u8; OUTBOX],
    pub(crate) inbox: [u8; INBOX],
}

impl<'a, const OUTBOX: usize, const INBOX: usize> Client<'a, OUTBOX, INBOX> {
    /// A client that is not connected; the first `next` dials.
    pub const fn new(config: Config<'a>) -> Self {
        const { assert!(INBOX >= 64 && INBOX <= 65_535, "the inbound buffer takes 64 to 65,535 bytes") };
        Client { machine: Machine::new(config), used: 0, outbox: [0; OUTBOX], inbox: [0; INBOX] }
    }

    pub(crate) fn parts(&mut self) -> (&mut Machine<'a>, Buffers<'_>) {
        let shelf = Shelf { bytes: &mut self.outbox, used: &mut self.used };
        (&mut self.machine, Buffers { shelf, inbox: &mut self.inbox })
    }

    /// Puts a message into the outbox. It never waits and needs no connection. With QoS 1 and 2 the token comes back in
    /// [`Event::Delivered`](crate::Event::Delivered).
    ///
    /// # Errors
    /// [`PublishError`]; nothing was put then.
    pub fn publish(&mut self, topic: &str, payload: &[u8], qos: QoS) -> Result<Token, PublishError> {
        self.publish_with(&Publication::new(topic, payload).qos(qos))
    }

    /// As [`publish`](Self::publish), with all that can be said about a message.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was put then.
    pub fn publish_with(&mut self, message: &Publication<'_>) -> Result<Token, PublishError> {
        let (machine, mut io) = self.parts();
        machine.publish(&mut io, message)
    }

    /// Announces a message whose payload of `len` bytes is larger than the outbox or is made while it is sent: the outbox keeps the
    /// rest of it, and [`Event::PayloadWanted`](crate::Event::PayloadWanted) asks for the payload, again from the start when
    /// the connection was lost. The payload of `message` is left alone.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was put then.
    pub fn publish_in_pieces(&mut self, message: &Publication<'_>, len: u32) -> Result<Token, PublishError> {
        let mut message = *message;
        message.streamed = len;
        message.flags |= flag::STREAM;
        message.payload = &[];
        self.publish_with(&message)
    }

    /// Asks for one more subscription, now or when the connection is there;
    /// [`Event::Delivered`](crate::Event::Delivered) or [`Event::Refused`](crate::Event::Refused) tells the outcome. Unlike those of the [`Config`] it
    /// is not asked for again when the server has lost the session.
    ///
    /// # Errors
    /// [`PublishError::Full`], [`PublishError::TopicInvalid`].
    pub fn subscribe(&mut self, subscription: Subscription<'_>) -> Result<Token, PublishError> {
        topic::check_filter(subscription.filter).map_err(|_| PublishError::TopicInvalid)?;
        let (machine, mut io) = self.parts();
        let version = machine.version();
        machine.request(&mut io, &|packet_id, out| {
            packet::encode_subscribe(packet_id, &[subscription], version, u32::MAX, out)
        })
    }

    /// Ends a subscription.
    ///
    /// # Errors
    /// As [`subscribe`](Self::subscribe).
    pub fn unsubscribe(&mut self, filter: &str) -> Result<Token, PublishError> {
        topic::check_filter(filter).map_err(|_| PublishError::TopicInvalid)?;
        let (machine, mut io) = self.parts();
        let version = machine.version();
        machine.request(&mut io, &|packet_id, out| {
            packet::encode_unsubscribe(packet_id, &[filter], version, u32::MAX, out)
        })
    }

    /// Whether the connection is up, as far as is known.
    pub const fn is_connected(&self) -> bool {
        self.machine.is_up()
    }

    /// How many messages of any QoS were forgotten before they were sent: displaced under their [`Policy`](crate::Policy), too old, or larger
    /// than the server takes. Counted from the start, and from 0 again after 65,535.
    pub const fn dropped(&self) -> u16 {
        self.machine.dropped
    }

    /// The bytes of the outbox that are in use.
    pub const fn outbox_used(&self) -> usize {
        self.used as usize
    }
}

/// Writes SUBSCRIBE or UNSUBSCRIBE.
type WriteRequest<'w> = dyn Fn(PacketId, &mut [u8]) -> Result<Range<usize>, EncodeError> + 'w;

impl Machine<'_> {
    fn request(&mut self, io: &mut Buffers<'_>, write: &WriteRequest<'_>) -> Result<Token, PublishError> {
        let id = self.allocate(&io.shelf);
        let packet_id = PacketId::new(id).ok_or(PublishError::Full)?;
        let out = io.shelf.free(self.kept()).get_mut(HEADER..).ok_or(PublishError::Full)?;
        let place = write(packet_id, out).map_err(|_| PublishError::Full)?;
        let len = place.len();
        out.copy_within(place, 0);
        io.shelf.commit(kind::REQUEST, 0, id, len);
        self.dirty = true;
        Ok(Token(id))
    }
}
