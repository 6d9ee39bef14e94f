//! A log-linear histogram of microseconds: exact below 128, within 1/64 above. Recording costs one increment.

const EXACT: usize = 128;
const STEPS: usize = 64;

pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    pub fn new() -> Self {
        Self { counts: vec![0; EXACT + (64 - 7) * STEPS], total: 0 }
    }

    pub fn record(&mut self, value_us: u64) {
        self.counts[index(value_us)] += 1;
        self.total += 1;
    }

    pub fn clear(&mut self) {
        self.counts.fill(0);
        self.total = 0;
    }

    /// The value below which `share` (0 to 1) of all recorded values lie, in microseconds; 0 when nothing was recorded.
    pub fn quantile_us(&self, share: f64) -> u64 {
        let wanted = ((self.total as f64) * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return value(at);
            }
        }
        0
    }
}

fn index(value_us: u64) -> usize {
    let small = usize::try_from(value_us).unwrap_or(usize::MAX);
    if small < EXACT {
        return small;
    }
    let exponent = value_us.ilog2() as usize;
    EXACT + (exponent - 7) * STEPS + ((small >> (exponent - 6)) & (STEPS - 1))
}

fn value(index: usize) -> u64 {
    if index < EXACT {
        return index as u64;
    }
    let (octave, step) = ((index - EXACT) / STEPS, (index - EXACT) % STEPS);
    ((STEPS + step) as u64) << (octave + 1)
}
