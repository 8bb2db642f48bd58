//! The same program with rust-mqtt.
#![no_std]
#![no_main]

use rust_mqtt::buffer::BumpBuffer;
use rust_mqtt::client::Client;
use rust_mqtt::client::event::Event;
use rust_mqtt::client::options::{ConnectOptions, PublicationOptions, SubscriptionOptions, TopicReference};
use rust_mqtt::types::{MqttString, TopicFilter, TopicName};
use sizes::{AsyncUart, block_on};

#[cortex_m_rt::entry]
fn main() -> ! {
    let Some(peripherals) = cortex_m::Peripherals::take() else { lapwing_qemu::end(false) };
    let uart = AsyncUart(lapwing_qemu::start(peripherals.SYST));
    let mut bytes = [0; 512];
    let mut buffer = BumpBuffer::new(&mut bytes);
    let mut client = Client::<'_, '_, _, _, 1, 8, 8, 1, 4, 0, 0>::new(&mut buffer);
    let state = size_of_val(&client);
    block_on(async {
        let id = MqttString::from_str("sensor-17").ok();
        if client.connect(uart, &ConnectOptions::new(), id).await.is_err() {
            lapwing_qemu::end(false);
        }
        let (Ok(command), Ok(temperature)) = (MqttString::from_str("s/17/cmd"), MqttString::from_str("s/17/temp"))
        else {
            lapwing_qemu::end(false)
        };
        let (Some(filter), Some(name)) = (TopicFilter::new(command), TopicName::new(temperature)) else {
            lapwing_qemu::end(false)
        };
        if client.subscribe(filter, &SubscriptionOptions::new().at_least_once()).await.is_err() {
            lapwing_qemu::end(false);
        }
        let options = PublicationOptions::new(TopicReference::Name(name)).at_least_once();
        if client.publish(&options, "21.5".into()).await.is_err() {
            lapwing_qemu::end(false);
        }
        loop {
            let stop = match client.poll().await {
                Ok(Event::Publish(message)) => &*message.message == b"stop",
                Ok(_) => false,
                Err(_) => lapwing_qemu::end(false),
            };
            if stop {
                lapwing_qemu::report(state, state + 512);
                lapwing_qemu::end(true);
            }
        }
    })
}
