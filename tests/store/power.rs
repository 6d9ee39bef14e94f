//! Promise 1: what was acknowledged survives a loss of power at any moment, also while the store is made or opened.

use crate::chance::each_seed;
use crate::world::{Tally, World};

/// Groups that one process writes at most before something ends it.
const GROUPS_PER_LIFE: u64 = 14;
const LIVES: usize = 6;

#[test]
fn g01_power_cut_loses_nothing_acknowledged() {
    let mut all = Tally::default();
    each_seed("g01", 200, |seed| {
        let mut world = World::new(seed, true);
        for _ in 0..LIVES {
            one_life(&mut world);
        }
        world.check();
        world.check_files();
        let tally = &world.tally;
        all.crashes += tally.crashes;
        all.crashes_while_opening += tally.crashes_while_opening;
        all.groups += tally.groups;
        all.recovered += tally.recovered;
        all.events += tally.events;
        all.attempts += tally.attempts;
        all.retained += tally.retained;
    });
    println!("{all:?}");
    let share = all.crashes_while_opening * 100 / all.crashes.max(1);
    assert!(share >= 20 || all.crashes < 200, "only {share} % of the crashes fell into opening");
}

fn one_life(world: &mut World) {
    let groups = 1 + world.chance.below(GROUPS_PER_LIFE);
    for group in 0..groups {
        if group + 1 == groups && world.chance.percent(70) {
            // The power goes in the middle of a commit, or right behind it.
            let calls = world.chance.below(30);
            world.disk.set_fuse(Some(calls));
        }
        if world.step().is_err() {
            break;
        }
    }
    // A quarter of the ends are the process's alone; a tenth are clean.
    let end = world.chance.below(100);
    if end >= 10 || world.disk.is_dark() {
        world.tally.crashes += 1;
        if end < 75 {
            world.disk.power_cut(&mut world.chance);
        } else {
            world.disk.kill();
        }
    }
    world.engine = None;
    world.shared = None;
    world.disk.set_fuse(None);
    world.open(true);
}
