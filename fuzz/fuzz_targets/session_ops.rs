//! Random packets, clock steps and cuts against the reference model of `tests/src/model.rs`.
#![no_main]

use lapwing_protocol::QoS;
use lapwing_tests::model::{Step, World};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((first, steps)) = data.split_first() else { return };
    let mut world = World::new(u16::from(first % 8) + 1);
    for byte in steps.iter().take(2_000) {
        let qos = QoS::from_u8(byte >> 4 & 3).unwrap_or(QoS::ExactlyOnce);
        world.step(match byte & 15 {
            0 | 1 => Step::Enqueue(qos),
            2 | 3 => Step::ClientPublishes(qos),
            4 => Step::Cut,
            5 => Step::Clock(u64::from(*byte) * 100),
            6..=8 => Step::ServerSends,
            9..=11 => Step::ClientReceives,
            _ => Step::ServerReceives,
        });
    }
    world.run_until_idle();
});
