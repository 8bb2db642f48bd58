//! A sensor on a UART. Arguments: `VERSION QOS COUNT`, such as `5 2 50`.
//!
//! It publishes the numbers from 0 on to `qemu/up` and echoes what comes on `qemu/down` to
//! `qemu/echo`, all with that QoS, until `stop` comes and everything is delivered.
#![no_std]
#![no_main]

use lapwing_client::dialers::uart::UartDialer;
use lapwing_client::{Client, Config, Event, QoS, Version};
use lapwing_qemu::{arguments, end, now_ms, say, start};

#[cortex_m_rt::entry]
fn main() -> ! {
    let Some(peripherals) = cortex_m::Peripherals::take() else { end(false) };
    let mut net = UartDialer::new(start(peripherals.SYST), now_ms);
    let mut place = [0; 64];
    let mut words = arguments(&mut place).split(' ').skip(1);
    let version = if words.next() == Some("5") { Version::V5 } else { Version::V311 };
    let qos = match words.next() {
        Some("0") => QoS::AtMostOnce,
        Some("1") => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    };
    let count: u32 = words.next().and_then(|word| word.parse().ok()).unwrap_or(10);

    let config = Config::new("qemu").version(version).keep_alive(5).subscribe("qemu/down", qos);
    let mut client = Client::<1024, 256>::new(config);
    let (mut published, mut stopped) = (0, false);
    loop {
        let mut echo = [0; 64];
        let (mut len, mut idle) = (0, false);
        match client.poll(&mut net) {
            Some(Ok(Event::Message(message))) if message.payload() == b"stop" => stopped = true,
            Some(Ok(Event::Message(message))) => {
                len = message.payload().len().min(echo.len());
                echo[..len].copy_from_slice(&message.payload()[..len]);
            }
            Some(Ok(Event::Connected { .. })) => say("connected"),
            Some(Ok(_)) => {}
            Some(Err(_)) => end(false),
            None => idle = true,
        }
        if idle && stopped && published == count && client.outbox_used() == 0 {
            client.hang_up(&mut net, lapwing_client::ReasonCode::Success);
            say("done");
            end(true);
        }
        if len > 0 && client.publish("qemu/echo", &echo[..len], qos).is_err() {
            end(false);
        }
        if client.is_connected() && published < count {
            let mut digits = [0; 10];
            if client.publish("qemu/up", decimal(published, &mut digits), qos).is_ok() {
                published += 1;
            }
        }
    }
}

fn decimal(mut number: u32, digits: &mut [u8; 10]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}
