//! The board alone: what is to be taken off the others.
#![no_std]
#![no_main]

use embedded_io::{Read, ReadReady, Write};

#[cortex_m_rt::entry]
fn main() -> ! {
    let Some(peripherals) = cortex_m::Peripherals::take() else { sizes::end(false) };
    let mut uart = sizes::start(peripherals.SYST);
    let mut bytes = [0; 64];
    loop {
        if sizes::now_ms() > 60_000 {
            sizes::end(false);
        }
        if uart.read_ready() == Ok(true)
            && let Ok(n) = uart.read(&mut bytes)
            && let Some(read) = bytes.get(..n)
        {
            let _ = uart.write(read);
            let _ = uart.flush();
            if read == b"stop" {
                sizes::end(true);
            }
        }
    }
}
