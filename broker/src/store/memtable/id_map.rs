//! Maps by numbers that the broker assigns itself. No client can choose them so that they collide,
//! so a multiplication is hash enough.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Map by such numbers.
pub(in crate::store) type NumberMap<V> = HashMap<u64, V, BuildHasherDefault<NumberHasher>>;

/// Hasher of one `u64`.
#[derive(Debug, Default)]
pub(in crate::store) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // The map takes the bucket from the lowest bits and a tag from the highest: both must
        // depend on the whole number.
        let product = u128::from(self.0 ^ number) * 0x9E37_79B9_7F4A_7C15;
        self.0 = (product ^ (product >> 64)) as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
