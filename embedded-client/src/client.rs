//! The client: the machine and its buffers in one value.

use core::ops::Range;

use lapwing_protocol::{EncodeError, PacketId, QoS, packet, topic};

use crate::machine::{Buffers, Machine};
use crate::shelf::{HEADER, Shelf, flag, kind};
use crate::{Config, Publication, PublishError, Subscription, Token};

/// An MQTT client with an outbox of `OUTBOX` bytes and room for inbound packets of `INBOX` bytes.
///
/// The outbox keeps messages until they are delivered, also without a connection. A message takes
/// its topic, its payload, its properties and 8 to 14 bytes. The outbox also keeps the session: six
/// bytes for each inbound QoS 2 message. It uses at most 65,535 bytes.
///
/// `INBOX` is 64 to 65,535. It bounds the packets that are taken whole; [`Config::chunks`] takes
/// larger ones. CONNECT and SUBSCRIBE are written there and must fit.
pub struct Client<'a, const OUTBOX: usize, const INBOX: usize> {
    pub(crate) machine: Machine<'a>,
    pub(crate) used: u16,
    pub(crate) outbox: [u8; OUTBOX],
    pub(crate) inbox: [u8; INBOX],
}

impl<'a, const OUTBOX: usize, const INBOX: usize> Client<'a, OUTBOX, INBOX> {
    /// Creates a client that is not connected. The first `next` dials.
    pub const fn new(config: Config<'a>) -> Self {
        const { assert!(INBOX >= 64 && INBOX <= 65_535, "the inbound buffer takes 64 to 65,535 bytes") };
        Client { machine: Machine::new(config), used: 0, outbox: [0; OUTBOX], inbox: [0; INBOX] }
    }

    pub(crate) fn parts(&mut self) -> (&mut Machine<'a>, Buffers<'_>) {
        let shelf = Shelf { bytes: &mut self.outbox, used: &mut self.used };
        (&mut self.machine, Buffers { shelf, inbox: &mut self.inbox })
    }

    /// Puts a message into the outbox. Never waits, and needs no connection.
    ///
    /// With QoS 1 and 2 the token returns in [`Event::Delivered`](crate::Event::Delivered).
    ///
    /// # Errors
    /// [`PublishError`]; nothing was stored then.
    pub fn publish(&mut self, topic: &str, payload: &[u8], qos: QoS) -> Result<Token, PublishError> {
        self.publish_with(&Publication::new(topic, payload).qos(qos))
    }

    /// Puts a message with all its options into the outbox. Otherwise it is the same as
    /// [`publish`](Self::publish).
    ///
    /// # Errors
    /// [`PublishError`]; nothing was stored then.
    pub fn publish_with(&mut self, message: &Publication<'_>) -> Result<Token, PublishError> {
        let (machine, mut io) = self.parts();
        machine.publish(&mut io, message)
    }

    /// Announces a message whose payload of `len` bytes is larger than the outbox, or is made while
    /// it is sent.
    ///
    /// The outbox keeps the message without its payload; that of `message` is ignored.
    /// [`Event::PayloadWanted`](crate::Event::PayloadWanted) asks for the payload, again from the
    /// start after a lost connection.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was stored then.
    pub fn publish_in_pieces(&mut self, message: &Publication<'_>, len: u32) -> Result<Token, PublishError> {
        let mut message = *message;
        message.streamed = len;
        message.flags |= flag::STREAM;
        message.payload = &[];
        self.publish_with(&message)
    }

    /// Requests one more subscription, now or once the client is connected.
    ///
    /// [`Event::Delivered`](crate::Event::Delivered) or [`Event::Refused`](crate::Event::Refused)
    /// reports the outcome. Unlike those of the [`Config`], it is not renewed when the server has
    /// lost the session.
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
    /// The errors of [`subscribe`](Self::subscribe).
    pub fn unsubscribe(&mut self, filter: &str) -> Result<Token, PublishError> {
        topic::check_filter(filter).map_err(|_| PublishError::TopicInvalid)?;
        let (machine, mut io) = self.parts();
        let version = machine.version();
        machine.request(&mut io, &|packet_id, out| {
            packet::encode_unsubscribe(packet_id, &[filter], version, u32::MAX, out)
        })
    }

    /// Returns true if the connection is up, as far as the client knows.
    pub const fn is_connected(&self) -> bool {
        self.machine.is_up()
    }

    /// Number of failures in a row since the last connection that held for ten seconds; 0 while
    /// connected.
    ///
    /// It counts dials that failed, attempts that were refused or not answered, and lost
    /// connections. 255 stands for more.
    pub const fn failures(&self) -> u8 {
        self.machine.failures()
    }

    /// Number of messages that were dropped before they were sent, of any QoS.
    ///
    /// They were displaced under their [`Policy`](crate::Policy), expired, or larger than the
    /// server accepts. The count begins with the client and wraps to 0 after 65,535.
    pub const fn dropped(&self) -> u16 {
        self.machine.dropped
    }

    /// Number of bytes in use in the outbox.
    pub const fn outbox_used(&self) -> usize {
        self.used as usize
    }
}

/// Writer of a SUBSCRIBE or UNSUBSCRIBE.
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
