//! QoS 1 and 2 on the records of the shelf: the effect of acknowledgements (`4.3.2`, `4.3.3`).
//!
//! A flight is a record. It is a PUBLISH until PUBACK ends it, or until PUBREC makes a RELEASE of
//! it, which PUBCOMP ends. It follows the state machine of `lapwing_protocol::flight`, with its
//! state in two bytes of a record.

use lapwing_protocol::packet::PacketType;
use lapwing_protocol::{QoS, ReasonCode};

use crate::shelf::{HEADER, Record, Shelf, flag, kind};

/// The next action after an acknowledgement.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// No action: late and repeated acknowledgements are harmless.
    Nothing,
    /// The flight is over, or the request is answered. Tell the application.
    Over,
    /// There is no such flight: answer PUBREL or PUBCOMP with packet identifier not found
    /// (`[MQTT-4.3.3-4]`).
    Unknown,
    /// Protocol error: the acknowledgement does not fit the kind or state of the flight.
    Violation,
}

const QOS_2: u8 = QoS::ExactlyOnce as u8 * 2;

impl Shelf<'_> {
    /// Handles PUBACK, PUBREC, PUBCOMP, SUBACK or UNSUBACK for `record`.
    pub(crate) fn acknowledge(&mut self, record: Record, packet: PacketType, reason: ReasonCode) -> Answer {
        let begun = record.is(flag::SENT) || record.of(kind::RELEASE);
        if record.kind() == 0 || !begun {
            let unknown = packet == PacketType::PubRec && !reason.is_failure();
            return if unknown { Answer::Unknown } else { Answer::Nothing };
        }
        if record.of(kind::PUBLISH) && !record.is(flag::TRIED) {
            // The identifier of an earlier life is free now.
            self.set(record.at() + 2, kind::PUBLISH | kind::UNUSED_ID);
            self.set_flags(record, record.flags() & !flag::SENT);
            return if packet == PacketType::PubComp { Answer::Nothing } else { Answer::Violation };
        }
        let awaited = if record.of(kind::RELEASE) {
            if packet == PacketType::PubRec {
                // A repeated PUBREC repeats PUBREL.
                self.set_flags(record, record.flags() & !flag::SENT);
                return Answer::Nothing;
            }
            packet == PacketType::PubComp
        } else if record.of(kind::REQUEST) {
            matches!(packet, PacketType::SubAck | PacketType::UnsubAck)
        } else if record.is(QOS_2) {
            packet == PacketType::PubRec
        } else {
            packet == PacketType::PubAck
        };
        if !awaited {
            return Answer::Violation;
        }
        if packet == PacketType::PubRec && !reason.is_failure() {
            // The message is removed; a header stays.
            self.cut(record.body(), record.end());
            self.put_u32(record.at(), u32::from_be_bytes([0, HEADER as u8, kind::RELEASE, flag::COUNTED]));
            return Answer::Nothing;
        }
        self.remove(record);
        Answer::Over
    }
}
