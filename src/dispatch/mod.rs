//! Dispatch: takes what was accepted to its receivers. One lane a webhook, so that none slows another.
//!
//! A lane (`lane`) is a synchronous state machine that takes `now`; it decides what starts next. `worker` drives the lanes
//! of one runtime: it hands answers to waiting requests, fresh deliveries to lanes, and keeps the wheel of wake-ups.
//! `attempt` is one try; `places` what those hold in common that start together; `gate` the caps that lanes share, `rate` a
//! lane's own; `kept` the connections that they share; `body` what events are held in memory; `lag` how much a start would have to
//! read; `settings` what can be configured. The durable queue is the truth and everything here a hint: after a crash it is made
//! again from the store.

pub mod attempt;
pub mod body;
mod cell;
pub mod dispatcher;
mod finish;
pub mod gate;
pub mod glance;
pub mod kept;
mod lag;
pub mod lane;
mod loads;
mod mail;
mod pace;
mod places;
pub mod rate;
pub mod settings;
pub mod worker;

#[cfg(test)]
mod tests;
