//! The Ethernet controller of the chip as a device for smoltcp.
//!
//! Both directions go word by word through one register. The first two bytes of a received packet
//! are its length (themselves and the checksum included), those of a packet to be sent the length
//! of what follows the Ethernet header.

use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

const BASE: usize = 0x4004_8000;
const RECEIVE_CONTROL: usize = 0x08;
const TRANSMIT_CONTROL: usize = 0x0c;
const DATA: usize = 0x10;
const THRESHOLD: usize = 0x1c;
const PACKETS: usize = 0x34;
const TRANSMIT_REQUEST: usize = 0x38;

const MTU: usize = 1_514;

/// The controller.
pub struct Ethernet(());

fn read(register: usize) -> u32 {
    // SAFETY: a register of this chip.
    unsafe { ((BASE + register) as *const u32).read_volatile() }
}

fn write(register: usize, value: u32) {
    // SAFETY: a register of this chip.
    unsafe { ((BASE + register) as *mut u32).write_volatile(value) }
}

impl Ethernet {
    /// Switches it on.
    pub fn start() -> Ethernet {
        write(RECEIVE_CONTROL, 1);
        // On, padded, with checksum.
        write(TRANSMIT_CONTROL, 0b111);
        // Nothing leaves before it is asked to.
        write(THRESHOLD, 0x3f);
        Ethernet(())
    }
}

/// A packet that came.
pub struct Received([u8; MTU], usize);

/// Leave to send a packet.
pub struct Transmit;

impl Device for Ethernet {
    type RxToken<'a> = Received;
    type TxToken<'a> = Transmit;

    fn receive(&mut self, _: Instant) -> Option<(Received, Transmit)> {
        if read(PACKETS) == 0 {
            return None;
        }
        let first = read(DATA).to_le_bytes();
        let len = usize::from(u16::from_le_bytes([first[0], first[1]]));
        let mut received = Received([0; MTU], len.saturating_sub(6).min(MTU));
        received.0[..2].copy_from_slice(&first[2..]);
        for at in (2..len.saturating_sub(2)).step_by(4) {
            let word = read(DATA).to_le_bytes();
            for (place, byte) in received.0.iter_mut().skip(at).zip(word) {
                *place = byte;
            }
        }
        Some((received, Transmit))
    }

    fn transmit(&mut self, _: Instant) -> Option<Transmit> {
        (read(TRANSMIT_REQUEST) & 1 == 0).then_some(Transmit)
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.max_transmission_unit = MTU;
        capabilities.max_burst_size = Some(1);
        capabilities.medium = Medium::Ethernet;
        capabilities
    }
}

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0.get(..self.1).unwrap_or(&[]))
    }
}

impl phy::TxToken for Transmit {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut bytes = [0; MTU + 6];
        let end = (2 + len).min(bytes.len());
        let result = f(&mut bytes[2..end]);
        let payload = (len.saturating_sub(14) as u16).to_le_bytes();
        bytes[..2].copy_from_slice(&payload);
        for word in bytes[..end.next_multiple_of(4)].chunks_exact(4) {
            write(DATA, u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
        }
        write(TRANSMIT_REQUEST, 1);
        result
    }
}
