//! Promise 1: what was acknowledged survives a loss of power at any moment, also while the store is made or opened.
//!
//! `POINTS=100000` goes on from seed to seed until the power has gone that often.

use crate::chance::each_seed;
use crate::world::{Tally, World};

/// Groups that one process writes at most before something ends it.
const GROUPS_PER_LIFE: u64 = 14;
const LIVES: usize = 6;

/// One makes some ten points.
const SEEDS: u64 = 200;
const POINTS_MIN: u64 = 1_000;
const PER_CENT_OPENING_MIN: u64 = 20;

#[test]
fn g01_power_cut_loses_nothing_acknowledged() {
    let wanted = std::env::var("POINTS").ok().map(|text| text.parse::<u64>().unwrap());
    let (mut all, mut run) = (Tally::default(), 0);
    // Each seed makes at least one point.
    each_seed("g01", wanted.unwrap_or(SEEDS), |seed| {
        if wanted.is_some_and(|wanted| all.crashes >= wanted) {
            return;
        }
        let mut world = World::new(seed, true).rotating(seed);
        for _ in 0..LIVES {
            one_life(&mut world);
        }
        world.check();
        world.check_files();
        all.add(&world.tally);
        run += 1;
        if run % 100 == 0 {
            println!("up to SEED={seed}: {all:?}");
        }
    });
    println!("{run} seeds: {all:?}");
    // Whoever replays one seed, or a few, looks for something else.
    if run >= SEEDS {
        assert!(all.crashes >= wanted.unwrap_or(POINTS_MIN), "only {} points", all.crashes);
        let share = all.crashes_while_opening * 100 / all.crashes;
        assert!(share >= PER_CENT_OPENING_MIN, "only {share} % of the points fell into opening");
    }
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
