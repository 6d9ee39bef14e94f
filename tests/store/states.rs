//! Promise 3: each (event, webhook) is in exactly one of pending, delivered, dead, cancelled, at every step of any history.
//!
//! The model foretells every answer and every record; the checker holds the store to it after every few groups, and counts
//! the states of every delivery. Some of the histories are interrupted by a new process.

use crate::chance::{each_of, seeds};
use crate::news::KINDS;
use crate::world::World;

const STEPS: u64 = 60;
/// An event went although a dead letter of it was there.
const MET: u64 = 2_941;

#[test]
fn g03_every_delivery_is_in_exactly_one_state() {
    let (mut events, mut attempts) = (0, 0);
    let mut told = KINDS.map(|kind| (kind, 0));
    let seeds = seeds(1_000);
    let met = (seeds.len() > 1).then_some(MET);
    each_of("g03", seeds.into_iter().chain(met), |seed| {
        let mut world = World::new(seed.wrapping_add(1_000_000), false);
        for step in 0..STEPS {
            world.step().unwrap();
            if world.chance.percent(3) {
                world.disk.kill();
                world.open(false);
            }
            if step % 10 == 9 {
                world.check();
            }
        }
        world.check_files();
        events += world.tally.events;
        attempts += world.tally.attempts;
        for (kind, count) in &mut told {
            *count += world.model.events.iter().filter(|fact| fact.draft.kind == *kind).count();
        }
    });
    println!("{events} events, {attempts} attempts, {told:?}");
    assert!(events < 5_000 || told.iter().all(|(_, count)| *count > 0), "not everything was reported: {told:?}");
}
