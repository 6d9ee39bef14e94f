//! Is each delivery in exactly one state, with the rows that the state takes? Owns what a state takes.

use std::collections::{HashMap, HashSet, VecDeque};

use redb::{ReadOnlyTable, ReadTransaction};

use crate::model::attempt::{Attempt, Verdict};
use crate::model::id::{JournalSeq, Seq, WebhookNo};
use crate::store::StoreError;
use crate::store::listing::{Fate, Tells};
use crate::store::log::{self, Log};
use crate::store::numbers::ByWebhook;
use crate::store::op::RowKey;
use crate::store::ordering::{self, Place};
use crate::store::queue;
use crate::store::record::{self, Entry};
use crate::store::registry::Registry;
use crate::store::schema::{DEAD_OF, ORDERING, OrderingKey, QUEUE, QueueKey};

use super::Deliveries;

/// Blocks of the journal that stay decoded: deliveries that follow each other stand near each other.
const BLOCKS_KEPT: usize = 16;

/// Rows of a webhook, by what they say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) waiting: u64,
    pub(super) started: u64,
    pub(super) held: u64,
    pub(super) dead: u64,
}

/// The journal, by number.
pub(super) struct Journal {
    table: ReadOnlyTable<u64, &'static [u8]>,
    /// Records whose blocks retention has removed.
    saved: ReadOnlyTable<u64, &'static [u8]>,
    kept: VecDeque<(JournalSeq, Vec<Entry>)>,
}

impl Journal {
    pub(super) fn new(txn: &ReadTransaction) -> Result<Self, StoreError> {
        let saved = txn.open_table(Log::Journal.kept())?;
        Ok(Self { table: txn.open_table(Log::Journal.table())?, saved, kept: VecDeque::new() })
    }

    /// A record, if it is there.
    pub(super) fn entry(&mut self, number: JournalSeq) -> Result<Option<&Entry>, StoreError> {
        let holds =
            |(first, entries): &(JournalSeq, Vec<Entry>)| (*first..*first + entries.len() as u64).contains(&number);
        if !self.kept.iter().any(holds) {
            let Some(found) = self.table.range(..=number)?.next_back() else { return self.saved(number) };
            let (first, bytes) = found?;
            let records = log::records_at(Log::Journal, first.value(), bytes.value())?;
            let entries: Result<Vec<Entry>, StoreError> = records.map(|found| record::read(found?.1)).collect();
            if self.kept.len() >= BLOCKS_KEPT {
                self.kept.pop_front();
            }
            self.kept.push_back((first.value(), entries?));
        }
        let found = self.kept.iter().find(|block| holds(block));
        Ok(found.and_then(|(first, entries)| entries.get(usize::try_from(number - first).ok()?)))
    }

    fn saved(&mut self, number: JournalSeq) -> Result<Option<&Entry>, StoreError> {
        let Some(value) = self.saved.get(number)? else { return Ok(None) };
        let entry = record::read(log::kept(Log::Journal, number, value.value())?.1)?;
        if self.kept.len() >= BLOCKS_KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back((number, vec![entry]));
        Ok(self.kept.back().and_then(|(_, entries)| entries.first()))
    }

    /// The newest record up to `number` that says how its delivery stands, with its number.
    fn telling(&mut self, number: JournalSeq) -> Result<Option<(JournalSeq, Entry)>, StoreError> {
        let mut number = number;
        loop {
            match self.entry(number)? {
                Some(Entry::Attempt(Attempt { verdict: Verdict::Single, previous: previous @ 1.., .. })) => {
                    number = *previous;
                }
                entry => return Ok(entry.cloned().map(|entry| (number, entry))),
            }
        }
    }
}

/// Judges one delivery after the other.
pub(super) struct Judge<'a> {
    pub(super) registry: &'a Registry,
    /// Those that start-up delivers again.
    pub(super) fresh: HashSet<(Seq, WebhookNo)>,
    pub(super) journal: Journal,
    queue: ReadOnlyTable<QueueKey, &'static [u8]>,
    lines: ReadOnlyTable<OrderingKey, &'static [u8]>,
    dead_of: ReadOnlyTable<(u32, u64), u64>,
    /// Rows that belong to a delivery which is as they say.
    pub(super) counts: ByWebhook<Counts>,
    pub(super) states: Deliveries,
    /// What was wrong. A delivery whose chain has two ends may look so, which is known only later.
    pub(super) wrong: HashMap<(Seq, WebhookNo), String>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(
        txn: &ReadTransaction,
        registry: &'a Registry,
        fresh: HashSet<(Seq, WebhookNo)>,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            registry,
            fresh,
            journal: Journal::new(txn)?,
            queue: txn.open_table(QUEUE)?,
            lines: txn.open_table(ORDERING)?,
            dead_of: txn.open_table(DEAD_OF)?,
            counts: ByWebhook::default(),
            states: Deliveries::default(),
            wrong: HashMap::new(),
        })
    }

    /// Judges a delivery: `order`, the line of its event; `fate`, what the listings say of it.
    pub(super) fn see(
        &mut self,
        event: Seq,
        order: Option<u64>,
        webhook: WebhookNo,
        fate: Option<Fate>,
    ) -> Result<(), StoreError> {
        let told = fate.map(|fate| self.journal.telling(fate.number)).transpose()?.flatten();
        if let Some(fate) = fate.filter(|_| told.is_none()) {
            return self.see_cut(event, webhook, fate);
        }
        if self.registry.webhook(webhook).is_none() {
            // Whatever it was, it is no more; what is left of its rows is swept.
            let delivered = matches!(&told, Some((_, Entry::Attempt(a))) if a.verdict == Verdict::Delivered);
            *(if delivered { &mut self.states.delivered } else { &mut self.states.cancelled }) += 1;
            return Ok(());
        }
        let place = order.map(|order| ordering::get(&self.lines, webhook, order, event)).transpose()?.flatten();
        let held = matches!(place, Some(Place::Held(_)));
        let death = self.dead_of.get((webhook, event))?.map(|death| death.value());
        let queued = told.as_ref().and_then(|(_, entry)| entry.queued());
        let row = match queued {
            Some((started, due_ms)) => {
                let key = RowKey { started, due_ms };
                queue::get(&self.queue, webhook, event, key)?.map(|_| key)
            }
            None => None,
        };
        let fresh = self.fresh.contains(&(event, webhook));
        let counts = self.counts.entry(webhook).or_default();
        counts.held += u64::from(held);
        counts.waiting += u64::from(row.is_some_and(|key| !key.started));
        counts.started += u64::from(row.is_some_and(|key| key.started));
        counts.dead += u64::from(death.is_some());
        let pending = u64::from(held) + u64::from(row.is_some()) + u64::from(fresh);
        let problem = match &told {
            None if pending == 1 && death.is_none() => self.count(|states| &mut states.pending),
            None => Some("nothing is on record of it, and it is not waiting either".to_owned()),
            Some((number, _)) if queued.is_some() => match (pending, death) {
                (1, None) if !fresh => self.count(|states| &mut states.pending),
                (0, _) => Some(format!("it is pending by record {number} and has no row in the queue")),
                _ => Some(format!("it is pending by record {number} and something else as well")),
            },
            Some((number, entry)) if is_death(entry) => match death {
                Some(death) if death == *number && pending == 0 => self.count(|states| &mut states.dead),
                // Retention has removed its letter: it stays dead.
                None if pending == 0 => self.count(|states| &mut states.dead),
                _ => Some(format!("it is dead by record {number}, and its rows say otherwise")),
            },
            Some((number, entry)) => {
                let delivered = matches!(entry, Entry::Attempt(_));
                if pending == 0 && death.is_none() && place.is_none() {
                    self.count(|states| if delivered { &mut states.delivered } else { &mut states.cancelled })
                } else {
                    Some(format!("it has ended by record {number}, and still has a row"))
                }
            }
        };
        if let Some(problem) = problem {
            self.note(event, webhook, problem);
        }
        Ok(())
    }

    /// Judges a delivery whose records retention has removed: it has ended, and its fate tells how.
    fn see_cut(&mut self, event: Seq, webhook: WebhookNo, fate: Fate) -> Result<(), StoreError> {
        let letter = self.dead_of.get((webhook, event))?.is_some();
        let live = self.registry.webhook(webhook).is_some();
        let problem = match fate.tells {
            Tells::Pending if live => Some("it is pending, and its newest record in the journal is missing".to_owned()),
            _ if letter && live => {
                Some("it is a dead letter, and its newest record in the journal is missing".to_owned())
            }
            Tells::Delivered => self.count(|states| &mut states.delivered),
            Tells::Dead(_) if live => self.count(|states| &mut states.dead),
            Tells::Cancelled | Tells::Pending | Tells::Dead(_) => self.count(|states| &mut states.cancelled),
            // A test's.
            Tells::Nothing => None,
        };
        if let Some(problem) = problem {
            self.note(event, webhook, problem);
        }
        Ok(())
    }

    fn count(&mut self, of: impl FnOnce(&mut Deliveries) -> &mut u64) -> Option<String> {
        *of(&mut self.states) += 1;
        None
    }

    fn note(&mut self, event: Seq, webhook: WebhookNo, problem: String) {
        if self.wrong.len() < super::FINDINGS_MAX {
            self.wrong.insert((event, webhook), problem);
        }
    }
}

/// Whether a record is of a delivery's death.
pub(super) fn is_death(entry: &Entry) -> bool {
    matches!(entry, Entry::Died { .. } | Entry::Attempt(Attempt { verdict: Verdict::Dead(_), .. }))
}
