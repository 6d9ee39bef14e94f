//! Chance as a value. Ids, secrets and jitter draw from here, so that a test can replay them from a seed.

use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};

/// A source of random bytes; cheap to clone.
#[derive(Clone)]
pub struct Entropy(Source);

#[derive(Clone)]
enum Source {
    System,
    Seeded(Arc<Mutex<Stream>>),
}

/// SHA-256 in counter mode over a seed: slow, portable, the same on every machine.
struct Stream {
    seed: u64,
    counter: u64,
}

impl Entropy {
    /// The operating system's generator.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A stream that is the same for the same seed. For tests only.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(Source::Seeded(Arc::new(Mutex::new(Stream { seed, counter: 0 }))))
    }

    /// `N` random bytes.
    ///
    /// # Panics
    /// When the operating system has no randomness to give: nothing here can be done safely without it.
    #[must_use]
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut out = [0; N];
        match &self.0 {
            Source::System => getrandom::fill(&mut out).expect("the operating system gives random bytes"),
            Source::Seeded(stream) => {
                let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
                for chunk in out.chunks_mut(32) {
                    let block = Sha256::new()
                        .chain_update(stream.seed.to_be_bytes())
                        .chain_update(stream.counter.to_be_bytes())
                        .finalize();
                    stream.counter += 1;
                    chunk.copy_from_slice(&block[..chunk.len()]);
                }
            }
        }
        out
    }

    /// A uniform number in `[0, 1)`, with 53 bits of precision.
    #[must_use]
    pub fn unit(&self) -> f64 {
        let bits = u64::from_be_bytes(self.bytes()) >> 11;
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
        let unit = bits as f64 / (1_u64 << 53) as f64;
        unit
    }
}
