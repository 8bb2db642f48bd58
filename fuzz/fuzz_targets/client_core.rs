//! The client between an arbitrary application and an arbitrary server: it never panics, and sends
//! valid packets.
#![no_main]

use std::collections::VecDeque;
use std::convert::Infallible;

use embedded_io::{ErrorType, Read, ReadReady, Write};
use lapwing_client::blocking::Dialer;
use lapwing_client::{Client, Config, LinkDown, Policy, Publication, QoS, Subscription, Version};
use lapwing_protocol::frame::{self, Split};
use lapwing_protocol::packet::Packet;
use libfuzzer_sys::fuzz_target;

#[derive(Default)]
struct Net {
    to_client: VecDeque<u8>,
    from_client: Vec<u8>,
    now_ms: u32,
    up: bool,
    piece: usize,
}

impl ErrorType for Net {
    type Error = Infallible;
}

impl ReadReady for Net {
    fn read_ready(&mut self) -> Result<bool, Infallible> {
        Ok(!self.to_client.is_empty())
    }
}

impl Read for Net {
    fn read(&mut self, out: &mut [u8]) -> Result<usize, Infallible> {
        assert!(!out.is_empty());
        let n = out.len().min(self.piece).min(self.to_client.len());
        for (place, byte) in out.iter_mut().zip(self.to_client.drain(..n)) {
            *place = byte;
        }
        Ok(n)
    }
}

impl Write for Net {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        assert!(!bytes.is_empty());
        let n = bytes.len().min(self.piece);
        self.from_client.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

impl Dialer for Net {
    type Link = Net;

    fn dial(&mut self) -> Result<bool, LinkDown> {
        self.up = true;
        self.to_client.clear();
        self.from_client.clear();
        Ok(true)
    }

    fn link(&mut self) -> Option<&mut Net> {
        self.up.then_some(self)
    }

    fn hang_up(&mut self) {
        self.up = false;
    }

    fn now_ms(&mut self) -> u32 {
        self.now_ms
    }
}

fuzz_target!(|data: &[u8]| {
    let mut data = data.iter().copied();
    let mut byte = || data.next();
    let Some(setting) = byte() else { return };
    let version = if setting & 1 == 0 { Version::V311 } else { Version::V5 };
    let config = Config::new("f")
        .version(version)
        .chunks(setting & 2 != 0)
        .policy(
            [Policy::Reject, Policy::DropOldest, Policy::LatestPerTopic]
                [usize::from(setting >> 2 & 3).min(2)],
        )
        .inbound_aliases(setting >> 4 & 3)
        .alias_topics(&["t/a", "t/b"])
        .subscribe("in/#", QoS::ExactlyOnce);
    let mut client = Client::<200, 64>::new(config);
    let mut net = Net { piece: usize::from(setting >> 6) * 9 + 1, ..Net::default() };
    while let Some(op) = byte() {
        let argument = op >> 3;
        match op & 7 {
            0 | 1 => {
                for _ in 0..=argument {
                    let Some(next) = byte() else { break };
                    net.to_client.push_back(next);
                }
            }
            // The likely packets of a server.
            2 => {
                let accepted: &[u8] =
                    if version == Version::V5 { &[0x20, 3, 0, 0, 0] } else { &[0x20, 2, 0, 0] };
                net.to_client.extend(accepted);
                if argument & 1 == 1 {
                    let at = net.to_client.len() - accepted.len() + 2;
                    net.to_client[at] = 1;
                }
            }
            3 => net.to_client.extend([
                [0x40, 0x50, 0x62, 0x70][usize::from(argument & 3)],
                2,
                0,
                argument >> 2,
            ]),
            4 => {
                let topic = ["t/a", "t/b", "t/c", "x"][usize::from(argument & 3)];
                let qos = QoS::from_u8(argument >> 2 & 3).unwrap_or_default();
                let payload = [argument; 40];
                let payload = &payload[..usize::from(byte().unwrap_or(0) % 40)];
                let mut message = Publication::new(topic, payload).qos(qos);
                if argument & 16 != 0 {
                    message = message.expires_in_s(u32::from(argument)).retain();
                }
                if argument == 31 {
                    let _ = client.publish_in_pieces(&message, 100);
                } else {
                    let _ = client.publish_with(&message);
                }
            }
            5 => net.now_ms = net.now_ms.wrapping_add(1 << argument.min(20)),
            6 if argument & 1 == 0 => net.up = false,
            6 => client.hang_up(&mut net, lapwing_client::ReasonCode::Success),
            _ if argument & 1 == 0 => {
                let _ = client.subscribe(Subscription::new("more/+", QoS::AtLeastOnce));
            }
            _ => {
                let _ = client.unsubscribe("more/+");
            }
        }
        for _ in 0..50 {
            match client.poll(&mut net) {
                None => break,
                Some(Ok(lapwing_client::Event::Message(message))) => {
                    let _ = (message.topic().len(), message.properties().user_properties().count());
                }
                Some(Ok(lapwing_client::Event::PayloadWanted { .. })) => {
                    let _ = client.give_payload(&mut net, &[op; 30]);
                }
                Some(_) => {}
            }
        }
        assert!(client.outbox_used() <= 200);
        // Sent packets are valid, one by one.
        while let Ok(split) = frame::split(&net.from_client, version, u32::MAX) {
            let Split::Frame { frame, len } = split else { break };
            let packet = Packet::decode(frame, version).expect("a valid packet");
            assert!(packet.packet_type().is_from_client());
            net.from_client.drain(..len);
        }
    }
});
