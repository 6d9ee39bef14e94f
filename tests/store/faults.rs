//! Promise 9, at the engine: the Nth call to the disk fails, for every N and every kind of failure. Nothing acknowledged is
//! lost, nothing is half written, and the store works on once it is opened again.
//!
//! Of reads every `READ_STRIDE`th fails, from a start that the seed moves; with `G09_ALL=1` every one.

use crate::chance::{each_seed, on_two_cores};
use crate::disk::{Call, Fault, Trouble};
use crate::world::{CACHE_BYTES_FEW, World};

const COMMITS: usize = 60;
const READ_STRIDE: u64 = 97;
/// Of a kind's calls, which are tried side by side.
const PARTS: u64 = 4;

const WRITES: &[Call] = &[Call::Write];
const GROWS: &[Call] = &[Call::Write, Call::SetLength];
const SYNCS: &[Call] = &[Call::Sync];
const READS: &[Call] = &[Call::Read, Call::Length];

/// (name, calls that fail, how, whether until lifted)
const KINDS: [(&str, &[Call], Trouble, bool); 7] = [
    ("EIO on write", WRITES, Trouble::Broken, false),
    ("EIO on growing", &[Call::SetLength], Trouble::Broken, false),
    ("ENOSPC once", GROWS, Trouble::Full, false),
    ("ENOSPC until lifted", GROWS, Trouble::Full, true),
    ("failed sync", SYNCS, Trouble::Broken, false),
    ("failed sync that forgets", SYNCS, Trouble::Forgotten, false),
    ("EIO on read", READS, Trouble::Broken, false),
];

/// A 60-commit run with one fault in it; says whether the fault was met.
fn run(seed: u64, kind: usize, nth: u64) -> bool {
    let (name, calls, trouble, lasting) = KINDS[kind];
    let mut world = World::new(seed, false).rotating(seed);
    if calls == READS {
        world.cache_bytes = CACHE_BYTES_FEW;
        world.open(false);
    }
    world.disk.set_fault(Some(Fault { calls, nth, trouble, lasting }));
    let (mut opened, mut cut_at) = (0, None);
    for number in 0..COMMITS {
        // What was acknowledged although a sync had failed is gone with the power, before a checkpoint takes it in.
        if cut_at == Some(number) {
            world.disk.power_cut(&mut world.chance);
            world.open(false);
        }
        let written = world.step().is_ok();
        if cut_at.is_none() && world.disk.faults_met() > 0 {
            cut_at = Some(number + 1 + world.chance.index(3));
        }
        if written {
            continue;
        }
        assert!(world.disk.faults_met() > 0, "{name} {nth}: an error without a fault");
        // Until it is lifted the store may stay shut, but must not be harmed by the trying.
        let mut tries = 0;
        while let Err(error) = world.reopen() {
            tries += 1;
            if tries == 3 {
                world.disk.set_fault(None);
            }
            assert!(tries <= 3, "{name} {nth}: the store stays shut: {error}");
        }
        opened += 1;
    }
    let met = world.disk.faults_met() > 0;
    world.disk.set_fault(None);
    world.check();
    world.check_files();
    // What was acknowledged after the fault is durable too: the power goes now, and comes back.
    if opened > 0 && world.chance.percent(50) {
        world.disk.power_cut(&mut world.chance);
        world.open(false);
    }
    met
}

/// Every so many calls from one on, until a run has no more of them; how many faults were met, and the kind.
fn sweep(seed: u64, kind: usize, part: u64) -> (usize, u64) {
    let (_, calls, ..) = KINDS[kind];
    let all = std::env::var_os("G09_ALL").is_some();
    let stride = if calls == READS && !all { READ_STRIDE } else { 1 };
    let first = seed % stride;
    // Whether a file grows within 60 commits is the luck of a seed: one whose run meets no fault tells nothing.
    let mut worlds = (0..8).map(|step| seed + step * 1_000_003);
    let world = worlds.find(|world| run(*world, kind, first)).unwrap_or(seed);
    let calls = (0..).map(|number| first + stride * (part + number * PARTS));
    (kind, calls.take_while(|nth| run(world, kind, *nth)).count() as u64)
}

#[test]
fn g09_nth_operation_fault_loses_nothing() {
    let parts: Vec<(usize, u64)> = (0..KINDS.len()).flat_map(|kind| (0..PARTS).map(move |part| (kind, part))).collect();
    each_seed("g09", 1, |seed| {
        let mut met = [0; KINDS.len()];
        for (kind, faults) in on_two_cores(&parts, |(kind, part)| sweep(seed, kind, part)) {
            met[kind] += faults;
        }
        println!("faults in {COMMITS} commits: {:?}", KINDS.map(|kind| kind.0).iter().zip(met).collect::<Vec<_>>());
        assert!(met.iter().all(|met| *met > 0), "{met:?}");
    });
}
