//! Proofs about the store: the whole engine above a simulated disk that loses power, fails and lies.
//!
//! `disk` is the disk, `model` what should be true, `world` drives the engine and a publisher and a dispatcher above it,
//! `check` compares store and model. Everything follows from a seed: `SEED=7` replays one, `SEEDS=1000` runs that many.

#![expect(clippy::unwrap_used, reason = "a test ends where it is surprised")]

#[path = "store/acts.rs"]
mod acts;
#[path = "store/astray.rs"]
mod astray;
#[path = "store/chance.rs"]
mod chance;
#[path = "store/check.rs"]
mod check;
#[path = "store/compact.rs"]
mod compact;
#[path = "store/damage.rs"]
mod damage;
#[path = "store/disk.rs"]
mod disk;
#[path = "store/drafts.rs"]
mod drafts;
#[path = "store/erase.rs"]
mod erase;
#[path = "store/faults.rs"]
mod faults;
#[path = "store/guards.rs"]
mod guards;
#[path = "store/hooks.rs"]
mod hooks;
#[path = "store/jobs.rs"]
mod jobs;
#[path = "store/lines.rs"]
mod lines;
#[path = "store/model.rs"]
mod model;
#[path = "store/news.rs"]
mod news;
#[path = "store/planted.rs"]
mod planted;
#[path = "store/power.rs"]
mod power;
#[path = "store/retention.rs"]
mod retention;
#[path = "store/states.rs"]
mod states;
#[path = "store/thread.rs"]
mod thread;
#[path = "store/world.rs"]
mod world;
