//! MQTT 3.1, 3.1.1 and 5.0 for both ends of the wire.
//!
//! One crate knows MQTT's bytes and flows, for the broker and the microcontroller client. It has no
//! allocator, no dependency, no clock, no socket and no `unsafe`. Packets borrow from the bytes
//! they were read from. State machines take their storage and the time as arguments.
//!
//! - [`frame`] finds one control packet in a byte stream and checks its first bytes.
//! - [`packet`] decodes and encodes the fifteen control packets of all versions. There is one set
//!   of types, that of MQTT 5: older versions are filled in on reading and reduced on writing.
//! - [`property`] holds the MQTT 5 properties as a validated block of bytes.
//! - [`topic`] checks and matches topic names and topic filters.
//! - [`flight`], [`alias`] and [`keepalive`] are the flows: QoS 1/2, topic aliases, keep-alive.
//!
//! Peer data never panics here: every read is checked. A [`DecodeError`] names the broken rule and
//! its MQTT 5 reason code. [`Remedy`] says how to answer it.
//!
//! ```
//! use lapwing_protocol::{frame, packet::Packet, Version};
//!
//! let bytes = [0x30, 0x04, 0x00, 0x01, b't', b'x'];
//! let frame::Split::Frame { frame, .. } = frame::split(&bytes, Version::V311, u32::MAX)? else {
//!     panic!("incomplete")
//! };
//! let Packet::Publish(publish) = Packet::decode(frame, Version::V311)? else {
//!     panic!("not a PUBLISH")
//! };
//! assert_eq!((publish.topic, publish.payload), ("t", &b"x"[..]));
//! # Ok::<(), lapwing_protocol::DecodeError>(())
//! ```
#![no_std]

#[cfg(test)]
extern crate std;

pub mod alias;
mod error;
pub mod flight;
pub mod frame;
pub mod keepalive;
pub mod limits;
pub mod packet;
pub mod property;
mod reason;
pub mod text;
pub mod topic;
pub mod varint;
mod version;
mod wire;

pub use error::{DecodeError, EncodeError, Remedy};
pub use packet::{PacketId, PacketType, QoS};
pub use reason::ReasonCode;
pub use version::Version;
pub use wire::{copy, same};
