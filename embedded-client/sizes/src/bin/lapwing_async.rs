//! The same program as `lapwing`, with the async front end.
#![no_std]
#![no_main]

use core::future::poll_fn;
use core::task::Poll;

use lapwing_client::{Client, Config, Dialer, LinkDown, QoS, Timer};
use sizes::{AsyncUart, block_on};

#[derive(Clone)]
struct Clock;

impl Timer for Clock {
    fn now_ms(&self) -> u32 {
        lapwing_qemu::now_ms()
    }

    async fn sleep_ms(&self, ms: u32) {
        let start = lapwing_qemu::now_ms();
        poll_fn(|_| if lapwing_qemu::now_ms().wrapping_sub(start) < ms { Poll::Pending } else { Poll::Ready(()) }).await;
    }
}

struct Net(AsyncUart);

impl Dialer for Net {
    type Link = AsyncUart;
    type Timer = Clock;

    async fn dial(&mut self) -> Result<(), LinkDown> {
        Ok(())
    }

    fn link(&mut self) -> Option<&mut AsyncUart> {
        Some(&mut self.0)
    }

    fn hang_up(&mut self) {}

    fn timer(&self) -> Clock {
        Clock
    }
}

#[cortex_m_rt::entry]
fn main() -> ! {
    let Some(peripherals) = cortex_m::Peripherals::take() else { lapwing_qemu::end(false) };
    let mut net = Net(AsyncUart(lapwing_qemu::start(peripherals.SYST)));
    let config = Config::new("sensor-17").keep_alive(30).subscribe("s/17/cmd", QoS::AtLeastOnce);
    let mut client = Client::<256, 256>::new(config);
    let _ = client.publish("s/17/temp", b"21.5", QoS::AtLeastOnce);
    block_on(async {
        while !client.next(&mut net).await.is_ok_and(|message| message.payload() == b"stop") {}
    });
    // Beside the user's buffers; the future lies on the stack.
    let places = size_of::<Client<'_, 256, 256>>();
    lapwing_qemu::report(places - 512, places);
    lapwing_qemu::end(true)
}
