//! A small generator of our own (splitmix64), so that a seed means the same on every machine and with every dependency; and
//! how the cases of a sweep are run.

use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number in `0..end`; 0 for an empty range.
    pub fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.next() % end }
    }

    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap()
    }

    /// True in `percent` of a hundred.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() { None } else { from.get(self.index(from.len())) }
    }

    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            list.swap(i, self.index(i + 1));
        }
    }

    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        out.fill_with(|| self.next().to_le_bytes()[0]);
        out
    }
}

/// The seeds to run: `SEED` alone, or `SEEDS` many, or `count`.
pub fn seeds(count: u64) -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("SEED") {
        Some(seed) => vec![seed],
        None => (0..number("SEEDS").unwrap_or(count)).collect(),
    }
}

/// Runs `case` for every seed; a panic in it is told with its seed.
pub fn each_seed(name: &str, count: u64, case: impl FnMut(u64)) {
    each_of(name, seeds(count), case);
}

/// The same for these seeds.
pub fn each_of(name: &str, seeds: impl IntoIterator<Item = u64>, mut case: impl FnMut(u64)) {
    for seed in seeds {
        told(name, seed, || case(seed));
    }
}

/// What came of each case, in no order: for long sweeps, which would else end on one core alone.
pub fn on_two_cores<C: Copy + Sync, T: Send>(cases: &[C], run: impl Fn(C) -> T + Sync) -> Vec<T> {
    let taken = AtomicUsize::new(0);
    let work = || {
        let _end = EndOnPanic(&taken, cases.len());
        let next = || cases.get(taken.fetch_add(1, Ordering::Relaxed));
        std::iter::from_fn(next).map(|case| run(*case)).collect::<Vec<T>>()
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(work);
        let mut all = work();
        all.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        all
    })
}

/// When one thread fails, the other takes no more cases.
struct EndOnPanic<'a>(&'a AtomicUsize, usize);

impl Drop for EndOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(self.1, Ordering::Relaxed);
        }
    }
}

/// A panic in it is told with its seed.
pub fn told<T>(name: &str, seed: u64, case: impl FnOnce() -> T) -> T {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(case)).unwrap_or_else(|panic| {
        eprintln!("{name} failed: replay with SEED={seed}");
        std::panic::resume_unwind(panic)
    })
}
