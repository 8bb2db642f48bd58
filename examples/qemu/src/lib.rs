//! The board: an LM3S6965 with its UART, its Ethernet controller, its tick, and what it says to the
//! machine that emulates it.
//!
//! The programs of the size table stand on it, too.
#![no_std]

#[cfg(feature = "programs")]
pub mod ethernet;

use core::convert::Infallible;
use core::sync::atomic::{AtomicU32, Ordering};

use cortex_m::peripheral::SYST;
use cortex_m::peripheral::syst::SystClkSource;
use embedded_io::{ErrorType, Read, ReadReady, Write};

static MS: AtomicU32 = AtomicU32::new(0);

#[cortex_m_rt::exception]
fn SysTick() {
    MS.store(MS.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

/// Milliseconds since [`start`].
pub fn now_ms() -> u32 {
    MS.load(Ordering::Relaxed)
}

/// Starts the tick; the clock has 12 MHz.
pub fn start(mut syst: SYST) -> Uart {
    syst.set_clock_source(SystClkSource::Core);
    syst.set_reload(12_000 - 1);
    syst.clear_current();
    syst.enable_counter();
    syst.enable_interrupt();
    Uart
}

/// UART0, a PL011.
pub struct Uart;

const DATA: *mut u32 = 0x4000_c000 as *mut u32;
const FLAGS: *const u32 = 0x4000_c018 as *const u32;
const RECEIVE_EMPTY: u32 = 1 << 4;
const TRANSMIT_FULL: u32 = 1 << 5;

fn flags() -> u32 {
    // SAFETY: a register of this chip that may be read at any time.
    unsafe { FLAGS.read_volatile() }
}

impl ErrorType for Uart {
    type Error = Infallible;
}

impl ReadReady for Uart {
    fn read_ready(&mut self) -> Result<bool, Infallible> {
        Ok(flags() & RECEIVE_EMPTY == 0)
    }
}

impl Read for Uart {
    fn read(&mut self, out: &mut [u8]) -> Result<usize, Infallible> {
        let mut n = 0;
        for place in out {
            while flags() & RECEIVE_EMPTY != 0 {
                if n > 0 {
                    return Ok(n);
                }
            }
            // SAFETY: a register of this chip; there is a byte.
            *place = unsafe { DATA.read_volatile() } as u8;
            n += 1;
        }
        Ok(n)
    }
}

impl Write for Uart {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        for byte in bytes {
            while flags() & TRANSMIT_FULL != 0 {}
            // SAFETY: a register of this chip; there is room.
            unsafe { DATA.write_volatile(u32::from(*byte)) };
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// Ends the program: by semihosting, which QEMU takes as its end.
pub fn end(good: bool) -> ! {
    // SAFETY: the semihosting call of this architecture; ADP_Stopped_ApplicationExit or
    // RunTimeError.
    unsafe { cortex_m::asm::semihosting_syscall(0x18, if good { 0x20026 } else { 0x20023 }) };
    loop {
        cortex_m::asm::wfi();
    }
}

/// The arguments that the emulator was given, separated by spaces.
pub fn arguments(place: &mut [u8]) -> &str {
    let mut block = [place.as_mut_ptr() as usize, place.len() - 1];
    // SAFETY: SYS_GET_CMDLINE writes at most the given length to the given place and its length
    // into the block.
    let failed = unsafe { cortex_m::asm::semihosting_syscall(0x15, block.as_mut_ptr() as u32) };
    // The compiler does not know that the block changed.
    let len = unsafe { core::ptr::read_volatile(&raw const block[1]) };
    if failed != 0 { "" } else { core::str::from_utf8(place.get(..len).unwrap_or(&[])).unwrap_or("") }
}

/// Says a line to the terminal of the emulator.
pub fn say(line: &str) {
    say_bytes(line.as_bytes());
}

fn say_bytes(line: &[u8]) {
    for byte in line.iter().copied().chain(*b"\n") {
        // SAFETY: SYS_WRITEC reads one byte at the given address.
        unsafe { cortex_m::asm::semihosting_syscall(0x03, &raw const byte as u32) };
    }
}

/// Says what a program took: `state` as it is told, and the stack as far as it was written to (RAM
/// starts as zeros in the emulator), less the `places` of a program that keeps its client and its
/// buffers on the stack.
pub fn report(state: usize, places: usize) {
    const RAM: usize = 0x2000_0000;
    const END: usize = 0x2001_0000;
    // Behind the few bytes of .data and .bss.
    let mut at = RAM + 64;
    // SAFETY: RAM of this chip.
    while at < END && unsafe { (at as *const u32).read_volatile() } == 0 {
        at += 4;
    }
    say("state");
    say_number(state);
    say("stack");
    say_number((END - at).saturating_sub(places));
}

fn say_number(mut number: usize) {
    let mut digits = *b"000000";
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    say_bytes(&digits);
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    end(false)
}
