//! Look-ups that prove what they do not find. Owns how a row that is not there is told from one that a damaged page hides.
//!
//! redb verifies no page when it reads. A key that was altered in a page above the leaves sends a look-up to a leaf where the
//! row can't be, and an altered key in a leaf hides its row; either would come back as "not there". But redb walks from leaf to
//! leaf without looking at keys. So the rows right before and right behind the place where a look-up ended tell: had it gone
//! astray, one of them would not lie on its side of the key; and a row with an altered key stands in its old place, where its
//! checksum does not hold.
//!
//! Invariant: `Ok(None)`, and the end of a range, mean that the rows on both sides of the gap are what was written there, and lie
//! on their sides of it. What this can't see is a page that is led to in another's place and fits between its neighbours, and one of
//! several leaves that says it holds nothing. Who reads a table whole (`whole`) counts, and sees the second, and the first unless as
//! many rows stand in the other's place.

use std::cmp::Ordering;
use std::ops::Bound;

use redb::{AccessGuard, Key, ReadableTable, Value};

use super::StoreError;
use super::row::{self, Rows};

/// A row as redb hands it out.
pub type Pair<'t, K, V> = (AccessGuard<'t, K>, AccessGuard<'t, V>);

/// Says whether a row is what was written under its key.
pub trait Vouch<K: Key + 'static, V: Value + 'static> {
    /// # Errors
    /// When it is not.
    fn vouch(&self, key: &K::SelfType<'_>, value: &V::SelfType<'_>) -> Result<(), StoreError>;
}

/// By its checksum.
impl<K: Key + 'static> Vouch<K, &'static [u8]> for Rows<K> {
    fn vouch(&self, key: &K::SelfType<'_>, value: &&[u8]) -> Result<(), StoreError> {
        row::open(*self, key, value).map(drop)
    }
}

/// By its place alone, where nothing else is at hand.
pub struct Order;

impl<K: Key + 'static, V: Value + 'static> Vouch<K, V> for Order {
    fn vouch(&self, _: &K::SelfType<'_>, _: &V::SelfType<'_>) -> Result<(), StoreError> {
        Ok(())
    }
}

/// The row under `key`. `None`: it is proven that there is none.
///
/// # Errors
/// When the store fails, or damage is in the way of knowing.
pub fn get<'t, 'k, K: Key + 'static, V: Value + 'static>(
    rows: &'t impl ReadableTable<K, V>,
    vouch: &impl Vouch<K, V>,
    key: &'k K::SelfType<'k>,
) -> Result<Option<AccessGuard<'t, V>>, StoreError> {
    if let Some(found) = rows.get(key)? {
        return Ok(Some(found));
    }
    let before = rows.range::<&'k K::SelfType<'k>>((Bound::Unbounded, Bound::Excluded(key)))?.next_back();
    let behind = rows.range::<&'k K::SelfType<'k>>((Bound::Included(key), Bound::Unbounded))?.next();
    let place = K::as_bytes(key);
    if before.is_none() && behind.is_none() && !rows.is_empty()? {
        return Err(astray());
    }
    for (neighbour, side) in [(before, Ordering::Less), (behind, Ordering::Greater)] {
        let Some(pair) = neighbour.transpose()? else { continue };
        if K::compare(K::as_bytes(&pair.0.value()).as_ref(), place.as_ref()) != side {
            return Err(astray());
        }
        vouch.vouch(&pair.0.value(), &pair.1.value())?;
    }
    Ok(None)
}

/// The rows from `low` to `high`, rising.
///
/// # Errors
/// When the store fails, or damage hides where they begin.
pub fn rising<'t, 'v, 'k, K: Key + 'static, V: Value + 'static, F: Vouch<K, V>>(
    rows: &'t impl ReadableTable<K, V>,
    vouch: &'v F,
    low: Bound<&'k K::SelfType<'k>>,
    high: Bound<&'k K::SelfType<'k>>,
) -> Result<Walk<'t, 'v, K, V, F>, StoreError> {
    let before = rows.range::<&'k K::SelfType<'k>>((Bound::Unbounded, turned(low)))?.next_back();
    let before = before.filter(|_| !is_open(low)).transpose()?;
    let missed = before.is_none() && !rows.is_empty()?;
    if let Some(pair) = before {
        beyond(pair, &encoded::<K>(low), Ordering::Less, vouch)?;
    }
    let range = rows.range::<&'k K::SelfType<'k>>((low, Bound::Unbounded))?;
    Ok(Walk {
        rows: range,
        vouch,
        missed,
        last: encoded::<K>(low),
        beyond: turned(encoded::<K>(high)),
        way: Ordering::Greater,
        left: None,
    })
}

/// All rows of a table, rising; and as many as it says that it has.
///
/// # Errors
/// When the store fails.
pub fn whole<'t, 'v, K: Key + 'static, V: Value + 'static, F: Vouch<K, V>>(
    rows: &'t impl ReadableTable<K, V>,
    vouch: &'v F,
) -> Result<Walk<'t, 'v, K, V, F>, StoreError> {
    let walk = rising(rows, vouch, Bound::Unbounded, Bound::Unbounded)?;
    Ok(Walk { left: Some(rows.len()?), ..walk })
}

/// The same rows, falling.
///
/// # Errors
/// As `rising`.
pub fn falling<'t, 'v, 'k, K: Key + 'static, V: Value + 'static, F: Vouch<K, V>>(
    rows: &'t impl ReadableTable<K, V>,
    vouch: &'v F,
    low: Bound<&'k K::SelfType<'k>>,
    high: Bound<&'k K::SelfType<'k>>,
) -> Result<Walk<'t, 'v, K, V, F>, StoreError> {
    let before = rows.range::<&'k K::SelfType<'k>>((turned(high), Bound::Unbounded))?.next();
    let before = before.filter(|_| !is_open(high)).transpose()?;
    let missed = before.is_none() && !rows.is_empty()?;
    if let Some(pair) = before {
        beyond(pair, &encoded::<K>(high), Ordering::Greater, vouch)?;
    }
    let range = rows.range::<&'k K::SelfType<'k>>((Bound::Unbounded, high))?;
    Ok(Walk {
        rows: range,
        vouch,
        missed,
        last: encoded::<K>(high),
        beyond: turned(encoded::<K>(low)),
        way: Ordering::Less,
        left: None,
    })
}

/// Rows of a range, one after the other.
pub struct Walk<'t, 'v, K: Key + 'static, V: Value + 'static, F> {
    rows: redb::Range<'t, K, V>,
    vouch: &'v F,
    /// No row was met yet, and the table says that it has some.
    missed: bool,
    /// The bound it began at, and then the key it is at.
    last: Bound<Vec<u8>>,
    /// What lies behind its end.
    beyond: Bound<Vec<u8>>,
    /// How a key stands to the one before it.
    way: Ordering,
    /// How many rows must still come, where that is known.
    left: Option<u64>,
}

impl<'t, K: Key + 'static, V: Value + 'static, F: Vouch<K, V>> Walk<'t, '_, K, V, F> {
    fn step(&mut self) -> Result<Option<Pair<'t, K, V>>, StoreError> {
        let next = if self.way == Ordering::Greater { self.rows.next() } else { self.rows.next_back() };
        let Some(pair) = next.transpose()? else {
            let is_short = self.missed || self.left.is_some_and(|left| left > 0);
            return if is_short { Err(astray()) } else { Ok(None) };
        };
        self.missed = false;
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(1).ok_or_else(astray)?;
        }
        let value = pair.0.value();
        let bytes = K::as_bytes(&value);
        let key = bytes.as_ref();
        if !is_past::<K>(key, &self.last, self.way) {
            return Err(astray());
        }
        if !is_open(self.beyond.as_ref()) && is_past::<K>(key, &self.beyond, self.way) {
            self.vouch.vouch(&value, &pair.1.value())?;
            return Ok(None);
        }
        let mut last = match std::mem::replace(&mut self.last, Bound::Unbounded) {
            Bound::Included(last) | Bound::Excluded(last) => last,
            Bound::Unbounded => Vec::new(),
        };
        last.clear();
        last.extend_from_slice(key);
        self.last = Bound::Excluded(last);
        drop(bytes);
        drop(value);
        Ok(Some(pair))
    }
}

impl<'t, K: Key + 'static, V: Value + 'static, F: Vouch<K, V>> Iterator for Walk<'t, '_, K, V, F> {
    type Item = Result<Pair<'t, K, V>, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

/// A row right beyond a bound has to lie there and to be whole.
fn beyond<K: Key + 'static, V: Value + 'static>(
    pair: Pair<'_, K, V>,
    bound: &Bound<Vec<u8>>,
    way: Ordering,
    vouch: &impl Vouch<K, V>,
) -> Result<(), StoreError> {
    if !is_past::<K>(K::as_bytes(&pair.0.value()).as_ref(), &turned(bound.as_ref()).cloned(), way) {
        return Err(astray());
    }
    vouch.vouch(&pair.0.value(), &pair.1.value())
}

/// Whether a key lies on the side of a bound that the way leads to.
fn is_past<K: Key>(key: &[u8], bound: &Bound<Vec<u8>>, way: Ordering) -> bool {
    match bound {
        Bound::Unbounded => true,
        Bound::Included(at) => K::compare(key, at) != way.reverse(),
        Bound::Excluded(at) => K::compare(key, at) == way,
    }
}

fn is_open<T>(bound: Bound<&T>) -> bool {
    matches!(bound, Bound::Unbounded)
}

/// The bound that takes what lies on the other side of this one.
fn turned<T>(bound: Bound<T>) -> Bound<T> {
    match bound {
        Bound::Included(at) => Bound::Excluded(at),
        Bound::Excluded(at) => Bound::Included(at),
        Bound::Unbounded => Bound::Unbounded,
    }
}

fn encoded<K: Key>(bound: Bound<&K::SelfType<'_>>) -> Bound<Vec<u8>> {
    bound.map(|key| K::as_bytes(key).as_ref().to_vec())
}

fn astray() -> StoreError {
    StoreError::Damaged("a page leads look-ups astray")
}
