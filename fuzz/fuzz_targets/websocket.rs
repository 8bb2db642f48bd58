//! WebSocket upgrades and frames: every input comes to an end, and yields no byte that was not
//! sent.
#![no_main]

use lapwing::internals::config::{Config, Listener};
use lapwing::internals::net::endpoint::Endpoint;
use lapwing::internals::net::websocket::accept;
use libfuzzer_sys::fuzz_target;
use tokio::io::AsyncReadExt;

const UPGRADE: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

fuzz_target!(|data: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let endpoint = Endpoint::new(1, &Config::default(), &Listener::default(), None, None);
    // The bytes as the whole conversation, and as frames behind a good upgrade.
    for head in [&b""[..], UPGRADE] {
        let bytes = [head, data].concat();
        let stream = tokio::io::join(&bytes[..], tokio::io::sink());
        runtime.block_on(async {
            match accept(stream, &endpoint).await {
                Ok(mut socket) => {
                    let mut read = Vec::new();
                    let _ = socket.read_to_end(&mut read).await;
                    assert!(read.len() <= data.len(), "bytes that nobody sent");
                }
                Err(why) => {
                    assert!(!why.is_empty() && (head.is_empty() || why.starts_with("WebSocket")), "{why}")
                }
            }
        });
    }
});
