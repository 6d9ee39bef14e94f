//! The wheel against a model made of a `BTreeMap`, and at scale.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};

use super::*;

fn fired(wheel: &mut Wheel, now: Millis) -> Vec<(u32, Millis)> {
    let mut out = Vec::new();
    wheel.advance(now, &mut |key, at| out.push((key, at)));
    out
}

#[test]
fn one_wake_up_per_key_moved_by_arming_again() {
    let mut wheel = Wheel::new(1_000, 10);
    assert!(wheel.arm(7, 5_000) && wheel.arm(7, 9_000));
    assert!(wheel.arm_earliest(7, 9_500));
    assert_eq!((wheel.armed_at(7), wheel.len()), (Some(9_000), 1));
    assert_eq!(fired(&mut wheel, 8_999), []);
    assert!(wheel.arm_earliest(7, 8_999));
    assert_eq!(fired(&mut wheel, 8_999), [(7, 8_999)]);
    assert!(wheel.is_empty() && wheel.next_at().is_none() && !wheel.disarm(7));
}

#[test]
fn the_past_fires_at_once_and_time_never_goes_back() {
    let mut wheel = Wheel::new(1_000, 10);
    assert!(wheel.arm(1, 3) && wheel.arm(2, 1_001));
    assert_eq!(wheel.next_at(), Some(1_000));
    assert_eq!(fired(&mut wheel, 999), []);
    assert_eq!(fired(&mut wheel, 1_000), [(1, 3)]);
    assert_eq!(fired(&mut wheel, 0), []);
    assert_eq!(wheel.now(), 1_000);
    assert_eq!(fired(&mut wheel, 1_001), [(2, 1_001)]);
}

#[test]
fn the_cap_refuses_new_keys_only() {
    let mut wheel = Wheel::new(0, 2);
    assert!(wheel.arm(1, 10) && wheel.arm(2, 20));
    assert!(!wheel.arm(3, 5) && !wheel.arm_earliest(3, 5));
    assert!(wheel.arm(1, 30) && wheel.disarm(2) && wheel.arm(3, 5));
    assert_eq!(fired(&mut wheel, 30), [(3, 5), (1, 30)]);
    assert_eq!(wheel.nodes.len(), 2);
    assert!(!Wheel::new(0, 0).arm(1, 1));
}

#[test]
fn the_ends_of_time() {
    let edges: Vec<Millis> = (1..64).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1]).collect();
    let times: BTreeSet<Millis> = edges.into_iter().chain([u64::MAX - 1, u64::MAX]).collect();
    let mut wheel = Wheel::new(0, 1_000);
    for (key, &at) in times.iter().enumerate() {
        assert!(wheel.arm(u32::try_from(key).unwrap(), at));
    }
    let one_by_one: Vec<Millis> = times
        .iter()
        .flat_map(|&at| {
            assert_eq!(fired(&mut wheel, at - 1), [], "early for {at}");
            fired(&mut wheel, at)
        })
        .map(|(_, at)| at)
        .collect();
    assert_eq!(one_by_one, times.into_iter().collect::<Vec<_>>());
    assert!(wheel.arm(1, u64::MAX) && wheel.arm(2, 0));
    assert_eq!(fired(&mut wheel, u64::MAX).len(), 2);
}

#[test]
fn following_next_at_takes_few_steps() {
    let mut wheel = Wheel::new(1_700_000_000_000, 10);
    let day = wheel.now() + 24 * 3_600_000 + 12_345;
    for at in [day, u64::MAX] {
        assert!(wheel.arm(1, at));
        let mut steps = 0;
        while let Some(next) = wheel.next_at() {
            assert!(next <= at && (next > wheel.now() || steps == 0), "{next} after {}", wheel.now());
            fired(&mut wheel, next);
            steps += 1;
        }
        assert_eq!(wheel.now(), at);
        assert!(steps <= LEVELS, "{steps} steps to {at}");
    }
}

#[test]
fn a_hundred_thousand_none_early_all_fire() {
    let entropy = crate::entropy::Entropy::seeded(42);
    let start = 1_700_000_000_000;
    let mut wheel = Wheel::new(start, 100_000);
    let mut due = BTreeMap::new();
    for key in 0..100_000 {
        let after = u64::from_be_bytes(entropy.bytes()) % (24 * 3_600_000);
        due.insert(key, start + after);
        assert!(wheel.arm(key, start + after));
    }
    assert!(!wheel.arm(100_000, start));
    let (mut now, mut last) = (start, 0);
    while now < start + 24 * 3_600_000 {
        now += u64::from_be_bytes(entropy.bytes()) % 60_000;
        wheel.advance(now, &mut |key, at| {
            assert_eq!(due.remove(&key), Some(at));
            assert!(at <= now && at >= last, "{at} at {now} after {last}");
            last = at;
        });
        assert!(wheel.next_at().is_none_or(|next| next > now));
    }
    assert!(due.is_empty() && wheel.is_empty());
}

#[derive(Clone, Debug)]
enum Step {
    Arm(u32, Millis),
    ArmEarliest(u32, Millis),
    Disarm(u32),
    Advance(Millis),
    AdvanceToNext,
    Backwards(Millis),
}

/// Distances of every magnitude: a random number of random bits.
fn distance() -> impl Strategy<Value = Millis> {
    (0_u32..=64, any::<u64>()).prop_map(|(bits, number)| number.checked_shr(64 - bits).unwrap_or(0))
}

fn step() -> impl Strategy<Value = Step> {
    let near = || prop_oneof![3 => 0_u64..300, 2 => 0_u64..50_000_000, 1 => distance()];
    prop_oneof![
        6 => (0_u32..40, near()).prop_map(|(key, after)| Step::Arm(key, after)),
        3 => (0_u32..40, near()).prop_map(|(key, after)| Step::ArmEarliest(key, after)),
        2 => (0_u32..40).prop_map(Step::Disarm),
        3 => prop_oneof![9 => 0_u64..500, 3 => 0_u64..10_000_000, 1 => distance()].prop_map(Step::Advance),
        3 => Just(Step::AdvanceToNext),
        1 => (0_u64..1_000).prop_map(Step::Backwards),
    ]
}

/// What the wheel should do, by the slowest means: (due, key) and what each key was armed for.
#[derive(Default)]
struct Model {
    now: Millis,
    by_due: BTreeSet<(Millis, u32)>,
    armed: BTreeMap<u32, (Millis, Millis)>,
}

impl Model {
    fn arm(&mut self, key: u32, at: Millis, cap: usize) -> bool {
        if !self.armed.contains_key(&key) && self.armed.len() >= cap {
            return false;
        }
        // Setting what is set already changes nothing, not even since when an overdue entry has been due.
        if self.armed.get(&key).is_none_or(|&(old, _)| old != at) {
            self.disarm(key);
            let due = at.max(self.now);
            self.armed.insert(key, (at, due));
            self.by_due.insert((due, key));
        }
        true
    }

    fn disarm(&mut self, key: u32) -> bool {
        self.armed.remove(&key).is_some_and(|(_, due)| self.by_due.remove(&(due, key)))
    }

    fn advance(&mut self, now: Millis) -> Vec<(Millis, u32, Millis)> {
        self.now = self.now.max(now);
        let mut out = Vec::new();
        while let Some(&(due, key)) = self.by_due.first().filter(|(due, _)| *due <= now) {
            let (at, _) = self.armed[&key];
            self.disarm(key);
            out.push((due, key, at));
        }
        out
    }
}

fn compare(start: Millis, steps: &[Step]) {
    const CAP: u32 = 30;
    let mut wheel = Wheel::new(start, CAP);
    let mut model = Model { now: start, ..Model::default() };
    for step in steps {
        // Half of what is armed near the start of time lies in the past.
        let at = |after: Millis| wheel.now().saturating_sub(100).saturating_add(after);
        let to = match *step {
            Step::Arm(key, after) => {
                let at = at(after);
                assert_eq!(wheel.arm(key, at), model.arm(key, at, CAP as usize));
                None
            }
            Step::ArmEarliest(key, after) => {
                let at = at(after);
                let wanted = model.armed.get(&key).map_or(at, |&(old, _)| old.min(at));
                assert_eq!(wheel.arm_earliest(key, at), model.arm(key, wanted, CAP as usize));
                None
            }
            Step::Disarm(key) => {
                assert_eq!(wheel.disarm(key), model.disarm(key));
                None
            }
            Step::Advance(by) => Some(model.now.saturating_add(by)),
            Step::AdvanceToNext => wheel.next_at(),
            Step::Backwards(by) => Some(model.now.saturating_sub(by)).filter(|&to| to < model.now),
        };
        if let Some(to) = to {
            let mut got = fired(&mut wheel, to);
            let expected = if to < model.now { Vec::new() } else { model.advance(to) };
            // Same order by due time; within one millisecond any order will do.
            let mut rest = expected.as_slice();
            while let Some(&(due, ..)) = rest.first() {
                let (tick, later) = rest.split_at(rest.partition_point(|&(other, ..)| other == due));
                let same: BTreeSet<_> = got.drain(..tick.len().min(got.len())).collect();
                assert_eq!(same, tick.iter().map(|&(_, key, at)| (key, at)).collect());
                rest = later;
            }
            assert_eq!(got, []);
        }
        assert_eq!((wheel.len(), wheel.now()), (model.armed.len(), model.now));
        let first = model.by_due.first().map(|&(due, _)| due);
        assert_eq!(wheel.next_at().is_some(), first.is_some());
        assert!(wheel.next_at() <= first && wheel.next_at().is_none_or(|next| next >= wheel.now()));
        assert!((0..40).all(|key| wheel.armed_at(key) == model.armed.get(&key).map(|&(at, _)| at)));
        assert!(wheel.nodes.len() <= CAP as usize);
    }
}

proptest! {
    #![proptest_config(Config {
        cases: 500,
        rng_seed: RngSeed::Fixed(0x5EED),
        failure_persistence: None,
        ..Config::default()
    })]

    #[test]
    fn it_does_what_the_model_does(start in distance(), steps in prop::collection::vec(step(), 1..200)) {
        compare(start, &steps);
    }
}
