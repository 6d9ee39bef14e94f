//! The transaction that groups share while nobody looks. Owns the place where it waits between two groups, and the rule of who
//! commits it.
//!
//! A group of the hot path is durable by the write-ahead log; what redb's commit adds is that readers see it, and that costs the
//! same whether one group is in it or ten. So the transaction stays open behind a group, and the next one goes on in it.
//!
//! Invariant: a snapshot shows all that was answered before it was asked for. Who takes one (`Shared::view`) commits what waits
//! here; while the writer is at a group in it, they wait for the end of that group, at which the writer commits it for all of them.
//! What is committed stands in the log, synced. The writer asks for no snapshot while it has the transaction.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use redb::{Database, Durability, WriteTransaction};

use super::StoreError;
use super::engine::put_meta;
use super::schema::meta;
use crate::limits::{UNSEEN_BYTES_MAX, UNSEEN_GROUPS_MAX};

/// Where the transaction is.
#[derive(Default)]
pub struct Unseen {
    slot: Mutex<Slot>,
    turned: Condvar,
}

#[derive(Default)]
struct Slot {
    state: State,
    /// Somebody waits for the end of the writer's group.
    asked: bool,
    /// How often the writer has committed what it had taken.
    shown: u64,
}

#[derive(Default)]
enum State {
    /// Nowhere: snapshots show everything.
    #[default]
    Nowhere,
    Waits(Box<Pending>),
    /// With the writer.
    Taken,
    /// Lost: the store is to be opened again. The writer is told why, once.
    Lost(Option<StoreError>),
}

/// A transaction, and what its commit has to know.
pub struct Pending {
    pub txn: WriteTransaction,
    /// `meta::WAL` with all that is in it.
    place: Vec<u8>,
    groups: usize,
    bytes: usize,
}

impl Pending {
    /// # Errors
    /// When the store fails.
    pub fn begin(db: &Database) -> Result<Self, StoreError> {
        Ok(Self { txn: db.begin_write()?, place: Vec::new(), groups: 0, bytes: 0 })
    }

    /// One more group is in it, and in the log: so many bytes there, with which the store stands at `place`.
    pub fn add(&mut self, place: Vec<u8>, bytes: usize) {
        self.place = place;
        self.groups += 1;
        self.bytes += bytes;
    }

    fn is_full(&self) -> bool {
        self.groups >= UNSEEN_GROUPS_MAX || self.bytes >= UNSEEN_BYTES_MAX
    }

    fn commit(self) -> Result<(), StoreError> {
        let Self { mut txn, place, .. } = self;
        put_meta(&txn, meta::WAL, &place)?;
        txn.set_durability(Durability::None)?;
        Ok(txn.commit()?)
    }
}

impl Unseen {
    /// For the writer, before a group: what waits. It comes back by `give`, `settle` or `lose`.
    ///
    /// # Errors
    /// When it was lost.
    pub fn take(&self) -> Result<Option<Box<Pending>>, StoreError> {
        let mut slot = self.lock();
        match std::mem::take(&mut slot.state) {
            State::Nowhere => Ok(None),
            State::Waits(pending) => {
                slot.state = State::Taken;
                Ok(Some(pending))
            }
            State::Taken => {
                slot.state = State::Lost(None);
                Err(lost())
            }
            State::Lost(why) => {
                slot.state = State::Lost(None);
                Err(why.unwrap_or_else(lost))
            }
        }
    }

    /// For the writer, behind a group: it waits for the next one, or is committed because somebody waits for that or enough is in it.
    ///
    /// # Errors
    /// When the store fails.
    pub fn give(&self, pending: Box<Pending>) -> Result<(), StoreError> {
        let mut slot = self.lock();
        if !slot.asked && !pending.is_full() {
            slot.state = State::Waits(pending);
            return Ok(());
        }
        drop(slot);
        self.commit(pending)
    }

    /// For the writer: commits what it had taken, for all who wait.
    ///
    /// # Errors
    /// When the store fails.
    pub fn commit(&self, pending: Box<Pending>) -> Result<(), StoreError> {
        pending.commit()?;
        self.settle();
        Ok(())
    }

    /// For the writer: what it had taken is committed.
    pub fn settle(&self) {
        self.turn(State::Nowhere, 1);
    }

    /// For the writer: what it had taken is lost with its group, and no snapshot shows it before the store is opened again.
    pub fn lose(&self) {
        let_go(self.turn(State::Lost(None), 0));
    }

    /// The store is another one, or none: what waits for the old one is in its log. No wait outlives it.
    pub fn reset(&self) {
        let_go(self.turn(State::Nowhere, 0));
    }

    /// From here on a snapshot shows all that has been answered.
    ///
    /// # Errors
    /// When the store fails.
    pub fn show(&self) -> Result<(), StoreError> {
        let mut slot = self.lock();
        let before = slot.shown;
        while matches!(slot.state, State::Taken) {
            slot.asked = true;
            slot = self.turned.wait(slot).unwrap_or_else(PoisonError::into_inner);
            // The next group may be under way in a transaction of its own.
            if slot.shown != before {
                return Ok(());
            }
        }
        // Lost, should the commit panic.
        match std::mem::replace(&mut slot.state, State::Lost(None)) {
            State::Waits(pending) => {
                let committed = pending.commit();
                let told = committed.as_ref().map_err(|error| StoreError::Unavailable(error.to_string())).copied();
                slot.state = committed.map_or_else(|error| State::Lost(Some(error)), |()| State::Nowhere);
                told
            }
            State::Lost(why) => {
                slot.state = State::Lost(why);
                Err(lost())
            }
            state => {
                slot.state = state;
                Ok(())
            }
        }
    }

    /// Whether somebody waits for the end of the writer's group.
    #[cfg(test)]
    pub(super) fn is_asked(&self) -> bool {
        self.lock().asked
    }

    fn turn(&self, state: State, shown: u64) -> State {
        let mut slot = self.lock();
        slot.asked = false;
        slot.shown += shown;
        let before = std::mem::replace(&mut slot.state, state);
        drop(slot);
        self.turned.notify_all();
        before
    }

    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        self.reset();
    }
}

/// Gives up what was open. redb looks at its pages for that, and may panic on one that is damaged: who lets go of a store has no use for
/// that, and a second panic, of the database that is closed in its wake, would end the process.
fn let_go(state: State) {
    drop(catch_unwind(AssertUnwindSafe(|| drop(state))));
}

fn lost() -> StoreError {
    StoreError::Unavailable("it is being opened again".to_owned())
}
