//! Any bytes in any version: never a panic, never a packet that needs more than it announced.
#![no_main]

use lapwing_protocol::Version;
use lapwing_protocol::frame::{self, Split};
use lapwing_protocol::packet::Packet;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for version in Version::ALL {
        let mut rest = data;
        loop {
            match frame::split(rest, version, 1 << 16) {
                Ok(Split::Frame { frame, len }) => {
                    assert!(len <= rest.len() && frame.body.len() < len);
                    if let Ok(packet) = Packet::decode(frame, version) {
                        // A strictly valid packet is also leniently valid, and decodes to the same.
                        assert_eq!(Packet::decode_reporting_filters(frame, version), Ok(packet));
                    }
                    rest = &rest[len..];
                }
                Ok(Split::Incomplete { need }) => {
                    assert!(need > rest.len());
                    break;
                }
                Err(error) => {
                    // An error does not depend on the bytes that follow.
                    let longer = [rest, &[0; 8]].concat();
                    assert_eq!(frame::split(&longer, version, 1 << 16), Err(error));
                    break;
                }
            }
        }
    }
});
