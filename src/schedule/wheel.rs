//! A hierarchical timing wheel over `u32` keys. Owns at most one wake-up per key; takes the time as an argument.
//!
//! Invariant: every entry sits on the level of the highest 6-bit group in which its time differs from the wheel's own time
//! `now`, in the slot of that group. So all entries of a level are earlier than all entries of the levels above it, a slot's
//! entries share all higher bits with `now`, and the first occupied slot of the lowest occupied level is the earliest.
//! Eleven groups of six bits cover every `u64`: no time is too far away, so there is no overflow list and nothing to clamp.
//!
//! Arming and disarming are O(1); moving time, however far, costs O(levels) per entry that comes due or moves down, and
//! nothing per tick. An entry costs 24 bytes in the slab and about 10 in the key map; the 704 slots cost 2.8 KB.
//! What a wake-up means, and sleeping until the next one, is left to the owner.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::clock::Millis;

/// Bits of time that one level decides about.
const GROUP_BITS: u32 = 6;
/// Slots of one level: as many as a word has bits, so that a level's occupancy is one word.
const SLOTS: usize = 1 << GROUP_BITS;
/// Levels that it takes to cover 64 bits of milliseconds.
const LEVELS: usize = u64::BITS.div_ceil(GROUP_BITS) as usize;
/// No node.
const NIL: u32 = u32::MAX;

const _: () = assert!(SLOTS == u64::BITS as usize);
const _: () = assert!(size_of::<Node>() == 24);
const _: () = assert!(LEVELS <= u16::BITS as usize && LEVELS * SLOTS <= u16::MAX as usize);

/// Wake-ups, at most one per key, in milliseconds of schedule time.
pub struct Wheel {
    /// Everything due before this was fired. Never goes back.
    now: Millis,
    capacity_max: u32,
    /// Where a key's entry is in `nodes`.
    index: HashMap<u32, u32, BuildHasherDefault<KeyHasher>>,
    nodes: Vec<Node>,
    /// First of the unused nodes, linked by `next`.
    free: u32,
    /// Bit L: level L has entries.
    levels: u16,
    /// Bit S of word L: slot S of level L has entries.
    occupied: [u64; LEVELS],
    /// First node of each slot's ring; `NIL` when empty. The ring's last node is the first one's `prev`.
    heads: [u32; LEVELS * SLOTS],
}

struct Node {
    at: Millis,
    key: u32,
    next: u32,
    prev: u32,
    slot: u16,
}

impl Wheel {
    /// An empty wheel that stands at `now_ms` and never holds more than `capacity_max` entries.
    #[must_use]
    pub fn new(now_ms: Millis, capacity_max: u32) -> Self {
        Self {
            now: now_ms,
            capacity_max: capacity_max.min(NIL - 1),
            index: HashMap::default(),
            nodes: Vec::new(),
            free: NIL,
            levels: 0,
            occupied: [0; LEVELS],
            heads: [NIL; LEVELS * SLOTS],
        }
    }

    /// Sets the key's wake-up to exactly `at_ms`, earlier or later than the one it had. A time that is already past fires
    /// on the next `advance`. `false`: the wheel is full and the key has no wake-up.
    #[must_use = "a full wheel will not wake the key"]
    pub fn arm(&mut self, key: u32, at_ms: Millis) -> bool {
        match self.index.get(&key) {
            Some(&node) => {
                self.move_to(node, at_ms);
                true
            }
            None => self.insert(key, at_ms),
        }
    }

    /// Sets the key's wake-up to `at_ms` unless it has an earlier one. `false`: the wheel is full and the key has none.
    #[must_use = "a full wheel will not wake the key"]
    pub fn arm_earliest(&mut self, key: u32, at_ms: Millis) -> bool {
        match self.index.get(&key) {
            Some(&node) => {
                if at_ms < self.nodes[node as usize].at {
                    self.move_to(node, at_ms);
                }
                true
            }
            None => self.insert(key, at_ms),
        }
    }

    /// Takes the key's wake-up away. `false`: it had none.
    pub fn disarm(&mut self, key: u32) -> bool {
        let Some(node) = self.index.remove(&key) else { return false };
        self.unlink(node);
        self.release(node);
        true
    }

    /// When the key will be woken.
    #[must_use]
    pub fn armed_at(&self, key: u32) -> Option<Millis> {
        self.index.get(&key).map(|&node| self.nodes[node as usize].at)
    }

    /// When to call `advance` next: never later than the earliest entry (an overdue one counts as due at the wheel's own
    /// time), earlier by at most one slot of the entry's level. Calling `advance` then fires it or brings it at least one
    /// level closer, so that an entry causes at most ten such idle wake-ups, however far away it was.
    #[must_use]
    pub fn next_at(&self) -> Option<Millis> {
        self.first_slot().map(|(_, _, start)| start)
    }

    /// Moves time to `now_ms` and hands every entry that is due by then to `fire`, with the time it was armed for, in the
    /// order of those times (within one millisecond, and among entries armed for the past, in no promised order). A time
    /// before the wheel's own does nothing.
    pub fn advance(&mut self, now_ms: Millis, fire: &mut impl FnMut(u32, Millis)) {
        if now_ms < self.now {
            return;
        }
        while let Some((level, slot, start)) = self.first_slot() {
            if start > now_ms {
                break;
            }
            self.now = start;
            let first = self.take_slot(level, slot);
            if level == 0 { self.fire_ring(first, fire) } else { self.cascade_ring(first) }
        }
        self.now = now_ms;
    }

    /// The wheel's own time: the latest that it was advanced to.
    #[must_use]
    pub fn now(&self) -> Millis {
        self.now
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Level, slot and earliest possible time of the first occupied slot.
    fn first_slot(&self) -> Option<(usize, usize, Millis)> {
        if self.levels == 0 {
            return None;
        }
        let level = self.levels.trailing_zeros();
        let slot = self.occupied[level as usize].trailing_zeros();
        let shift = level * GROUP_BITS;
        // The groups above the slot's own are those of `now`; the top level has none above it.
        let above = self.now.checked_shr(shift + GROUP_BITS).map_or(0, |groups| groups << (shift + GROUP_BITS));
        Some((level as usize, slot as usize, above | (u64::from(slot) << shift)))
    }

    fn insert(&mut self, key: u32, at: Millis) -> bool {
        if self.index.len() >= self.capacity_max as usize {
            return false;
        }
        let fresh = Node { at, key, next: NIL, prev: NIL, slot: 0 };
        let node = if self.free == NIL {
            self.nodes.push(fresh);
            // Fits: the slab is never longer than `capacity_max`.
            (self.nodes.len() - 1) as u32
        } else {
            let node = self.free;
            self.free = self.nodes[node as usize].next;
            self.nodes[node as usize] = fresh;
            node
        };
        self.index.insert(key, node);
        self.link(node);
        true
    }

    fn move_to(&mut self, node: u32, at: Millis) {
        if self.nodes[node as usize].at != at {
            self.unlink(node);
            self.nodes[node as usize].at = at;
            self.link(node);
        }
    }

    /// Puts a node at the end of the slot that its time and the wheel's own call for.
    fn link(&mut self, node: u32) {
        let due = self.nodes[node as usize].at.max(self.now);
        // The lowest bit is set so that "no difference" is the lowest level too.
        let level = ((due ^ self.now) | 1).ilog2() / GROUP_BITS;
        let slot = (due >> (level * GROUP_BITS)) as usize % SLOTS;
        let position = level as usize * SLOTS + slot;
        let first = self.heads[position];
        let (next, prev) = if first == NIL {
            self.heads[position] = node;
            self.occupied[level as usize] |= 1 << slot;
            self.levels |= 1 << level;
            (node, node)
        } else {
            let last = std::mem::replace(&mut self.nodes[first as usize].prev, node);
            self.nodes[last as usize].next = node;
            (first, last)
        };
        let entry = &mut self.nodes[node as usize];
        (entry.next, entry.prev, entry.slot) = (next, prev, position as u16);
    }

    fn unlink(&mut self, node: u32) {
        let Node { next, prev, slot, .. } = self.nodes[node as usize];
        let position = slot as usize;
        if next == node {
            self.take_slot(position / SLOTS, position % SLOTS);
            return;
        }
        self.nodes[prev as usize].next = next;
        self.nodes[next as usize].prev = prev;
        if self.heads[position] == node {
            self.heads[position] = next;
        }
    }

    /// Empties a slot and yields the first node of the ring that was in it.
    fn take_slot(&mut self, level: usize, slot: usize) -> u32 {
        self.occupied[level] &= !(1 << slot);
        if self.occupied[level] == 0 {
            self.levels &= !(1 << level);
        }
        std::mem::replace(&mut self.heads[level * SLOTS + slot], NIL)
    }

    fn fire_ring(&mut self, first: u32, fire: &mut impl FnMut(u32, Millis)) {
        let mut node = first;
        loop {
            let Node { at, key, next, .. } = self.nodes[node as usize];
            self.index.remove(&key);
            self.release(node);
            fire(key, at);
            if next == first {
                return;
            }
            node = next;
        }
    }

    fn cascade_ring(&mut self, first: u32) {
        let mut node = first;
        loop {
            let next = self.nodes[node as usize].next;
            self.link(node);
            if next == first {
                return;
            }
            node = next;
        }
    }

    fn release(&mut self, node: u32) {
        self.nodes[node as usize].next = self.free;
        self.free = node;
    }
}

/// Spreads keys by one multiplication: they are our own counting numbers, nobody outside chooses them.
#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(u32::from(byte));
        }
    }

    fn write_u32(&mut self, key: u32) {
        // 2^64 divided by the golden ratio; the fold brings the well-mixed high bits down to where buckets are chosen.
        let spread = (self.0 ^ u64::from(key)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = spread ^ (spread >> 32);
    }
}

#[cfg(test)]
mod tests;
