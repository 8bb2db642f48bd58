//! A sensor over TLS 1.3 with a certificate of its own, on this machine.
//!
//! ```sh
//! lapwing cert server localhost && lapwing cert device sensor-17
//! lapwing -c examples/tls/lapwing.toml
//! cargo run -p lapwing-example-tls --features host --example sensor-tls -- localhost:8883 certificates sensor-17
//! ```

use std::error::Error;
use std::path::Path;

use embassy_futures::join::join;
use embedded_tls::TlsConfig;
use lapwing_client::dialers::tokio::TokioTimer;
use lapwing_client::{Client, Config, Event, QoS::AtLeastOnce};
use lapwing_example_tls::host::{OsRng, Tcp, WallClock};
use lapwing_example_tls::{Identity, Tunnel};
use p256::pkcs8::Document;
use tokio::time::{Duration, interval};

/// A file in PEM form as DER.
fn der(folder: &Path, name: &str) -> Result<Document, Box<dyn Error>> {
    let path = folder.join(name);
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Document::from_pem(&text).map_err(|error| format!("{}: {error}", path.display()))?.1)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, folder, name] = arguments.as_slice() else {
        return Err("sensor-tls HOST:PORT FOLDER-OF-CERTIFICATES NAME".into());
    };
    let folder = Path::new(folder);
    let (authority, own) = (der(folder, "ca.pem")?, der(folder, &format!("{name}.pem"))?);
    let key = der(folder, &format!("{name}-key.pem"))?;

    // The two record buffers, the tunnel and the future of `carry` are what TLS takes.
    let (mut reading, mut writing) = ([0; 16_640], [0; 1_024]);
    let tunnel = Tunnel::<512>::new();
    let mut crypto = Identity::<_, WallClock>::trusting(authority.as_bytes(), OsRng)
        .with_certificate(own.as_bytes(), key.as_bytes())
        .map_err(|error| format!("{name}-key.pem: {error:?}"))?;
    let host = address.split(':').next().unwrap_or_default();
    let config = TlsConfig::new().with_server_name(host);
    let mut tcp = Tcp(address.clone());
    let carry = tunnel.carry(&mut tcp, &config, &mut crypto, &mut reading, &mut writing);
    println!(
        "buffers {} B, tunnel {} B, future {} B",
        16_640 + 1_024,
        size_of_val(&tunnel),
        size_of_val(&carry)
    );

    let mut mq =
        Client::<1024, 256>::new(Config::new(name).keep_alive(30).subscribe("s/17/led", AtLeastOnce));
    let mut net = tunnel.dialer(TokioTimer::default());
    let mut tick = interval(Duration::from_secs(2));
    let sensor = async {
        loop {
            tokio::select! {
                event = mq.event(&mut net) => match event {
                    Ok(Event::Message(m)) => println!("{}: {}", m.topic(), String::from_utf8_lossy(m.payload())),
                    Ok(other) => println!("{other:?}"),
                    Err(error) => println!("{error}"),
                },
                _ = tick.tick() => { let _ = mq.publish("s/17/temp", b"20.5", AtLeastOnce); }
            }
        }
    };
    join(carry, sensor).await;
    Ok(())
}
