//! The board alone. Its size is subtracted from the other programs.
#![no_std]
#![no_main]

use embedded_io::{Read, ReadReady, Write};

#[cortex_m_rt::entry]
fn main() -> ! {
    let Some(peripherals) = cortex_m::Peripherals::take() else { lapwing_qemu::end(false) };
    let mut uart = lapwing_qemu::start(peripherals.SYST);
    let mut bytes = [0; 64];
    loop {
        if lapwing_qemu::now_ms() > 60_000 {
            lapwing_qemu::end(false);
        }
        if uart.read_ready() == Ok(true)
            && let Ok(n) = uart.read(&mut bytes)
            && let Some(read) = bytes.get(..n)
        {
            let _ = uart.write(read);
            let _ = uart.flush();
            if read == b"stop" {
                lapwing_qemu::report(0, 64);
                lapwing_qemu::end(true);
            }
        }
    }
}
