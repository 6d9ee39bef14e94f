//! Reading: snapshots of the store beside the writer, and the copies of its state that readers share.
//!
//! A view lives for one question and never across a wait on the network: a snapshot that stays open keeps every page that
//! is freed after it.

use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use redb::{Database, ReadTransaction, ReadableDatabase};

use super::StoreError;
use super::age::Age;
use super::hold::Hold;
use super::ids::Mask;
use super::listing::{self, Fates, Tails};
use super::log::{self, Log};
use super::lookup;
use super::numbers::ByWebhook;
use super::op::RowKey;
use super::ordering::{self, Place, Places};
use super::queue::{self, Queued};
use super::record::{self, Entry, QueueRow, Standing};
use super::registry::Registry;
use super::row;
use super::schema::{FATES, FATES_PER_ROW, META, ORDERING, QUEUE, STANDING, WEBHOOKS, meta};
use super::seal::Sealer;
use super::unseen::Unseen;
use crate::clock::Millis;
use crate::model::attempt::Attempt;
use crate::model::event::{Event, OrderKey};
use crate::model::id::{EventId, JournalSeq, Seq, WebhookNo};
use crate::model::webhook::Webhook;

/// What the writer and its readers have in common.
pub struct Shared {
    /// Before the database, which it would keep from being closed.
    pub(super) unseen: Unseen,
    db: RwLock<Option<Arc<Database>>>,
    tails: RwLock<Tails>,
    registry: RwLock<Registry>,
    /// Wall times of webhooks' newest successes, where they may be newer than on disk.
    successes: RwLock<ByWebhook<Millis>>,
    next_event: AtomicU64,
    next_journal: AtomicU64,
    watermark: AtomicU64,
    fresh: AtomicU64,
    /// How long idempotency records are kept.
    idempotency_ms: AtomicU64,
    age: RwLock<Age>,
    hold: Hold,
    pub(super) sealer: Sealer,
    pub(super) mask: Mask,
}

impl Shared {
    #[must_use]
    pub fn new(sealer: Sealer, mask: Mask) -> Self {
        Self {
            unseen: Unseen::default(),
            db: RwLock::default(),
            tails: RwLock::default(),
            registry: RwLock::default(),
            successes: RwLock::default(),
            next_event: AtomicU64::new(1),
            next_journal: AtomicU64::new(1),
            watermark: AtomicU64::new(1),
            fresh: AtomicU64::new(0),
            idempotency_ms: AtomicU64::new(0),
            age: RwLock::default(),
            hold: Hold::default(),
            sealer,
            mask,
        }
    }

    pub(super) fn set_db(&self, db: Option<Arc<Database>>) {
        let old = std::mem::replace(&mut *self.db.write().unwrap_or_else(PoisonError::into_inner), db);
        self.unseen.reset();
        drop(old);
    }

    pub(super) fn tails(&self) -> RwLockReadGuard<'_, Tails> {
        self.tails.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tails_mut(&self) -> RwLockWriteGuard<'_, Tails> {
        self.tails.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tenants, webhooks and keys as they were answered.
    pub fn registry(&self) -> RwLockReadGuard<'_, Registry> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn registry_mut(&self) -> RwLockWriteGuard<'_, Registry> {
        self.registry.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_successes(&self, successes: ByWebhook<Millis>) {
        *self.successes.write().unwrap_or_else(PoisonError::into_inner) = successes;
    }

    pub(super) fn add_successes(&self, successes: &[(WebhookNo, Millis)]) {
        if !successes.is_empty() {
            self.successes.write().unwrap_or_else(PoisonError::into_inner).extend(successes.iter().copied());
        }
    }

    pub(super) fn set_heads(&self, next_event: Seq, next_journal: JournalSeq, watermark: Seq) {
        self.next_event.store(next_event, Ordering::Release);
        self.next_journal.store(next_journal, Ordering::Release);
        self.watermark.store(watermark, Ordering::Release);
    }

    pub(super) fn set_fresh(&self, fresh: u64) {
        self.fresh.store(fresh, Ordering::Relaxed);
    }

    /// Fresh deliveries, of all webhooks.
    #[must_use]
    pub fn fresh(&self) -> u64 {
        self.fresh.load(Ordering::Relaxed)
    }

    /// The number the next event will get.
    #[must_use]
    pub fn next_event(&self) -> Seq {
        self.next_event.load(Ordering::Acquire)
    }

    /// The number the next journal record will get.
    #[must_use]
    pub fn next_journal(&self) -> JournalSeq {
        self.next_journal.load(Ordering::Acquire)
    }

    /// The oldest event that may have a fresh delivery.
    #[must_use]
    pub fn watermark(&self) -> Seq {
        self.watermark.load(Ordering::Acquire)
    }

    /// From where on the listings are not, or not all, on disk: (event, journal record).
    #[must_use]
    pub fn unwritten_from(&self) -> (Seq, JournalSeq) {
        self.tails().bases()
    }

    /// How long an idempotency key is remembered.
    #[must_use]
    pub fn idempotency_ms(&self) -> Millis {
        self.idempotency_ms.load(Ordering::Relaxed)
    }

    /// From now on keys are remembered for this long.
    pub fn set_idempotency_ms(&self, kept_ms: Millis) {
        self.idempotency_ms.store(kept_ms, Ordering::Relaxed);
    }

    pub(super) fn set_age(&self, age: Age) {
        *self.age.write().unwrap_or_else(PoisonError::into_inner) = age;
    }

    /// The clock that retention counts by.
    #[must_use]
    pub fn age(&self) -> Age {
        *self.age.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A snapshot of all that was answered until now: what a group has left open is committed for it.
    ///
    /// # Errors
    /// `StoreError::Unavailable` while the store is being opened again.
    pub fn view(&self) -> Result<View<'_>, StoreError> {
        self.unseen.show()?;
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner).clone();
        let db = db.ok_or_else(|| StoreError::Unavailable("it is being opened again".to_owned()))?;
        let txn = db.begin_read()?;
        Ok(View { txn, _db: db, shared: self })
    }

    /// What keeps the low ends of the logs where they are.
    #[must_use]
    pub fn hold(&self) -> &Hold {
        &self.hold
    }

    /// Seals and opens with the store's key.
    #[must_use]
    pub fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    /// The sequence number that an id claims; whether the event is there, a view tells. An id that nothing has leads to
    /// some event all the same: looking for it costs what looking for somebody else's event costs.
    #[must_use]
    pub fn seq_of(&self, id: EventId) -> Option<Seq> {
        let newest = self.next_event().saturating_sub(1);
        let claimed = self.mask.seq(id).filter(|_| newest > 0)?;
        Some(if (1..=newest).contains(&claimed) { claimed } else { 1 + claimed % newest })
    }

    /// A snapshot, and the fate of each delivery of an event in it.
    ///
    /// # Errors
    /// When the store fails.
    pub fn view_with_fates(&self, event: Seq) -> Result<(View<'_>, Fates), StoreError> {
        // The tail first: what it names is in a snapshot that is taken after it, and what leaves it later is so too.
        let tail = self.tails().fates_of(event);
        let view = self.view()?;
        let fates = view.fates_beside(event, tail)?;
        Ok((view, fates))
    }
}

/// A snapshot.
pub struct View<'a> {
    pub(super) txn: ReadTransaction,
    /// Who closes the database waits for this.
    _db: Arc<Database>,
    pub(super) shared: &'a Shared,
}

impl View<'_> {
    /// Wall time of the newest whole backup, in ms.
    ///
    /// # Errors
    /// When the store fails.
    pub fn last_backup(&self) -> Result<Option<Millis>, StoreError> {
        let meta_rows = self.txn.open_table(META)?;
        let Some(value) = lookup::get(&meta_rows, &META, &meta::LAST_BACKUP)? else { return Ok(None) };
        let bytes = row::open(META, &meta::LAST_BACKUP, value.value())?.try_into();
        Ok(Some(u64::from_le_bytes(bytes.map_err(|_| StoreError::Damaged("when it was backed up does not read"))?)))
    }

    /// The event at `seq`.
    ///
    /// # Errors
    /// When the store fails.
    pub fn event(&self, seq: Seq) -> Result<Option<Event>, StoreError> {
        log::find(&self.txn, Log::Events, seq, |bytes| record::read_event(seq, bytes))
    }

    /// For several events, one after the other, that stand near each other.
    ///
    /// # Errors
    /// When the store fails.
    pub fn events(&self) -> Result<impl FnMut(Seq) -> Result<Option<Event>, StoreError> + '_, StoreError> {
        let mut seeker = log::Seeker::new(&self.txn, Log::Events)?;
        Ok(move |seq| seeker.find(seq, |bytes| record::read_event(seq, bytes)))
    }

    /// The event with this public id.
    ///
    /// # Errors
    /// When the store fails.
    pub fn event_by_id(&self, id: EventId) -> Result<Option<Event>, StoreError> {
        let Some(seq) = self.shared.seq_of(id) else { return Ok(None) };
        Ok(self.event(seq)?.filter(|event| event.id == id && !event.is_erased()))
    }

    /// Events one after the other from `from` on, until `each` says stop.
    ///
    /// # Errors
    /// When the store fails.
    pub fn scan_events(&self, from: Seq, mut each: impl FnMut(Event) -> bool) -> Result<(), StoreError> {
        let table = self.txn.open_table(Log::Events.table())?;
        log::scan(Log::Events, &table, from, |seq, bytes| Ok(each(record::read_event(seq, bytes)?)))
    }

    /// Journal records one after the other from `from` on, with the attempt where it is one, until `each` says stop.
    ///
    /// # Errors
    /// When the store fails.
    pub fn scan_attempts(
        &self,
        from: JournalSeq,
        mut each: impl FnMut(JournalSeq, Option<Attempt>) -> bool,
    ) -> Result<(), StoreError> {
        let table = self.txn.open_table(Log::Journal.table())?;
        log::scan(Log::Journal, &table, from, |number, bytes| {
            let attempt = match record::read(bytes)? {
                Entry::Attempt(attempt) => Some(attempt),
                _ => None,
            };
            Ok(each(number, attempt))
        })
    }

    /// The journal record `number`.
    ///
    /// # Errors
    /// When the store fails.
    pub fn entry(&self, number: JournalSeq) -> Result<Option<Entry>, StoreError> {
        log::find(&self.txn, Log::Journal, number, |bytes| record::read(bytes))
    }

    /// The journal records of one delivery, oldest first, from its newest back.
    ///
    /// # Errors
    /// When the store fails.
    pub fn chain(&self, newest: JournalSeq) -> Result<Vec<(JournalSeq, Entry)>, StoreError> {
        let mut chain = Vec::new();
        let mut number = newest;
        while number != 0 {
            // Cut by retention: what is older is gone.
            let Some(entry) = self.entry(number)? else { break };
            let previous = entry.previous();
            chain.push((number, entry));
            if previous >= number {
                return Err(StoreError::Damaged("a journal chain does not lead back"));
            }
            number = previous;
        }
        chain.reverse();
        Ok(chain)
    }

    /// The fate of each delivery of an event that the journal says something of. The unwritten ones are as of now: a record may
    /// be newer than this snapshot. `Shared::view_with_fates` gives both of one moment.
    ///
    /// # Errors
    /// When the store fails.
    pub fn fates(&self, event: Seq) -> Result<Fates, StoreError> {
        // The tail is read before the row, and the row from a snapshot taken after that: what left the tail stands there.
        let tail = self.shared.tails().fates_of(event);
        self.shared.view()?.fates_beside(event, tail)
    }

    pub(super) fn fates_beside(&self, event: Seq, tail: Fates) -> Result<Fates, StoreError> {
        let mut fates = match lookup::get(&self.txn.open_table(FATES)?, &FATES, &(event / FATES_PER_ROW))? {
            Some(row) => listing::fates_in(row.value(), event)?,
            None => Fates::new(),
        };
        for (webhook, newer) in tail {
            // What has left the tail since it was read may stand in the row already.
            if fates.get(&webhook).is_none_or(|fate| fate.number < newer.number) {
                listing::add_fate(&mut fates, webhook, newer);
            }
        }
        Ok(fates)
    }

    /// A delivery's row in the durable queue.
    ///
    /// # Errors
    /// When the store fails.
    pub fn queue_row(&self, webhook: WebhookNo, event: Seq, key: RowKey) -> Result<Option<QueueRow>, StoreError> {
        queue::get(&self.txn.open_table(QUEUE)?, webhook, event, key)
    }

    /// Due rows of a webhook, oldest first.
    ///
    /// # Errors
    /// When the store fails.
    pub fn due(
        &self,
        webhook: WebhookNo,
        started: bool,
        now: Millis,
        max: usize,
        skip: impl FnMut(Seq, RowKey) -> bool,
    ) -> Result<Vec<Queued>, StoreError> {
        queue::due(&self.txn.open_table(QUEUE)?, webhook, started, now, max, skip)
    }

    /// Rows of a webhook behind `after`, in the order of the queue.
    ///
    /// # Errors
    /// When the store fails.
    pub fn queued(
        &self,
        webhook: WebhookNo,
        after: Option<(RowKey, Seq)>,
        max: usize,
    ) -> Result<Vec<Queued>, StoreError> {
        queue::listed(&self.txn.open_table(QUEUE)?, webhook, after, max)
    }

    /// When the next row of one kind is due.
    ///
    /// # Errors
    /// When the store fails.
    pub fn next_due(
        &self,
        webhook: WebhookNo,
        started: bool,
        skip: impl FnMut(Seq, RowKey) -> bool,
    ) -> Result<Option<Millis>, StoreError> {
        queue::next_due(&self.txn.open_table(QUEUE)?, webhook, started, skip)
    }

    /// How a delivery stands in its line.
    ///
    /// # Errors
    /// When the store fails.
    pub fn place_in_line(&self, webhook: WebhookNo, order: OrderKey, event: Seq) -> Result<Option<Place>, StoreError> {
        ordering::get(&self.txn.open_table(ORDERING)?, webhook, order, event)
    }

    /// The line that a delivery stands in, for one whose event does not read.
    ///
    /// # Errors
    /// When the store fails.
    pub fn line_of(&self, webhook: WebhookNo, event: Seq) -> Result<Option<OrderKey>, StoreError> {
        ordering::line_of(&self.txn.open_table(ORDERING)?, webhook, event)
    }

    /// Whom a held delivery waits for: the one of its line that is under way, and the one right before it.
    ///
    /// # Errors
    /// When the store fails.
    pub fn before_in_line(
        &self,
        webhook: WebhookNo,
        order: OrderKey,
        event: Seq,
        max: usize,
    ) -> Result<(Option<Seq>, Option<Seq>), StoreError> {
        ordering::before(&self.txn.open_table(ORDERING)?, webhook, order, event, max)
    }

    /// Who stands in a webhook's lines behind `after`, at most `max`.
    ///
    /// # Errors
    /// When the store fails.
    pub fn in_line(
        &self,
        webhook: WebhookNo,
        after: Option<(OrderKey, Seq)>,
        max: usize,
    ) -> Result<Places, StoreError> {
        ordering::listed(&self.txn.open_table(ORDERING)?, webhook, after, max)
    }

    /// How a webhook stands. Its newest success is as of now: it may be newer than this snapshot.
    ///
    /// # Errors
    /// When the store fails.
    pub fn standing(&self, webhook: WebhookNo) -> Result<Standing, StoreError> {
        let mut standing: Standing = match lookup::get(&self.txn.open_table(STANDING)?, &STANDING, &webhook)? {
            Some(value) => row::read(STANDING, &webhook, value.value())?,
            None => Standing::default(),
        };
        let successes = self.shared.successes.read().unwrap_or_else(PoisonError::into_inner);
        standing.last_success_ms = successes.get(&webhook).copied().or(standing.last_success_ms);
        Ok(standing)
    }

    /// The version of a webhook that decided about the event at `seq`, if it existed then.
    ///
    /// # Errors
    /// When the store fails.
    pub fn webhook_at(&self, no: WebhookNo, seq: Seq) -> Result<Option<Webhook>, StoreError> {
        webhook_at(&self.txn, self.shared, no, seq)
    }

    /// The newest version of a webhook, deleted or not.
    ///
    /// # Errors
    /// When the store fails.
    pub fn webhook_newest(&self, no: WebhookNo) -> Result<Option<Webhook>, StoreError> {
        self.webhook_at(no, Seq::MAX)
    }
}

/// The same in any snapshot.
pub(super) fn webhook_at(
    txn: &ReadTransaction,
    shared: &Shared,
    no: WebhookNo,
    seq: Seq,
) -> Result<Option<Webhook>, StoreError> {
    let table = txn.open_table(WEBHOOKS)?;
    let (low, high) = ((no, 0), (no, seq));
    let mut versions = lookup::falling(&table, &WEBHOOKS, Bound::Included(&low), Bound::Included(&high))?;
    let Some(found) = versions.next() else { return Ok(None) };
    let (key, value) = found?;
    let record = row::open(WEBHOOKS, &key.value(), value.value())?;
    record::read_webhook(no, key.value().1, record, &shared.sealer).map(Some)
}
