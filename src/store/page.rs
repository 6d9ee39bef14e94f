//! Pages of the listings: a tenant's events, a webhook's attempts. Merges the lists on disk with their tails in memory.
//!
//! The tail is copied before the snapshot is taken, so whatever left the tail since then stands in the snapshot's rows;
//! rows are read only below the tail's base, so nothing appears twice. A page looks at a bounded number of entries: with a
//! filter that hardly matches it comes back short, with a cursor to go on, and so it does behind `limits::PAGE_BYTES_MAX`.

use std::collections::HashMap;
use std::iter::Peekable;
use std::ops::Bound;

use redb::ReadOnlyTable;
use serde_json::value::RawValue;

use super::StoreError;
use super::listing;
use super::log::{self, Log};
use super::lookup;
use super::record::{self, Entry};
use super::row::Rows;
use super::schema::{BY_TENANT, BY_WEBHOOK, PostingKey};
use super::view::{Shared, View};
use crate::clock::Millis;
use crate::limits::PAGE_BYTES_MAX;
use crate::model::attempt::Attempt;
use crate::model::event::Event;
use crate::model::id::{BROADCAST, JournalSeq, Seq, TenantNo, WebhookNo};

/// Entries that one page looks at before it comes back short.
const LOOKED_AT_MAX: usize = 2_000;

/// A double tells decimal numbers of this length apart.
const NUMBER_DIGITS_EXACT: usize = 15;

/// Which events, in which order.
#[derive(Clone, Debug, Default)]
pub struct EventQuery {
    pub tenant: TenantNo,
    pub ascending: bool,
    /// Go on behind this event, in the order asked for.
    pub after: Option<Seq>,
    pub limit: usize,
    pub since_ms: Option<Millis>,
    pub until_ms: Option<Millis>,
    pub kind: Option<String>,
    /// Members of `context` and the values they must have.
    pub context: Vec<(String, String)>,
}

/// A page and where the next one begins.
#[derive(Debug)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub next: Option<u64>,
}

impl Shared {
    /// A page of a tenant's events, those for everybody among them.
    ///
    /// # Errors
    /// When the store fails.
    pub fn events_page(&self, query: &EventQuery) -> Result<Page<Event>, StoreError> {
        let (tail, base) = {
            let tails = self.tails();
            (tails.events_of([query.tenant, BROADCAST]), tails.bases().0)
        };
        let view = self.view()?;
        let (table, lists) = (view.txn.open_table(Log::Events.table())?, view.txn.open_table(BY_TENANT)?);
        // Lists are pruned after what they lead to.
        let floor = log::floor(Log::Events, &table)?.0;
        let mut low = match query.since_ms {
            Some(since) => view.first_event_at(since)?.max(floor),
            None => floor,
        };
        let mut high = match query.until_ms {
            Some(until) => view.first_event_at(until.saturating_add(1))?,
            None => Seq::MAX,
        };
        match query.after {
            Some(after) if query.ascending => low = low.max(after.saturating_add(1)),
            Some(after) => high = high.min(after),
            None => {}
        }
        let bounds = Bounds { low, high, base, ascending: query.ascending };
        let numbers = merged(&lists, &BY_TENANT, &[query.tenant, BROADCAST], tail, bounds)?;
        gather(numbers, query.limit, |seq| {
            let event = log::get(Log::Events, &table, seq, |bytes| record::read_event(seq, bytes))?;
            Ok(event.filter(|event| wanted(event, query)).map(|event| {
                let bytes = event.bytes();
                (event, bytes)
            }))
        })
    }

    /// A webhook's attempts, newest first, while `each` wants more.
    ///
    /// # Errors
    /// When the store fails.
    pub fn scan_attempts(&self, webhook: WebhookNo, mut each: impl FnMut(&Attempt) -> bool) -> Result<(), StoreError> {
        let (tail, base) = {
            let tails = self.tails();
            (tails.attempts_of(webhook), tails.bases().1)
        };
        let view = self.view()?;
        let (table, lists) = (view.txn.open_table(Log::Journal.table())?, view.txn.open_table(BY_WEBHOOK)?);
        let bounds = Bounds { low: log::floor(Log::Journal, &table)?.0, high: JournalSeq::MAX, base, ascending: false };
        for number in merged(&lists, &BY_WEBHOOK, &[webhook], tail, bounds)? {
            if let Some(Entry::Attempt(attempt)) = log::get(Log::Journal, &table, number?, |bytes| record::read(bytes))?
                && !each(&attempt)
            {
                break;
            }
        }
        Ok(())
    }

    /// A page of a webhook's attempts, newest first, with their journal numbers.
    ///
    /// # Errors
    /// When the store fails.
    pub fn attempts_page(
        &self,
        webhook: WebhookNo,
        before: Option<JournalSeq>,
        limit: usize,
    ) -> Result<Page<(JournalSeq, Attempt)>, StoreError> {
        let (tail, base) = {
            let tails = self.tails();
            (tails.attempts_of(webhook), tails.bases().1)
        };
        let view = self.view()?;
        let (table, lists) = (view.txn.open_table(Log::Journal.table())?, view.txn.open_table(BY_WEBHOOK)?);
        let high = before.unwrap_or(JournalSeq::MAX);
        let bounds = Bounds { low: log::floor(Log::Journal, &table)?.0, high, base, ascending: false };
        let numbers = merged(&lists, &BY_WEBHOOK, &[webhook], tail, bounds)?;
        gather(numbers, limit, |number| match log::get(Log::Journal, &table, number, |bytes| record::read(bytes))? {
            Some(Entry::Attempt(attempt)) => Ok(Some(((number, attempt), 0))),
            _ => Ok(None),
        })
    }
}

impl View<'_> {
    /// The first event accepted at or after `at_ms`; acceptance times rise with the log.
    ///
    /// # Errors
    /// When the store fails.
    pub fn first_event_at(&self, at_ms: Millis) -> Result<Seq, StoreError> {
        let table = self.txn.open_table(Log::Events.table())?;
        let kept = self.txn.open_table(Log::Events.kept())?;
        let (floor, end) = (log::floor(Log::Events, &table)?.0, log::end(Log::Events, &table)?.next);
        let accepted = |seq: Seq, bytes: &[u8]| Ok(record::read_event(seq, bytes)?.accepted_ms);
        let (mut low, mut high) = (1, end);
        while low < high {
            let middle = low + (high - low) / 2;
            // The first one there is from the middle on.
            let left = if middle < floor {
                let (low, high) = (Bound::Included(&middle), Bound::Excluded(&floor));
                lookup::rising(&kept, &Log::Events.kept(), low, high)?.next().transpose()?
            } else {
                None
            };
            let (seq, accepted_ms) = match left {
                Some((seq, value)) => {
                    (seq.value(), Some(accepted(seq.value(), log::kept(Log::Events, seq.value(), value.value())?.1)?))
                }
                None => {
                    let seq = middle.max(floor);
                    (seq, log::get(Log::Events, &table, seq, |bytes| accepted(seq, bytes))?)
                }
            };
            if accepted_ms.is_none_or(|accepted_ms| accepted_ms < at_ms) {
                low = seq + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}

fn wanted(event: &Event, query: &EventQuery) -> bool {
    if event.is_erased() || query.kind.as_ref().is_some_and(|kind| *kind != event.kind) {
        return false;
    }
    if query.context.is_empty() {
        return true;
    }
    let context = event.context.as_deref().unwrap_or(b"{}");
    let Ok(context) = serde_json::from_slice::<HashMap<String, &RawValue>>(context) else { return false };
    query.context.iter().all(|(key, wanted)| context.get(key).is_some_and(|value| is_value(value.get(), wanted)))
}

/// Whether a member's JSON is the value that was asked for: a string by its text, anything else as JSON.
fn is_value(json: &str, wanted: &str) -> bool {
    if json.starts_with('"') {
        return serde_json::from_str::<String>(json).is_ok_and(|text| text == wanted);
    }
    // As numbers, longer ones are rounded, and two that differ would seem the same.
    let is_long = json.len().max(wanted.len()) > NUMBER_DIGITS_EXACT && !json.starts_with(['{', '[']);
    let read = |text| serde_json::from_str::<serde_json::Value>(text).ok();
    json == wanted || (!is_long && read(wanted).is_some_and(|wanted| read(json) == Some(wanted)))
}

fn gather<T>(
    numbers: impl Iterator<Item = Result<u64, StoreError>>,
    limit: usize,
    mut read: impl FnMut(u64) -> Result<Option<(T, usize)>, StoreError>,
) -> Result<Page<T>, StoreError> {
    let (mut items, mut bytes) = (Vec::new(), 0);
    let mut last = None;
    for (looked_at, number) in numbers.enumerate() {
        let number = number?;
        if items.len() >= limit || bytes > PAGE_BYTES_MAX || looked_at >= LOOKED_AT_MAX {
            return Ok(Page { items, next: last });
        }
        last = Some(number);
        if let Some((item, size)) = read(number)? {
            items.push(item);
            bytes += size;
        }
    }
    Ok(Page { items, next: None })
}

#[derive(Clone, Copy)]
struct Bounds {
    /// From here on.
    low: u64,
    /// Below here.
    high: u64,
    /// Rows are read below here only; the tail has the rest.
    base: u64,
    ascending: bool,
}

type Lists = ReadOnlyTable<PostingKey, &'static [u8]>;
type Numbers<'a> = Box<dyn Iterator<Item = Result<u64, StoreError>> + 'a>;

/// The entries of up to two owners' lists and of the tail, in one order.
fn merged<'a>(
    lists: &'a Lists,
    definition: &'a Rows<PostingKey>,
    owners: &[u32],
    tail: Vec<u64>,
    bounds: Bounds,
) -> Result<Numbers<'a>, StoreError> {
    let inside = move |number: &u64| (bounds.low..bounds.high).contains(number);
    let tail: Vec<u64> = tail.into_iter().filter(inside).collect();
    let mut merging = Vec::new();
    for owner in owners {
        merging.push(on_disk(lists, definition, *owner, bounds)?.peekable());
    }
    let disk = Merge { lists: merging, ascending: bounds.ascending };
    Ok(if bounds.ascending {
        Box::new(disk.chain(tail.into_iter().map(Ok)))
    } else {
        Box::new(tail.into_iter().rev().map(Ok).chain(disk))
    })
}

fn on_disk<'a>(
    table: &'a Lists,
    definition: &'a Rows<PostingKey>,
    owner: u32,
    bounds: Bounds,
) -> Result<Numbers<'a>, StoreError> {
    let high = bounds.high.min(bounds.base);
    // The row that holds `low` may begin before it.
    let (least, place) = ((owner, 0), (owner, bounds.low));
    let mut before = lookup::falling(table, definition, Bound::Included(&least), Bound::Included(&place))?;
    let start = match before.next() {
        Some(row) => row?.0.value().1,
        None => 0,
    };
    if start >= high {
        return Ok(Box::new(std::iter::empty()));
    }
    let ascending = bounds.ascending;
    let (low, high_place) = ((owner, start), (owner, high));
    let (low, high_bound) = (Bound::Included(&low), Bound::Excluded(&high_place));
    let rows = if ascending {
        lookup::rising(table, definition, low, high_bound)?
    } else {
        lookup::falling(table, definition, low, high_bound)?
    };
    let unpacked = move |row: Result<lookup::Pair<'_, PostingKey, &'static [u8]>, StoreError>| {
        let list = row.and_then(|(key, value)| listing::unpack(*definition, key.value(), value.value()));
        match list {
            Ok(mut list) => {
                list.retain(|number| (bounds.low..high).contains(number));
                if !ascending {
                    list.reverse();
                }
                list.into_iter().map(Ok).collect()
            }
            Err(error) => vec![Err(error)],
        }
    };
    Ok(Box::new(rows.flat_map(unpacked)))
}

struct Merge<'a> {
    lists: Vec<Peekable<Numbers<'a>>>,
    ascending: bool,
}

impl Iterator for Merge<'_> {
    type Item = Result<u64, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let ascending = self.ascending;
        let heads = self.lists.iter_mut().enumerate().filter_map(|(i, list)| {
            let rank = match list.peek()? {
                // An error comes first, whatever the order.
                Err(_) => 0,
                Ok(number) if ascending => *number,
                Ok(number) => u64::MAX - number,
            };
            Some((rank, i))
        });
        let (_, first) = heads.min()?;
        self.lists[first].next()
    }
}
