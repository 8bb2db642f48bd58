//! Packets that decode can be encoded, and decode to the same.
#![no_main]

use lapwing_protocol::Version;
use lapwing_protocol::frame::{self, Split};
use lapwing_protocol::packet::Packet;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for version in Version::ALL {
        let Ok(Split::Frame { frame, .. }) = frame::split(data, version, u32::MAX) else { continue };
        let Ok(packet) = Packet::decode(frame, version) else { continue };
        // CONNECT names its own version.
        let version = if let Packet::Connect(connect) = &packet { connect.version } else { version };
        let mut bytes = vec![0; packet.encoded_len(version, u32::MAX).expect("what was read can be written")];
        let len = packet.encode(version, u32::MAX, &mut bytes).expect("what was read can be written");
        assert_eq!(len, bytes.len());
        let Ok(Split::Frame { frame, .. }) = frame::split(&bytes, version, u32::MAX) else {
            panic!("{bytes:02x?}")
        };
        assert_eq!(Packet::decode(frame, version), Ok(packet));
    }
});
