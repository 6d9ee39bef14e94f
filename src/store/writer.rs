//! The writer: the one thread that changes the store, and the handle through which everybody else reaches it.
//!
//! It owns the engine. After an I/O error redb refuses every further write until the file is closed and opened again
//! (measured), so the writer answers the group with "unknown", closes, opens again with backoff, reads its state back and
//! goes on; outcomes that were not committed are kept and written then. A group whose commit failed may still have reached
//! the disk: what is found there is delivered, what its callers saw as unknown included.
//!
//! Damage is met in the same way, a panic of redb on a page that makes no sense included: the group that led to it is answered
//! with "unknown", and the others go on. Only when the damage stands in the way of what must be written, or of opening the store
//! again, the writer gives up and the daemon ends: nothing acknowledged is lost by that, and nothing wrong is written.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use redb::Database;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::StoreError;
use super::engine::{Applied, Engine};
use super::inbox::{Answer, Inbox, Last, Request, SubmitError, Waiter};
use super::op::{Done, Effects, Op, Outcome};
use super::open::{self, OpenError, Place};
use super::recover::{self, Recovered};
use super::spool::{self, Spool, Success, Ticket};
use super::view::Shared;
use super::wal::Wal;
use crate::clock::{Clock, Millis};
use crate::metrics::Metrics;

mod inline;
mod mend;

use mend::Broken;

/// Without anything to do for this long, the writer takes in what the write-ahead log holds.
const IDLE: Duration = Duration::from_millis(250);

/// Where the consequences of commits go: the dispatcher.
pub trait Downstream: Send + Sync + 'static {
    /// A group is durable. Called from the writer's thread: must not block.
    fn committed(&self, effects: Effects, answers: Vec<(Waiter, Answer)>);
    /// The store was opened again: what is in memory about webhooks may be old.
    fn reopened(&self);
}

/// A handle on the store; cheap to clone.
#[derive(Clone)]
pub struct Store {
    inbox: Arc<Inbox>,
    shared: Arc<Shared>,
    spool: Option<Arc<Spool>>,
    metrics: Arc<Metrics>,
    /// Reads are made where they are asked for: see `inline`.
    inline: bool,
}

/// How the writer opens the store and its write-ahead log again.
pub type Reopen = Box<dyn FnMut() -> Result<(Database, Wal), OpenError> + Send>;

/// What is needed to run a writer.
pub struct Parts {
    pub recovered: Recovered,
    pub shared: Arc<Shared>,
    /// Where successes stand until they are committed; without one, permits wait for the commit.
    pub spool: Option<Arc<Spool>>,
    pub reopen: Reopen,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
}

impl Parts {
    /// Opens the store at `place` and reads its state.
    ///
    /// # Errors
    /// See `OpenError`.
    pub fn open(
        place: &Place,
        entropy: &crate::entropy::Entropy,
        clock: &Clock,
        metrics: &Arc<Metrics>,
        retention_idempotency_ms: Millis,
    ) -> Result<Self, OpenError> {
        let (db, shared) = open::open(place, entropy)?;
        let wal = open::open_wal(&place.wal_file())?;
        let mut recovered = open::careful(&place.store_file(), || {
            recover::recover(db, shared.clone(), clock, wal, retention_idempotency_ms).map_err(|error| {
                let advice = if error.is_damage() { "; what is damaged tells: webhookd store check" } else { "" };
                OpenError::Refused { path: place.store_file(), why: format!("{error}{advice}") }
            })
        })?;
        let folder = |source| OpenError::Folder { path: place.state_dir.clone(), source };
        let (spool, found) = Spool::open(&place.state_dir).map_err(folder)?;
        spool::replay(&mut recovered, &shared, &found)
            .map_err(|error| OpenError::Disk { path: place.store_file(), why: error.to_string() })?;
        spool.clear().map_err(folder)?;
        let (path, wal, cache): (PathBuf, PathBuf, usize) = (place.store_file(), place.wal_file(), place.cache_bytes);
        Ok(Self {
            recovered,
            shared,
            spool: Some(Arc::new(spool)),
            reopen: Box::new(move || Ok((open::open_file(&path, cache)?, open::open_wal(&wal)?))),
            clock: clock.clone(),
            metrics: metrics.clone(),
        })
    }

    /// The handle that the running writer will serve.
    #[must_use]
    pub fn store(&self) -> Store {
        Store {
            inbox: Arc::default(),
            shared: self.shared.clone(),
            spool: self.spool.clone(),
            metrics: self.metrics.clone(),
            inline: false,
        }
    }
}

impl Store {
    /// What was answered, for reading.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Asks for a change and waits until it is durable. `worker` names the worker whose task waits, if it is one's.
    ///
    /// # Errors
    /// When it is refused, or the store can't say that it is durable.
    pub async fn submit(&self, op: Op, worker: Option<usize>) -> Answer {
        let (sender, receiver) = oneshot::channel();
        self.inbox.submit(Request { op, waiter: Some(Waiter { worker, sender }), ticket: None })?;
        let gone = || SubmitError::Store(StoreError::Unavailable("it is stopping".to_owned()));
        receiver.await.map_err(|_| gone())?
    }

    /// How long the writer has been at work in all.
    #[must_use]
    pub fn worked(&self) -> Duration {
        self.inbox.worked_in_all()
    }

    /// Whether the store has failed and is being opened again.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.inbox.is_down()
    }

    /// Whether the writer has given up because of damage in the store.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.inbox.is_damaged()
    }

    /// Hands over what the daemon itself has to note; it is written with the next group. `pressing`: a lane waits for it.
    pub fn note(&self, op: Op, pressing: bool) {
        self.inbox.note(op, pressing);
    }

    /// Notes successes where a crash of this process can't lose them. `None`: only their commit makes them safe.
    #[must_use]
    pub fn spool<'a>(&self, successes: impl Iterator<Item = &'a Success>) -> Option<Ticket> {
        self.spool.as_ref()?.note(successes)
    }

    /// Publishing is ahead of delivering to a receiver that is quick: takes in less for a moment.
    pub fn keep_step(&self) {
        self.inbox.keep_step();
    }

    /// `note` for outcomes of attempts, with their places in the spool.
    pub fn note_outcomes(&self, outcomes: Vec<(Outcome, Option<Ticket>)>, pressing: bool) {
        let ops = outcomes.into_iter().map(|(outcome, ticket)| (Op::Outcome(Box::new(outcome)), ticket));
        self.inbox.note_all(ops, pressing);
    }

    /// Reads off the runtime's threads, because a page that is not cached waits for the disk. Damage is told here, and counted.
    ///
    /// # Errors
    /// What `read` fails with.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let read = if self.inline {
            survive(|| read(&self.shared))
        } else {
            let shared = self.shared.clone();
            #[expect(clippy::disallowed_methods, reason = "the one place that reads off the runtime")]
            let task = tokio::task::spawn_blocking(move || read(&shared));
            match task.await {
                Err(error) if error.is_panic() => Err(StoreError::Damaged(SENSELESS)),
                read => read.map_err(|_| StoreError::Unavailable("reading it failed".to_owned()))?,
            }
        };
        if let Err(error) = &read
            && error.is_damage()
        {
            self.metrics.store_damage.inc();
            tracing::error!(%error, "a read failed; stop the daemon and run: webhookd store check");
        }
        read
    }

    /// No more is taken in; the writer ends once it has written what waits.
    pub fn close(&self) {
        self.inbox.close();
    }

    /// Starts the writer's thread.
    ///
    /// # Errors
    /// When the thread can't be started.
    pub fn start(&self, parts: Parts, downstream: Arc<dyn Downstream>) -> std::io::Result<JoinHandle<()>> {
        let (writer, engine) = self.writer(parts, downstream);
        std::thread::Builder::new().name("writer".to_owned()).spawn(move || writer.run(engine))
    }

    fn writer(&self, parts: Parts, downstream: Arc<dyn Downstream>) -> (Writer, Engine) {
        let writer = Writer {
            inbox: self.inbox.clone(),
            shared: parts.shared,
            spool: parts.spool,
            reopen: parts.reopen,
            clock: parts.clock,
            metrics: parts.metrics,
            downstream,
            last: Last::default(),
        };
        (writer, parts.recovered.engine)
    }
}

struct Writer {
    inbox: Arc<Inbox>,
    shared: Arc<Shared>,
    spool: Option<Arc<Spool>>,
    reopen: Reopen,
    clock: Clock,
    metrics: Arc<Metrics>,
    downstream: Arc<dyn Downstream>,
    last: Last,
}

/// A group that was taken in: written, or waiting until the store is open again.
struct Turn {
    start: Instant,
    tickets: Vec<Ticket>,
    state: State,
}

#[expect(clippy::large_enum_variant, reason = "there is one, and it is moved once a group")]
enum State {
    Written(Engine),
    Broken(Broken),
    /// Damage is in the way.
    Damaged,
}

impl Writer {
    fn run(mut self, engine: Engine) {
        let engine = self.work(engine);
        self.end(engine);
    }

    /// Writes until there is no more to come; `None`: damage is in the way.
    fn work(&mut self, mut engine: Engine) -> Option<Engine> {
        while let Some(requests) = self.inbox.next(self.last, idle_after(&engine)) {
            let mut turn = self.turn(engine, requests);
            engine = loop {
                turn.state = match turn.state {
                    State::Written(engine) => break engine,
                    State::Broken(broken) => {
                        std::thread::sleep(broken.wait);
                        self.mend(broken)
                    }
                    State::Damaged => return None,
                };
            };
            self.account(turn.start, turn.tickets);
        }
        Some(engine)
    }

    fn turn(&mut self, mut engine: Engine, requests: Vec<Request>) -> Turn {
        let start = Instant::now();
        let tickets: Vec<Ticket> = requests.iter().filter_map(|request| request.ticket).collect();
        let (ops, waiters): (Vec<Op>, Vec<Option<Waiter>>) =
            requests.into_iter().map(|request| (request.op, request.waiter)).unzip();
        let asked = waiters.iter().flatten().count();
        self.last = Last { start: Some(start), ops: ops.len(), asked, begun: 0 };
        let before = engine.heads();
        let applied = survive(|| if ops.is_empty() { engine.checkpoint(false) } else { engine.apply(&ops) });
        let state = match applied {
            Ok(applied) => {
                self.last.begun = applied.effects.fresh.len();
                self.settle(applied, waiters);
                State::Written(engine)
            }
            Err(error) => {
                self.tell(&error, "the store failed; opening it again");
                self.metrics.store_failures.inc();
                State::Broken(self.fail(engine, before, ops, waiters, &error))
            }
        };
        Turn { start, tickets, state }
    }

    /// Behind a group; after a failure as well: by then what was kept of the group is committed.
    fn account(&self, start: Instant, tickets: Vec<Ticket>) {
        if let Some(spool) = &self.spool {
            tickets.into_iter().for_each(|ticket| spool.settle(ticket));
        }
        let took = start.elapsed();
        self.metrics.commit_seconds.observe(took.as_secs_f64());
        self.inbox.worked(took);
        self.metrics.group_size.observe(f64::from(u32::try_from(self.last.ops).unwrap_or(u32::MAX)));
    }

    fn end(&self, engine: Option<Engine>) {
        match engine {
            Some(mut engine) => {
                if let Err(error) = survive(move || engine.checkpoint(true).map(drop)) {
                    tracing::warn!(%error, "the store was not closed cleanly; nothing is lost, the next start reads its log");
                }
            }
            None => self.inbox.set_damaged(),
        }
        self.let_go();
    }

    /// Drops the readers' handle on the database: the last one closes it, which looks at its pages.
    fn let_go(&self) {
        let close = || {
            self.shared.set_db(None);
            Ok(())
        };
        if let Err(error) = survive(close) {
            tracing::warn!(%error, "the store was not closed cleanly; nothing is lost, the next start repairs it");
        }
    }

    fn tell(&self, error: &StoreError, what: &str) {
        if error.is_damage() {
            self.metrics.store_damage.inc();
            tracing::error!(%error, "{what}; what is damaged tells, after a stop: webhookd store check");
        } else {
            tracing::error!(%error, "{what}");
        }
    }

    fn settle(&self, applied: Applied, waiters: Vec<Option<Waiter>>) {
        let answers = waiters
            .into_iter()
            .zip(applied.answers)
            .filter_map(|(waiter, answer)| Some((waiter?, answer.map_err(SubmitError::Refused))))
            .collect();
        self.downstream.committed(applied.effects, answers);
    }
}

const SENSELESS: &str = "a page of it makes no sense";

/// Does what may meet a damaged page, on which redb may panic. What it worked on is not to be used any more then.
fn survive<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(StoreError::Damaged(SENSELESS)))
}

/// How long the writer waits for work before it takes in what the write-ahead log holds.
fn idle_after(engine: &Engine) -> Option<Duration> {
    engine.has_chores().then_some(IDLE)
}

/// What a submitter expects when it asked for something that answers with `Done::Count` or less.
impl Done {
    /// The count in it; 0 for other answers.
    #[must_use]
    pub fn count(&self) -> usize {
        match self {
            Self::Count(count) => *count,
            _ => 0,
        }
    }
}
