//! Prints every error of the client by `defmt`: each frame as a line of hexadecimal digits.
//! `tests/tests/client/defmt_output.rs` reads them with the symbols of this program, as a probe
//! would.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicUsize, Ordering};

use lapwing_client::{Error, LinkDown, Policy, PublishError, ReasonCode};
use lapwing_qemu::{end, say, start};

#[defmt::global_logger]
struct Lines;

/// The digits of a frame, as they come.
static mut LINE: [u8; 128] = [0; 128];
static LEN: AtomicUsize = AtomicUsize::new(0);

// SAFETY: one thread, and no interrupt that logs.
unsafe impl defmt::Logger for Lines {
    fn acquire() {
        LEN.store(0, Ordering::Relaxed);
    }

    unsafe fn flush() {}

    unsafe fn release() {
        // SAFETY: as above.
        let line = unsafe { &*(&raw const LINE) };
        say(core::str::from_utf8(&line[..LEN.load(Ordering::Relaxed)]).unwrap_or("?"));
    }

    unsafe fn write(bytes: &[u8]) {
        // SAFETY: as above.
        let line = unsafe { &mut *(&raw mut LINE) };
        for byte in bytes {
            let at = LEN.fetch_add(2, Ordering::Relaxed);
            for (place, digit) in line[at..at + 2].iter_mut().zip([byte >> 4, byte & 15]) {
                *place = b"0123456789abcdef"[usize::from(digit)];
            }
        }
    }
}

#[cortex_m_rt::entry]
fn main() -> ! {
    let Some(peripherals) = cortex_m::Peripherals::take() else { end(false) };
    start(peripherals.SYST);
    for error in [
        Error::Refused(ReasonCode::NotAuthorized),
        Error::SubscriptionRefused,
        Error::MessageSkipped,
        Error::ConfigTooLarge,
        Error::TooManySubscriptions,
        Error::ServerUnproven,
    ] {
        defmt::println!("{}", error);
    }
    for error in [PublishError::Full, PublishError::TopicInvalid, PublishError::PropertyInvalid] {
        defmt::println!("{}", error);
    }
    defmt::println!("{}", LinkDown);
    defmt::println!("{}", Policy::LatestPerTopic);
    end(true)
}
