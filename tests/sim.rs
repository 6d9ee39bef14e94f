//! Deterministic simulation: the real engine, writer, dispatcher, lanes, retry rules and scheduler, on one thread, in paused
//! time. Only bytes and sockets are made up: the disk below the store, and the wires to receivers.
//!
//! `town` is a life of the daemon; `net` the wires and the receivers, who misbehave; `ledger` what anybody outside could
//! know, and the promises that are held to it at every request; `acts` what publishers and operators do; `audit` the
//! count at the end; `promises` is chaos, `calm` what must hold where nothing is saturated. Everything follows from a seed: `SEED=7` replays one, `SEEDS=1000` runs that many.

#![expect(clippy::unwrap_used, reason = "a test ends where it is surprised")]

#[path = "sim/acts.rs"]
mod acts;
#[path = "sim/audit.rs"]
mod audit;
#[path = "sim/calm.rs"]
mod calm;
#[allow(dead_code, reason = "shared with the proofs about the store")]
#[path = "store/chance.rs"]
mod chance;
#[allow(dead_code, reason = "shared with the proofs about the store")]
#[path = "store/disk.rs"]
mod disk;
#[path = "sim/ledger.rs"]
mod ledger;
#[path = "sim/net.rs"]
mod net;
#[path = "sim/promises.rs"]
mod promises;
#[path = "sim/town.rs"]
mod town;
