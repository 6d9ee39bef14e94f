//! A world around one engine: a publisher that retries, a dispatcher with a bounded number in flight, owners who change
//! their webhooks, time, and a disk that loses power. Owns the model's copy of the truth and holds the store to it.

use std::collections::BTreeSet;
use std::sync::Arc;

use redb::{Builder, Database};
use webhookd::clock::{Clock, Millis};
use webhookd::entropy::Entropy;
use webhookd::model::id::{Seq, WebhookNo};
use webhookd::store::check::{self as store_check, Files};
use webhookd::store::engine::{Applied, Engine};
use webhookd::store::op::{Accept, Done, JobStep, Op, Refusal, RowKey};
use webhookd::store::record::QueueRow;
use webhookd::store::recover::{Recovered, recover};
use webhookd::store::view::Shared;
use webhookd::store::wal::Wal;
use webhookd::store::{StoreError, open};

use crate::chance::Chance;
use crate::check::check;
use crate::disk::Disk;
use crate::drafts;
use crate::model::{Expected, Model};

pub const RETENTION_MS: Millis = 86_400_000;
/// 400 days.
const CLOCK_JUMP_MS: Millis = 400 * 86_400_000;
const CACHE_BYTES: usize = 1 << 20;
/// So little that it is full after a few groups.
const WAL_BYTES: u64 = 4 << 10;
/// So little that most pages are read from the disk.
pub const CACHE_BYTES_FEW: usize = 16 << 10;

/// What the dispatcher holds in memory: lost with the process.
#[derive(Default)]
pub struct Desk {
    pub fresh: BTreeSet<(Seq, WebhookNo)>,
    pub flights: Vec<Flight>,
}

#[derive(Clone, Copy)]
pub struct Flight {
    pub event: Seq,
    pub webhook: WebhookNo,
    pub row: Option<(RowKey, QueueRow)>,
}

#[derive(Debug, Default)]
pub struct Tally {
    pub crashes: u64,
    pub crashes_while_opening: u64,
    pub groups: u64,
    /// Groups whose answer was lost and that were there after all.
    pub recovered: u64,
    pub events: u64,
    pub attempts: u64,
    /// Steps of retention that removed something of the logs, or were asked to.
    pub retained: u64,
    /// Changes of signing secrets.
    pub rotations: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        self.crashes += other.crashes;
        self.crashes_while_opening += other.crashes_while_opening;
        self.groups += other.groups;
        self.recovered += other.recovered;
        self.events += other.events;
        self.attempts += other.attempts;
        self.retained += other.retained;
        self.rotations += other.rotations;
    }
}

pub struct World {
    pub disk: Disk,
    pub chance: Chance,
    /// Draws changes of secrets and headers; `None`: there are none.
    pub turns: Option<Chance>,
    pub clock: Clock,
    pub entropy: Entropy,
    pub engine: Option<Engine>,
    pub shared: Option<Arc<Shared>>,
    pub model: Model,
    pub desk: Desk,
    /// A group without an answer, and the truth if it happened.
    limbo: Option<(Vec<Op>, Model)>,
    /// Accepts without an answer, to be asked again.
    pub unknown: Vec<Accept>,
    pub keyed: Vec<Accept>,
    /// Steps of jobs that were looked for.
    pub steps: Vec<JobStep>,
    /// The newest step of an erasure.
    pub erase_step: Option<JobStep>,
    opening_calls: u64,
    pub flush_at: usize,
    pub cache_bytes: usize,
    pub tally: Tally,
}

impl World {
    /// A world with a new store; `crashes`: the power may go while it is made.
    pub fn new(seed: u64, crashes: bool) -> Self {
        let mut chance = Chance::new(seed);
        let flush_at = [20, 60, 100_000][chance.index(3)];
        let mut world = Self {
            disk: Disk::default(),
            clock: Clock::manual(1_700_000_000_000),
            entropy: Entropy::seeded(seed),
            chance,
            turns: None,
            engine: None,
            shared: None,
            model: Model::new(RETENTION_MS),
            desk: Desk::default(),
            limbo: None,
            unknown: Vec::new(),
            keyed: Vec::new(),
            steps: Vec::new(),
            erase_step: None,
            opening_calls: 12,
            flush_at,
            cache_bytes: CACHE_BYTES,
            tally: Tally::default(),
        };
        world.create(crashes);
        world
    }

    /// As `open::open` does it: made under another name, which counts only once all of it is synced.
    fn create(&mut self, crashes: bool) {
        loop {
            self.disk = Disk::default();
            let fuse = (crashes && self.chance.percent(40)).then(|| self.chance.below(40));
            self.disk.set_fuse(fuse);
            let made = Builder::new()
                .set_cache_size(CACHE_BYTES)
                .create_with_backend(self.disk.handle())
                .map_err(|error| error.to_string())
                .and_then(|db| {
                    open::initialise(&db, &drafts::sealer(&self.entropy), &self.entropy).map_err(|e| e.to_string())
                });
            let synced = made
                .and_then(|()| redb::StorageBackend::sync_data(&self.disk.handle()).map_err(|error| error.to_string()));
            match synced {
                Ok(()) => break,
                Err(error) => {
                    assert!(self.disk.is_dark(), "a store can't be made: {error}");
                    self.tally.crashes += 1;
                    self.tally.crashes_while_opening += 1;
                }
            }
        }
        if self.disk.is_dark() || (crashes && self.chance.percent(20)) {
            self.disk.power_cut(&mut self.chance);
            self.tally.crashes += 1;
            self.tally.crashes_while_opening += 1;
        }
        self.disk.set_fuse(None);
        self.open(false);
    }

    fn try_open(&mut self) -> Result<Recovered, String> {
        assert!(!self.disk.is_empty(), "the store is empty");
        let before = self.disk.changes();
        let db = open_on(&self.disk, self.cache_bytes)?;
        let shared = match &self.shared {
            Some(shared) => shared.clone(),
            None => {
                open::admit(&db, drafts::place(), drafts::sealer(&self.entropy)).map_err(|error| error.to_string())?
            }
        };
        let wal = open_log(&self.disk)?;
        let recovered =
            recover(db, shared.clone(), &self.clock, wal, RETENTION_MS).map_err(|error| error.to_string())?;
        self.shared = Some(shared);
        self.opening_calls = self.disk.changes() - before;
        Ok(recovered)
    }

    /// A new process on this disk; the power may go again while it opens the store.
    pub fn open(&mut self, crashes: bool) {
        self.engine = None;
        self.shared = None;
        let recovered = loop {
            if crashes && self.chance.percent(45) {
                let calls = self.chance.below(self.opening_calls + 1);
                self.disk.set_fuse(Some(calls));
            }
            // The wall clock may have fallen back meanwhile, or be wrong by more than a year.
            let now = self.clock.now_ms();
            self.clock = Clock::manual(match self.chance.below(100) {
                0..=19 => now - self.chance.below(3_600_000),
                20..=22 => now + CLOCK_JUMP_MS,
                23..=24 => now - CLOCK_JUMP_MS,
                _ => now,
            });
            match self.try_open() {
                Ok(recovered) if !self.disk.is_dark() => break recovered,
                Ok(_) => {}
                Err(error) => assert!(self.disk.is_dark(), "the store does not open: {error}"),
            }
            self.shared = None;
            self.disk.power_cut(&mut self.chance);
            self.tally.crashes += 1;
            self.tally.crashes_while_opening += 1;
        };
        self.disk.set_fuse(None);
        self.decide_limbo(recovered.engine.heads());
        self.model.restart();
        self.desk = Desk::default();
        self.adopt(recovered, 0);
    }

    /// The same process opens its store again after an error, as the writer does it; the dispatcher keeps what it has.
    pub fn reopen(&mut self) -> Result<(), String> {
        let before = self.model.heads();
        // Lets go of the old database first: two on one disk would be two writers.
        (self.engine, self.shared) = (None, None);
        let recovered = self.try_open()?;
        let heads = recovered.engine.heads();
        let landed = heads != before;
        let ops = self.limbo.as_ref().map(|(ops, _)| ops.clone()).unwrap_or_default();
        self.disk.set_quiet(true);
        self.decide_limbo(heads);
        self.adopt(recovered, before.0);
        self.disk.set_quiet(false);
        let own = |op: &&Op| matches!(op, Op::Outcome(_) | Op::Spill { .. } | Op::Forget { .. } | Op::Expire { .. });
        let kept: Vec<Op> = ops.iter().filter(own).cloned().collect();
        if landed {
            self.settle(&kept);
            return self.write(vec![Op::Ping]);
        }
        self.write([kept, vec![Op::Ping]].concat())
    }

    /// Finds out whether the group without an answer happened: the store must be exactly as before it or as after it.
    fn decide_limbo(&mut self, heads: (u64, u64)) {
        let Some((_, after)) = self.limbo.take() else { return };
        let shared = self.shared.clone().unwrap();
        self.see_erased();
        let mut after = after;
        after.erased.clone_from(&self.model.erased);
        // Where the logs end tells, unless the group has appended nothing.
        let is_before = || {
            let as_before = check(&shared, &self.model, &mut self.chance.clone());
            as_before.and_then(|()| no_new_mark(&shared, &self.model, &after))
        };
        let as_before = if heads == self.model.heads() { is_before() } else { Err("it ends elsewhere".to_owned()) };
        if heads != self.model.heads() || (heads == after.heads() && as_before.is_err()) {
            // What is neither is told as what it is no longer, and what it is not yet.
            let as_after = check(&shared, &after, &mut self.chance.clone());
            assert!(as_after.is_ok(), "neither as before a group, {as_before:?}, nor as after it, {as_after:?}");
            self.model = after;
            self.tally.recovered += 1;
        }
    }

    /// Takes over a recovered engine, checks all of it, and hands the dispatcher its fresh deliveries from `from` on.
    fn adopt(&mut self, recovered: Recovered, from: Seq) {
        let fresh: BTreeSet<(Seq, WebhookNo)> = recovered.fresh.iter().map(|(no, event)| (event.seq, *no)).collect();
        assert_eq!(fresh.len(), recovered.fresh.len(), "a delivery is fresh twice");
        let live = self.model.fresh.iter().filter(|(_, webhook)| self.model.live(*webhook));
        assert_eq!(fresh, live.copied().collect(), "fresh deliveries");
        let queued: BTreeSet<WebhookNo> = self.model.queue.keys().map(|place| place.0).collect();
        assert_eq!(recovered.queued, queued.into_iter().collect::<Vec<_>>(), "webhooks with rows");
        let own: BTreeSet<_> = fresh.into_iter().filter(|(seq, _)| *seq >= from).collect();
        let gone = |(seq, webhook): &(Seq, WebhookNo)| *seq >= from && !self.model.live(*webhook);
        let unseen: Vec<_> = self.model.fresh.iter().filter(|delivery| gone(delivery)).copied().collect();
        self.model.fresh.retain(|delivery| !unseen.contains(delivery));
        self.desk.fresh.extend(own);
        let mut engine = recovered.engine;
        engine.set_flush_at(self.flush_at);
        self.engine = Some(engine);
        self.check();
        self.learn_floor();
        let model = &mut self.model;
        let view = self.shared.as_ref().unwrap().view().unwrap();
        view.scan_events(1, |event| {
            model.events[event.seq as usize - 1].id = Some(event.id);
            true
        })
        .unwrap();
    }

    pub fn check(&mut self) {
        self.see_erased();
        let shared = self.shared.clone().unwrap();
        check(&shared, &self.model, &mut self.chance).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Writes a group and holds the answers against the model's. An error leaves the group in limbo and no engine.
    pub fn write(&mut self, ops: Vec<Op>) -> Result<(), String> {
        let mut after = self.model.clone();
        let now = self.clock.now_ms();
        let times = [now, self.clock.wall_ms(), self.shared.as_ref().unwrap().age().at(now)];
        let expected = after.apply(&ops, times);
        self.tally.groups += 1;
        let applied = self.engine.as_mut().unwrap().apply(&ops);
        match applied {
            Ok(applied) => {
                self.model = after;
                self.learn(&applied, &expected);
                if ops.iter().any(|op| matches!(op, Op::Retain(_))) {
                    self.learn_floor();
                }
                if ops.iter().any(|op| matches!(op, Op::EraseStep(_))) {
                    self.see_erased();
                }
                self.settle(&ops);
                Ok(())
            }
            Err(error) => {
                assert!(matches!(error, StoreError::Unavailable(_)), "the store says {error}");
                self.engine = None;
                let accepts = ops.iter().filter_map(|op| match op {
                    Op::Accept(accept) if accept.idempotency.is_some() => Some(accept.clone()),
                    _ => None,
                });
                self.unknown.extend(accepts);
                self.limbo = Some((ops, after));
                Err(error.to_string())
            }
        }
    }

    /// What `webhookd store check` says of the files as they are now.
    pub fn check_files(&self) {
        self.disk.set_quiet(true);
        let files = files(&self.disk);
        let report =
            store_check::check(&files, drafts::place(), &drafts::sealer(&self.entropy), CACHE_BYTES, &mut |_, _, _| {});
        self.disk.set_quiet(false);
        let report = report.unwrap();
        assert!(report.is_clean(), "webhookd store check finds {:#?}", report.findings);
        // What retention has left of the logs.
        let (heads, floors) = (self.model.heads(), self.shared.as_ref().unwrap().view().unwrap().floors().unwrap());
        let (events, records) = (heads.0 - floors.0, heads.1 - floors.1);
        assert_eq!((report.events, report.records), (events, records), "what it looked at");
        let dead = self.model.dead.keys().filter(|(webhook, _)| self.model.live(*webhook)).count() as u64;
        // A delivery whose letter retention has removed stays dead for as long as its event is there.
        let (least, most) = (dead, dead + self.model.expired.len() as u64);
        let forked = self.model.forked.len() as u64;
        let found = report.deliveries.dead;
        assert!(found + forked >= least && found <= most + forked, "{report:?}, {least} to {most} dead");
    }

    fn learn(&mut self, applied: &Applied, expected: &[Result<Expected, Refusal>]) {
        assert_eq!(applied.answers.len(), expected.len());
        for (answer, expected) in applied.answers.iter().zip(expected) {
            let shown = answer.as_ref().map_err(|refusal| *refusal).map(|done| match done {
                Done::Accepted(receipt) => {
                    for event in receipt.events() {
                        let known = &mut self.model.events[event.seq as usize - 1].id;
                        assert!(known.is_none_or(|known| known == event.id), "another id for event {}", event.seq);
                        *known = Some(event.id);
                    }
                    let events = receipt.events().iter().map(|event| event.seq).collect();
                    Expected::Accepted { events, replayed: receipt.replayed() }
                }
                Done::Webhook(webhook) => Expected::Webhook(webhook.no),
                Done::Tenant(tenant) => Expected::Tenant(tenant.no),
                Done::Job(job) => Expected::Job(job.tenant),
                Done::Count(count) => Expected::Count(*count),
                Done::Retained(retained) => Expected::Retained(retained.dead_letters),
                Done::Key(_) | Done::Nothing => Expected::Nothing,
            });
            assert_eq!(&shown, expected, "an answer");
        }
        self.desk.fresh.extend(applied.effects.fresh.iter().map(|(no, event)| (event.seq, *no)));
    }

    /// What a durable group means to the dispatcher.
    fn settle(&mut self, ops: &[Op]) {
        for op in ops {
            match op {
                Op::Outcome(outcome) => {
                    self.tally.attempts += 1;
                    let done = (outcome.attempt.event, outcome.attempt.webhook);
                    self.desk.flights.retain(|flight| (flight.event, flight.webhook) != done);
                }
                Op::Accept(accept) => self.tally.events += accept.drafts.len() as u64,
                _ => {}
            }
        }
    }
}

/// The model of before can't name marks that a group brought, and a group may bring nothing else.
fn no_new_mark(shared: &Shared, before: &Model, after: &Model) -> Result<(), String> {
    let view = shared.view().map_err(|error| error.to_string())?;
    let new = after.marks.iter().filter(|marked| marked.1 && !before.marks.contains(marked));
    let found = new.filter(|(mark, _)| view.is_marked(mark).unwrap_or(true)).count();
    if found == 0 { Ok(()) } else { Err(format!("{found} marks that nobody had made")) }
}

/// What is on the disk, to be checked.
pub fn files(disk: &Disk) -> Files {
    Files { store: Arc::new(disk.handle()), log: Arc::new(disk.log()), log_bytes: WAL_BYTES }
}

/// The write-ahead log on the disk.
pub fn open_log(disk: &Disk) -> Result<Wal, String> {
    Wal::open(Box::new(disk.log()), WAL_BYTES).map_err(|error| error.to_string())
}

/// Opens what is on the disk; never makes a new store.
pub fn open_on(disk: &Disk, cache_bytes: usize) -> Result<Arc<Database>, String> {
    assert!(!disk.is_empty(), "the store is empty");
    let db = Builder::new().set_cache_size(cache_bytes).create_with_backend(disk.handle());
    db.map(Arc::new).map_err(|error| error.to_string())
}
