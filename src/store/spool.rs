//! The spool: successes that are known but not yet committed. Owns two small files beside the store, and nothing that is
//! true by itself: what stands in the store decides.
//!
//! A permit may come back only when its outcome can't be lost by a crash of the process, otherwise a crash repeats more
//! deliveries than there are permits. Waiting for the commit for that bounds a webhook's rate by the disk's sync, so a
//! success is first appended here with one plain write, which the kernel keeps when the process dies. (A power cut may lose
//! it: then what was delivered since the last commits is repeated.) Start-up records what is found here and not in the
//! store. The files take turns: one is emptied when everything in it is committed.
//!
//! Record, 56 bytes little endian: seq, event id, webhook, attempt number, wall time ms, duration ms, status, zero, and the
//! first 8 bytes of the SHA-256 of all that. The id ties it to its store: a spool beside a restored backup is ignored.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use super::StoreError;
use super::listing::Fates;
use super::op::{Op, Outcome, RowKey};
use super::record::QueueRow;
use super::recover::Recovered;
use super::view::{Shared, View};
use crate::clock::Millis;
use crate::model::attempt::{Attempt, Verdict};
use crate::model::event::OrderKey;
use crate::model::id::{AttemptNumber, EventId, Seq, WebhookNo};

const RECORD_BYTES: usize = 56;
const BODY_BYTES: usize = RECORD_BYTES - 8;
/// A file is left for the other one above this: some 1,200 records, so that start-up has few to look up.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// Names of its files in the state folder.
pub const NAMES: [&str; 2] = ["webhookd.spool.0", "webhookd.spool.1"];

/// A delivery that succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Success {
    pub event: Seq,
    pub id: EventId,
    pub webhook: WebhookNo,
    pub number: AttemptNumber,
    pub at_ms: Millis,
    pub duration_ms: u32,
    pub status: u16,
}

/// Which file a success stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(usize);

pub struct Spool {
    files: [File; 2],
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    current: usize,
    bytes: [u64; 2],
    /// Successes that are not committed yet.
    open: [u64; 2],
}

impl Spool {
    /// Opens the spool in the state folder; gives what an earlier process left in it.
    ///
    /// # Errors
    /// When the files can't be read or made.
    pub fn open(folder: &Path) -> io::Result<(Self, Vec<Success>)> {
        let mut found = Vec::new();
        let mut open = |name: &str| -> io::Result<File> {
            use std::os::unix::fs::OpenOptionsExt;
            let path = folder.join(name);
            let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            // A record that was cut short, or torn by a power cut, says nothing.
            found.extend(bytes.chunks_exact(RECORD_BYTES).filter_map(decode));
            Ok(file)
        };
        let files = [open(NAMES[0])?, open(NAMES[1])?];
        Ok((Self { files, state: Mutex::default() }, found))
    }

    /// Forgets everything: it is in the store now.
    ///
    /// # Errors
    /// When the files can't be cut.
    pub fn clear(&self) -> io::Result<()> {
        self.files.iter().try_for_each(|file| file.set_len(0))
    }

    /// Notes successes with one write; `None` when there are none or they could not be written, and then their permits wait
    /// for the commit. The ticket is to be settled once for each.
    pub fn note<'a>(&self, successes: impl Iterator<Item = &'a Success>) -> Option<Ticket> {
        let records: Vec<[u8; RECORD_BYTES]> = successes.map(encode).collect();
        if records.is_empty() {
            return None;
        }
        let count = records.len() as u64;
        let current = {
            let mut state = self.lock();
            let other = 1 - state.current;
            if state.bytes[state.current] >= FILE_BYTES_MAX && state.open[other] == 0 {
                self.files[other].set_len(0).ok()?;
                state.bytes[other] = 0;
                state.current = other;
            }
            let current = state.current;
            state.bytes[current] += RECORD_BYTES as u64 * count;
            state.open[current] += count;
            current
        };
        let mut file = &self.files[current];
        // One write to a file opened for appending: workers don't tear each other's records.
        if file.write_all(records.as_flattened()).is_err() {
            (0..count).for_each(|_| self.settle(Ticket(current)));
            return None;
        }
        Some(Ticket(current))
    }

    /// What was noted is committed.
    pub fn settle(&self, ticket: Ticket) {
        let mut state = self.lock();
        state.open[ticket.0] = state.open[ticket.0].saturating_sub(1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Records in the store what an earlier process had noted and not committed.
///
/// # Errors
/// When the store fails.
pub fn replay(recovered: &mut Recovered, shared: &Shared, found: &[Success]) -> Result<usize, StoreError> {
    let first = |success: &&Success| success.number == AttemptNumber::MIN;
    let firsts: HashMap<(Seq, WebhookNo), &Success> =
        found.iter().filter(first).map(|success| ((success.event, success.webhook), success)).collect();
    let (mut ops, mut taken) = (Vec::new(), HashSet::new());
    // One pass: there can be tens of thousands of them.
    recovered.fresh.retain(|(webhook, event)| {
        let place = (event.seq, *webhook);
        let Some(success) = firsts.get(&place).filter(|success| success.id == event.id) else { return true };
        let row = QueueRow { since_ms: event.accepted_ms, ..QueueRow::default() };
        let before = Before { key: None, row, order: event.order() };
        ops.push(Op::Outcome(Box::new(outcome(success, &before))));
        taken.insert(place);
        false
    });
    let rest: Vec<&Success> =
        found.iter().filter(|success| !(first(success) && taken.contains(&(success.event, success.webhook)))).collect();
    let tails = shared.tails().fates_of_each(&rest.iter().map(|success| success.event).collect());
    let view = shared.view()?;
    for success in rest {
        let tail = tails.get(&success.event).cloned().unwrap_or_default();
        if let Some(before) = queued(&view, success, tail)? {
            ops.push(Op::Outcome(Box::new(outcome(success, &before))));
        }
    }
    drop(view);
    let count = ops.len();
    if count > 0 {
        let applied = recovered.engine.apply(&ops)?;
        // What is reported of a success has subscribers, too.
        recovered.fresh.extend(applied.effects.fresh);
        // Whoever came next in a line has a row now.
        let mut queued: BTreeSet<WebhookNo> = recovered.queued.drain(..).collect();
        queued.extend(applied.effects.queued.iter().map(|(webhook, _)| *webhook));
        recovered.queued.extend(queued);
    }
    // In the order of the log, with what was reported.
    recovered.fresh.sort_by_key(|(webhook, event)| (event.seq, *webhook));
    Ok(count)
}

/// What a delivery was before its success.
struct Before {
    key: Option<RowKey>,
    row: QueueRow,
    order: Option<OrderKey>,
}

/// The row of a queued delivery whose next attempt was this success.
fn queued(view: &View<'_>, success: &Success, tail: Fates) -> Result<Option<Before>, StoreError> {
    let Some(event) = view.event(success.event)?.filter(|event| event.id == success.id) else { return Ok(None) };
    let fates = view.fates_beside(success.event, tail)?;
    let Some(newest) = fates.get(&success.webhook) else { return Ok(None) };
    let Some((started, due_ms)) = view.entry(newest.number)?.and_then(|entry| entry.queued()) else { return Ok(None) };
    let key = RowKey { started, due_ms };
    let row = view.queue_row(success.webhook, success.event, key)?;
    let row = row.filter(|row| row.attempts + 1 == success.number.get());
    Ok(row.map(|row| Before { key: Some(key), row, order: event.order() }))
}

fn outcome(success: &Success, before: &Before) -> Outcome {
    let row = &before.row;
    Outcome {
        attempt: Attempt {
            event: success.event,
            webhook: success.webhook,
            number: success.number,
            previous: row.previous,
            at_ms: success.at_ms,
            duration_ms: success.duration_ms,
            class: None,
            status: Some(success.status),
            error: String::new(),
            remote: None,
            excerpt: String::new(),
            verdict: Verdict::Delivered,
        },
        row: before.key,
        order: before.order,
        budget_from: row.budget_from,
        since_ms: row.since_ms,
        deactivate: None,
        test: false,
    }
}

fn encode(success: &Success) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    record[..8].copy_from_slice(&success.event.to_le_bytes());
    record[8..24].copy_from_slice(&success.id.0);
    record[24..28].copy_from_slice(&success.webhook.to_le_bytes());
    record[28..32].copy_from_slice(&success.number.get().to_le_bytes());
    record[32..40].copy_from_slice(&success.at_ms.to_le_bytes());
    record[40..44].copy_from_slice(&success.duration_ms.to_le_bytes());
    record[44..46].copy_from_slice(&success.status.to_le_bytes());
    let sum = Sha256::digest(&record[..BODY_BYTES]);
    record[BODY_BYTES..].copy_from_slice(&sum[..8]);
    record
}

fn decode(record: &[u8]) -> Option<Success> {
    let (body, sum) = record.split_at_checked(BODY_BYTES)?;
    if Sha256::digest(body)[..8] != *sum {
        return None;
    }
    let word = |at: usize| -> Option<u64> { Some(u64::from_le_bytes(body.get(at..at + 8)?.try_into().ok()?)) };
    let half = |at: usize| -> Option<u32> { Some(u32::from_le_bytes(body.get(at..at + 4)?.try_into().ok()?)) };
    Some(Success {
        event: word(0)?,
        id: EventId(body.get(8..24)?.try_into().ok()?),
        webhook: half(24)?,
        number: AttemptNumber::new(half(28)?)?,
        at_ms: word(32)?,
        duration_ms: half(40)?,
        status: u16::try_from(half(44)?).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn success(event: Seq) -> Success {
        let number = AttemptNumber::MIN.saturating_add(1);
        Success { event, id: EventId([7; 16]), webhook: 3, number, at_ms: 99, duration_ms: 4, status: 204 }
    }

    #[test]
    fn what_was_noted_is_found_and_what_is_torn_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (spool, found) = Spool::open(folder.path()).unwrap();
        assert_eq!(found, []);
        assert_eq!(spool.note([].iter()), None);
        spool.note([success(1), success(2)].iter()).unwrap();
        spool.note([success(3)].iter()).unwrap();
        drop(spool);
        let path = folder.path().join(NAMES[0]);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[RECORD_BYTES + 3] ^= 1;
        bytes.truncate(3 * RECORD_BYTES - 1);
        std::fs::write(&path, bytes).unwrap();
        let (spool, found) = Spool::open(folder.path()).unwrap();
        assert_eq!(found, [success(1)]);
        spool.clear().unwrap();
        assert_eq!(Spool::open(folder.path()).unwrap().1, []);
    }

    #[test]
    fn a_file_is_emptied_only_when_all_in_it_is_committed() {
        let folder = tempfile::tempdir().unwrap();
        let (spool, _) = Spool::open(folder.path()).unwrap();
        let full = FILE_BYTES_MAX / RECORD_BYTES as u64 + 1;
        let first: Vec<Ticket> = (1..=full).map(|event| spool.note([success(event)].iter()).unwrap()).collect();
        assert!(first.iter().all(|ticket| *ticket == Ticket(0)));
        let second: Vec<Ticket> = (1..=full).map(|event| spool.note([success(full + event)].iter()).unwrap()).collect();
        assert!(second.iter().all(|ticket| *ticket == Ticket(1)));
        // The first still holds what is not committed: the second grows beyond its bound instead.
        assert_eq!(spool.note([success(9)].iter()).unwrap(), Ticket(1));
        first.into_iter().for_each(|ticket| spool.settle(ticket));
        assert_eq!(spool.note([success(10)].iter()).unwrap(), Ticket(0));
        let found = Spool::open(folder.path()).unwrap().1;
        assert_eq!(found.len() as u64, full + 2);
    }
}
