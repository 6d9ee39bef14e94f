//! Public event ids: UUIDv7s that rise with the log and carry their sequence number, masked. Owns minting and reading them.
//!
//! Layout: 48 bits of milliseconds, version, a 12-bit counter within the millisecond, variant, 62 bits of
//! `sequence XOR HMAC-SHA256(store mask, time and counter)`, where four counters in a row share one hash and take a quarter of it
//! each. So an id leads to its row without an index, tells nothing about volume, and rises even when the clock steps back: time is
//! then held and the counter runs on into it.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::clock::Millis;
use crate::model::id::{EventId, Seq};

const COUNTER_BITS: u32 = 12;
const LOW_BITS: u64 = (1 << 62) - 1;
/// Moments that share a hash.
const SHARED_BY: usize = 4;

/// Mints event ids in rising order.
pub struct Minter {
    mask: Mask,
    /// Time and counter of the last id, as one number.
    last: u64,
    /// The hash that it shares with its neighbours.
    hash: Hash,
}

/// A hash, and which it is.
#[derive(Clone, Copy)]
struct Hash {
    number: u64,
    parts: [u64; SHARED_BY],
}

/// Reads event ids; cheap to clone.
#[derive(Clone)]
pub struct Mask(Hmac<Sha256>);

impl Minter {
    /// Ids will rise above `newest`, the newest one in the log.
    #[must_use]
    pub fn new(mask: Mask, newest: Option<EventId>) -> Self {
        Self { hash: mask.hash(0), mask, last: newest.map_or(0, moment) }
    }

    pub fn mint(&mut self, seq: Seq, now: Millis) -> EventId {
        let moment = (now << COUNTER_BITS).max(self.last + 1);
        self.last = moment;
        if self.hash.number != moment / SHARED_BY as u64 {
            self.hash = self.mask.hash(moment);
        }
        let low = (seq ^ self.hash.part(moment)) & LOW_BITS;
        let time = moment >> COUNTER_BITS;
        let counter = moment & ((1 << COUNTER_BITS) - 1);
        let high = (time << 16) | 0x7000 | counter;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&high.to_be_bytes());
        id[8..].copy_from_slice(&((0b10 << 62) | low).to_be_bytes());
        EventId(id)
    }
}

impl Mask {
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
        Self(Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length"))
    }

    /// The sequence number that an id claims; the row there decides whether it is real.
    #[must_use]
    pub fn seq(&self, id: EventId) -> Option<Seq> {
        let version_ok = id.0[6] >> 4 == 7 && id.0[8] >> 6 == 0b10;
        let low = u64::from_be_bytes([id.0[8], id.0[9], id.0[10], id.0[11], id.0[12], id.0[13], id.0[14], id.0[15]]);
        let moment = moment(id);
        version_ok.then(|| (low ^ self.hash(moment).part(moment)) & LOW_BITS)
    }

    /// The hash that a moment has a part of.
    fn hash(&self, moment: u64) -> Hash {
        let number = moment / SHARED_BY as u64;
        let mut mac = self.0.clone();
        mac.update(&number.to_be_bytes());
        let tag: [u8; 8 * SHARED_BY] = mac.finalize().into_bytes().into();
        let part = |at: usize| u64::from_be_bytes(std::array::from_fn(|byte| tag[8 * at + byte]));
        Hash { number, parts: std::array::from_fn(part) }
    }
}

impl Hash {
    fn part(&self, moment: u64) -> u64 {
        self.parts[moment as usize % SHARED_BY]
    }
}

/// Time and counter of an id, as one rising number.
fn moment(id: EventId) -> u64 {
    let high = u64::from_be_bytes([id.0[0], id.0[1], id.0[2], id.0[3], id.0[4], id.0[5], id.0[6], id.0[7]]);
    ((high >> 16) << COUNTER_BITS) | (high & 0xfff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_rise_and_lead_back_also_when_time_falls() {
        let mask = Mask::new(&[9; 32]);
        let mut minter = Minter::new(mask.clone(), None);
        let mut before = EventId([0; 16]);
        for seq in 1..20_000_u64 {
            let now = if seq < 10_000 { 1_700_000_000_000 } else { 1_600_000_000_000 };
            let id = minter.mint(seq, now);
            assert!(id > before, "{id} after {before}");
            assert_eq!(mask.seq(id), Some(seq));
            assert_eq!(EventId::parse(&id.to_string()), Some(id));
            before = id;
        }
        let mut next = Minter::new(mask, Some(before));
        assert!(next.mint(20_000, 5) > before);
    }

    #[test]
    fn neighbours_do_not_show_how_far_apart_they_are() {
        let mut minter = Minter::new(Mask::new(&[3; 32]), None);
        let low = |id: EventId| u128::from_be_bytes(id.0) as u64 & LOW_BITS;
        let ids: Vec<(Seq, EventId)> = (1..400).map(|seq| (seq, minter.mint(seq, 1_700_000_000_000))).collect();
        for (i, (seq, id)) in ids.iter().enumerate() {
            let shows = |(other, next): &&(Seq, EventId)| low(*id) ^ low(*next) == seq ^ other;
            assert_eq!(ids[i + 1..].iter().find(shows), None, "beside {seq}");
        }
    }

    #[test]
    fn another_store_reads_another_number() {
        let id = Minter::new(Mask::new(&[1; 32]), None).mint(42, 1_700_000_000_000);
        assert_ne!(Mask::new(&[2; 32]).seq(id), Some(42));
    }
}
