//! Connect, subscribe with QoS 1, publish with QoS 1, poll until a message says "stop".
#![no_std]
#![no_main]

use lapwing_client::blocking::Dialer;
use lapwing_client::{Client, Config, LinkDown, QoS};
use lapwing_qemu::Uart;

struct Net(Uart);

impl Dialer for Net {
    type Link = Uart;

    fn dial(&mut self) -> Result<bool, LinkDown> {
        Ok(true)
    }

    fn link(&mut self) -> Option<&mut Uart> {
        Some(&mut self.0)
    }

    fn hang_up(&mut self) {}

    fn now_ms(&mut self) -> u32 {
        lapwing_qemu::now_ms()
    }
}

#[cortex_m_rt::entry]
fn main() -> ! {
    let Some(peripherals) = cortex_m::Peripherals::take() else { lapwing_qemu::end(false) };
    let mut net = Net(lapwing_qemu::start(peripherals.SYST));
    let config = Config::new("sensor-17").keep_alive(30).subscribe("s/17/cmd", QoS::AtLeastOnce);
    let mut client = Client::<256, 256>::new(config);
    let _ = client.publish("s/17/temp", b"21.5", QoS::AtLeastOnce);
    loop {
        if client.wait(&mut net).is_ok_and(|message| message.payload() == b"stop") {
            // Beside the user's buffers.
            let places = size_of::<Client<'_, 256, 256>>();
            lapwing_qemu::report(places - 512, places);
            lapwing_qemu::end(true);
        }
    }
}
