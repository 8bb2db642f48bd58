//! Questions and answers of DNS, for a look-up whose progress outlives its future.

use core::net::Ipv4Addr;

use smoltcp::wire::{
    DnsFlags, DnsOpcode, DnsPacket, DnsQueryType, DnsQuestion, DnsRcode, DnsRecord, DnsRecordData, DnsRepr,
};

/// Longest name in its form on the wire, in bytes.
const NAME_BYTES_MAX: usize = 255;
/// Length of the longest question.
pub(super) const QUESTION_BYTES_MAX: usize = 12 + NAME_BYTES_MAX + 4;
/// Length of the longest answer over UDP.
pub(super) const ANSWER_BYTES_MAX: usize = 512;

/// Writes the question for the IPv4 address of a host, and returns its length; `None` when the name
/// is not valid.
pub(super) fn question(host: &str, id: u16, out: &mut [u8]) -> Option<usize> {
    let mut name = heapless::Vec::<u8, NAME_BYTES_MAX>::new();
    for label in host.trim_end_matches('.').split('.') {
        if label.is_empty() || label.len() > 63 {
            return None;
        }
        name.push(label.len() as u8).ok()?;
        name.extend_from_slice(label.as_bytes()).ok()?;
    }
    name.push(0).ok()?;
    let question = DnsRepr {
        transaction_id: id,
        opcode: DnsOpcode::Query,
        flags: DnsFlags::RECURSION_DESIRED,
        question: DnsQuestion { name: &name, type_: DnsQueryType::A },
    };
    let len = question.buffer_len();
    question.emit(&mut DnsPacket::new_unchecked(out.get_mut(..len)?));
    Some(len)
}

/// Returns the first address of an answer: `None` when the packet does not answer this question,
/// `Some(None)` when there is no such host.
pub(super) fn answer(bytes: &[u8], id: u16) -> Option<Option<Ipv4Addr>> {
    let packet = DnsPacket::new_checked(bytes).ok()?;
    if packet.transaction_id() != id || !packet.flags().contains(DnsFlags::RESPONSE) {
        return None;
    }
    if packet.rcode() != DnsRcode::NoError {
        return Some(None);
    }
    let mut rest = packet.payload();
    for _ in 0..packet.question_count() {
        (rest, _) = DnsQuestion::parse(rest).ok()?;
    }
    for _ in 0..packet.answer_record_count() {
        let record;
        (rest, record) = DnsRecord::parse(rest).ok()?;
        if let DnsRecordData::A(address) = record.data {
            return Some(Some(address));
        }
    }
    Some(None)
}
