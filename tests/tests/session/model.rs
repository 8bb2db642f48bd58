//! The QoS flows of a session, cut by a disconnect at every state, in both directions.

use lapwing_protocol::QoS;
use lapwing_tests::model::{Step, World};

const QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

/// Plays the fair order of things, with cuts before the steps named.
fn play(start: &[Step], cuts: &[usize], receive_maximum: u16) -> usize {
    let mut world = World::new(receive_maximum);
    start.iter().for_each(|step| assert!(world.step(*step)));
    let fair = [Step::ServerSends, Step::ClientReceives, Step::ServerReceives];
    let (mut steps, mut idle) = (0, 0);
    while idle < fair.len() {
        if cuts.contains(&steps) {
            world.step(Step::Cut);
        }
        idle = if world.step(fair[steps % fair.len()]) { 0 } else { idle + 1 };
        steps += 1;
    }
    world.run_until_idle();
    steps
}

// 3.1.1: [MQTT-4.3.3-1] [MQTT-4.3.3-2] [MQTT-4.4.0-1]
// 5.0: [MQTT-4.3.3-6] [MQTT-4.3.3-10] [MQTT-4.4.0-1]
#[test]
fn a_cut_at_every_state_of_every_flow_loses_and_doubles_nothing() {
    for first in QOS {
        for second in QOS {
            for start in [
                [Step::Enqueue(first), Step::Enqueue(second)],
                [Step::ClientPublishes(first), Step::ClientPublishes(second)],
                [Step::Enqueue(first), Step::ClientPublishes(second)],
            ] {
                let length = play(&start, &[], 8);
                for one in 0..length {
                    play(&start, &[one], 8);
                    for two in one + 1..length + 6 {
                        play(&start, &[one, two], 8);
                    }
                }
            }
        }
    }
}

#[test]
fn a_receive_maximum_of_one_delays_and_loses_nothing() {
    let start: Vec<Step> = QOS.iter().cycle().take(9).map(|qos| Step::Enqueue(*qos)).collect();
    let length = play(&start, &[], 1);
    for cut in 0..length {
        play(&start, &[cut], 1);
    }
}

/// The same over random dialogues; `fuzz/` looks for the rest.
#[test]
fn random_dialogues_with_random_cuts_keep_the_promises() {
    for seed in 1..3_000u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = move |n: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % n
        };
        let mut world = World::new(next(5) as u16 + 1);
        for _ in 0..200 {
            let qos = QOS[next(3) as usize];
            world.step(match next(20) {
                0..2 => Step::Enqueue(qos),
                2..4 => Step::ClientPublishes(qos),
                4 => Step::Cut,
                5 => Step::Clock(next(1_000)),
                6..11 => Step::ServerSends,
                11..15 => Step::ClientReceives,
                _ => Step::ServerReceives,
            });
        }
        world.run_until_idle();
    }
}
