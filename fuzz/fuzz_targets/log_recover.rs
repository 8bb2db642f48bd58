//! Any bytes as the segments of a log: reading them never panics, and never brings a message that was not written.
//!
//! The first byte chooses: bytes as they are, or a good log with bytes of it changed, pages of it moved, its end cut.

#![no_main]

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use lapwing::internals::message::Durability;
use lapwing::internals::store::tools::log_records;
use lapwing::internals::store::{DurableStore, Options, Record};
use lapwing_tests::disk::MemoryDisk;
use lapwing_tests::ledger::{self, Model};
use lapwing_tests::random::Random;
use libfuzzer_sys::fuzz_target;

struct Good {
    segments: Vec<(String, Vec<u8>)>,
    messages: HashSet<Vec<u8>>,
}

/// A log of some segments, and the messages in it.
fn good() -> &'static Good {
    static GOOD: OnceLock<Good> = OnceLock::new();
    GOOD.get_or_init(|| {
        let disk = MemoryDisk::forgetful();
        let options = Options { segment_bytes: 32 * 1024, window_bytes: 1 << 30, ..Options::default() };
        let store = DurableStore::on(Arc::new(disk.clone()), options).expect("a store");
        let (mut model, mut random) = (Model::default(), Random(1));
        for _ in 0..150 {
            let ticket = ledger::tell(&store, model.next(&mut random), Durability::Always).expect("taken");
            ledger::wait(&store, ticket).expect("kept");
        }
        drop(store);
        let records = log_records(&disk, false).expect("a good log");
        let messages = records.iter().filter_map(message).collect();
        let segments = (1..100)
            .map(|id| format!("wal/{id:016}.log"))
            .map_while(|name| disk.content(&name).map(|bytes| (name, bytes)))
            .collect();
        Good { segments, messages }
    })
}

fn message(record: &Record) -> Option<Vec<u8>> {
    match record {
        Record::Published { message, .. } => Some(message.as_bytes().to_vec()),
        _ => None,
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((mode, data)) = data.split_first() else { return };
    let disk = MemoryDisk::forgetful();
    let good = good();
    if mode % 2 == 0 {
        for (n, part) in data.chunks(data.len() / 3 + 1).enumerate() {
            disk.put(&format!("wal/{:016}.log", n + 1), part);
        }
    } else {
        let mut segments = good.segments.clone();
        for change in data.chunks_exact(6) {
            let at = u32::from_le_bytes([change[0], change[1], change[2], 0]) as usize;
            let count = segments.len();
            let (_, bytes) = &mut segments[usize::from(change[3]) % count];
            let len = bytes.len();
            match change[4] % 4 {
                0 => bytes.truncate(at % (len + 1)),
                // A page over another.
                1 if len >= 8192 => {
                    let (from, to) = (at % (len / 4096), usize::from(change[5]) % (len / 4096));
                    bytes.copy_within(from * 4096..(from + 1) * 4096, to * 4096);
                }
                _ if len > 0 => bytes[at % len] ^= change[5],
                _ => {}
            }
        }
        for (name, bytes) in &segments {
            disk.put(name, bytes);
        }
    }
    for beyond_damage in [false, true] {
        for record in log_records(&disk, beyond_damage).unwrap_or_default() {
            if let Some(message) = message(&record) {
                assert!(good.messages.contains(&message), "a message that nobody wrote");
            }
        }
    }
});
