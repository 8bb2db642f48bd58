//! A sensor at a desk, with the client for microcontrollers: try what it does without a network.
//!
//! `cargo run --release` starts the broker, `cargo run -p lapwing-example-sensor` this program.
//! Then in another terminal: `mosquitto_sub -t 's/#' -v` and `mosquitto_pub -t s/17/led -m on`.
//! End the broker and start it again: nothing is lost.
//! `cargo run -p lapwing-example-sensor -- HOST:PORT` goes to another broker.

use std::time::Duration;

use lapwing_client::QoS::AtLeastOnce;
use lapwing_client::dialers::tokio::TcpDialer;
use lapwing_client::{Client, Config, Event, Publication, Will};

#[tokio::main]
async fn main() {
    let address = std::env::args().nth(1).unwrap_or_else(|| "localhost:1883".to_owned());
    println!("a sensor of {address}; Ctrl-C ends it");
    let config = Config::new("sensor-17")
        .keep_alive(30)
        .backoff_ms(500, 5_000)
        .will_with(Will::new("s/17/up", b"0").retained())
        .birth("s/17/up", b"1")
        .subscribe("s/17/led", AtLeastOnce);
    let mut mq = Client::<1024, 256>::new(config);
    let mut net = TcpDialer::new(address);
    let mut tick = tokio::time::interval(Duration::from_secs(2));
    let mut temperature = 20.0;
    loop {
        tokio::select! {
            event = mq.event(&mut net) => match event {
                Ok(Event::Message(m)) => println!("{}: the LED is {}", m.topic(), String::from_utf8_lossy(m.payload())),
                Ok(Event::Connected { .. }) => println!("connected"),
                Ok(Event::Disconnected(reason)) => println!("disconnected ({reason:?}); measuring on"),
                Ok(other) => println!("{other:?}"),
                Err(error) => println!("{error}"),
            },
            _ = tick.tick() => {
                temperature += 0.1;
                // A value is worth something for a minute.
                let text = format!("{temperature:.1}");
                let message = Publication::new("s/17/temp", text.as_bytes()).qos(AtLeastOnce).expires_in_s(60);
                if let Err(error) = mq.publish_with(&message) {
                    println!("{error}");
                }
            }
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    mq.close(&mut net, lapwing_client::ReasonCode::Success).await;
}
