//! The same program with minimq.
#![no_std]
#![no_main]

use minimq::{Buffers, ConfigBuilder, Publication, QoS, Session, TopicFilter};
use sizes::{AsyncUart, block_on};

#[cortex_m_rt::entry]
fn main() -> ! {
    let Some(peripherals) = cortex_m::Peripherals::take() else { lapwing_qemu::end(false) };
    let uart = AsyncUart(lapwing_qemu::start(peripherals.SYST));
    let (mut rx, mut tx) = ([0; 256], [0; 256]);
    let Ok(config) = ConfigBuilder::new(Buffers::new(&mut rx, &mut tx)).client_id("sensor-17") else {
        lapwing_qemu::end(false)
    };
    let mut session = Session::new(config);
    let state = size_of_val(&session);
    block_on(async {
        let Ok(mut connection) = session.connect(uart).await else { lapwing_qemu::end(false) };
        let filter = [TopicFilter::new("s/17/cmd")];
        if connection.subscribe(&filter, &[]).await.is_err() {
            lapwing_qemu::end(false);
        }
        let message = Publication::bytes("s/17/temp", b"21.5").qos(QoS::AtLeastOnce);
        if connection.publish(message).await.is_err() {
            lapwing_qemu::end(false);
        }
        loop {
            if connection.recv().await.is_ok_and(|message| message.payload() == b"stop") {
                lapwing_qemu::report(state, state + 512);
                lapwing_qemu::end(true);
            }
        }
    })
}
