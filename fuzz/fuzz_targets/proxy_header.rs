//! Headers of the PROXY protocol: the result never depends on the bytes behind the header, and
//! missing bytes are really missing.
#![no_main]

use lapwing::internals::net::proxy::{HeaderScan, find};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    match find(data) {
        Ok(HeaderScan::Header(header, len)) => {
            assert!(len <= data.len());
            assert_eq!(
                find(&data[..len]),
                Ok(HeaderScan::Header(header, len)),
                "what stands behind it counts"
            );
            for cut in 0..len {
                match find(&data[..cut]) {
                    Ok(HeaderScan::Incomplete(more)) => {
                        assert!(more > 0 && cut + more <= len, "asks for what is not its own")
                    }
                    other => panic!("{other:?} at {cut} of {len} bytes"),
                }
            }
        }
        Ok(HeaderScan::Incomplete(more)) => assert!(more > 0 && data.len() + more <= 4_096),
        Err(why) => assert!(!why.is_empty()),
    }
});
