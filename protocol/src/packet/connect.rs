//! CONNECT (`3.1`): a client asks for a session. The packet names its own protocol version.

use super::QoS;
use crate::property::{Omit, Place, Properties, Property, write_block};
use crate::wire::{Reader, Writer};
use crate::{DecodeError, EncodeError, PacketType, Version, topic};

/// A CONNECT packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect<'a> {
    /// Protocol version, by protocol name and level.
    pub version: Version,
    /// Clean Start; Clean Session before MQTT 5.0.
    pub clean_start: bool,
    /// Keep-alive in seconds; 0 turns it off.
    pub keep_alive_s: u16,
    /// Properties; MQTT 5.0 only.
    pub properties: Properties<'a>,
    /// Client identifier. If it is empty, the server chooses one.
    pub client_id: &'a str,
    /// The message to publish when the connection ends badly.
    pub will: Option<Will<'a>>,
    /// The user name.
    pub user_name: Option<&'a str>,
    /// Password, any bytes. Before MQTT 5.0 only with a user name.
    pub password: Option<&'a [u8]>,
}

/// The will inside CONNECT (`3.1.3.2` to `3.1.3.4`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Will<'a> {
    /// QoS of the will message.
    pub qos: QoS,
    /// RETAIN flag of the will message.
    pub retain: bool,
    /// Will properties; MQTT 5.0 only.
    pub properties: Properties<'a>,
    /// Topic name of the will message.
    pub topic: &'a str,
    /// Payload of the will message, 0 to 65,535 bytes.
    pub payload: &'a [u8],
}

const USER_NAME: u8 = 0x80;
const PASSWORD: u8 = 0x40;
const WILL_RETAIN: u8 = 0x20;
const WILL_QOS: u8 = 0x18;
const WILL: u8 = 0x04;
const CLEAN_START: u8 = 0x02;
const RESERVED: u8 = 0x01;

impl<'a> Connect<'a> {
    pub(super) fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(body);
        let version = version(r.binary()?, r.u8()?)?;
        let flags = r.u8()?;
        // MQTT 3.1 ignores the reserved bit, and the will bits without a will. Later versions
        // forbid them.
        let strict = version > Version::V31;
        if strict && flags & RESERVED != 0 {
            return Err(DecodeError::ReservedConnectFlag);
        }
        if strict && flags & WILL == 0 && flags & (WILL_RETAIN | WILL_QOS) != 0 {
            return Err(DecodeError::WillFlags);
        }
        if version == Version::V311 && flags & PASSWORD != 0 && flags & USER_NAME == 0 {
            return Err(DecodeError::PasswordWithoutUserName);
        }
        let keep_alive_s = r.u16()?;
        let properties = Properties::read_in(version, &mut r, Place::Packet(PacketType::Connect))?;
        let client_id = r.string()?;
        let will = if flags & WILL != 0 { Some(Will::decode(&mut r, flags, version)?) } else { None };
        // MQTT 3.1: "the Remaining Length takes precedence over the flags". A flag without a field
        // is no field.
        let there = |r: &Reader<'_>, flag: u8| flags & flag != 0 && (strict || !r.is_empty());
        let user_name = if there(&r, USER_NAME) { Some(r.string()?) } else { None };
        let password = if there(&r, PASSWORD) { Some(r.binary()?) } else { None };
        r.end()?;
        Ok(Connect {
            version,
            clean_start: flags & CLEAN_START != 0,
            keep_alive_s,
            properties,
            client_id,
            will,
            user_name,
            password,
        })
    }

    pub(super) fn write(&self, w: &mut Writer<'_>) {
        let block = |w: &mut Writer<'_>, properties: Properties<'_>| properties.write(w, Omit::Nothing);
        self.write_as(
            w,
            self.client_id.as_bytes(),
            |w| block(w, self.properties),
            |w| block(w, self.will.map_or(Properties::NONE, |will| will.properties)),
        );
    }

    /// Writes this packet without linking code for other packets.
    ///
    /// The client identifier is given as bytes and the properties as lists; those in `self` are
    /// ignored. Returns the packet's range in `out`, which begins within the first four bytes.
    ///
    /// # Errors
    /// The errors of [`Packet::encode`](super::Packet::encode), and [`EncodeError::NotInVersion`]
    /// for a property that is not valid in its block.
    #[inline]
    pub fn encode_as(
        &self,
        client_id: &[u8],
        properties: &[Property<'_>],
        will_properties: &[Property<'_>],
        out: &mut [u8],
    ) -> Result<core::ops::Range<usize>, EncodeError> {
        super::encode_alone(PacketType::Connect, u32::MAX, out, |w| {
            self.write_as(
                w,
                client_id,
                |w| write_block(w, properties, Place::Packet(PacketType::Connect)),
                |w| write_block(w, will_properties, Place::Will),
            );
        })
    }

    #[inline]
    fn write_as(
        &self,
        w: &mut Writer<'_>,
        client_id: &[u8],
        properties: impl FnOnce(&mut Writer<'_>),
        will_properties: impl FnOnce(&mut Writer<'_>),
    ) {
        let (name, level) = self.version.protocol();
        w.string(name);
        w.u8(level);
        w.u8(self.flags());
        w.u16(self.keep_alive_s);
        if self.version.has_properties() {
            properties(w);
        }
        w.binary(client_id);
        if let Some(will) = &self.will {
            if self.version.has_properties() {
                will_properties(w);
            }
            w.string(will.topic);
            w.binary(will.payload);
        }
        if let Some(user_name) = self.user_name {
            w.string(user_name);
        }
        if let Some(password) = self.password {
            if self.user_name.is_none() && self.version == Version::V311 {
                w.fail(EncodeError::NotInVersion);
            }
            w.binary(password);
        }
    }

    fn flags(&self) -> u8 {
        let will = self
            .will
            .as_ref()
            .map_or(0, |will| WILL | (will.qos as u8) << 3 | if will.retain { WILL_RETAIN } else { 0 });
        will | if self.clean_start { CLEAN_START } else { 0 }
            | if self.user_name.is_some() { USER_NAME } else { 0 }
            | if self.password.is_some() { PASSWORD } else { 0 }
    }
}

/// Returns the version of a protocol name and level (`3.1.2.1`, `3.1.2.2`).
fn version(name: &[u8], level: u8) -> Result<Version, DecodeError> {
    match (name, level) {
        (b"MQTT", 5) => Ok(Version::V5),
        (b"MQTT", 4) => Ok(Version::V311),
        (b"MQIsdp", 3) => Ok(Version::V31),
        (b"MQTT" | b"MQIsdp", _) => Err(DecodeError::ProtocolLevel),
        _ => Err(DecodeError::ProtocolName),
    }
}

impl<'a> Will<'a> {
    fn decode(r: &mut Reader<'a>, flags: u8, version: Version) -> Result<Self, DecodeError> {
        let qos = QoS::from_u8((flags & WILL_QOS) >> 3).ok_or(DecodeError::QoSInvalid)?;
        let properties =
            if version.has_properties() { Properties::read(r, Place::Will)? } else { Properties::NONE };
        let topic = r.string()?;
        if topic.is_empty() {
            return Err(DecodeError::TopicNameEmpty);
        }
        if topic::has_wildcard(topic) {
            return Err(DecodeError::WildcardInTopicName);
        }
        Ok(Will { qos, retain: flags & WILL_RETAIN != 0, properties, topic, payload: r.binary()? })
    }
}
