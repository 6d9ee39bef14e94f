//! The words of the daemon: ids, events, webhooks, attempts, secrets. Plain data with its own rules; no I/O, no async.

pub mod attempt;
pub mod audit;
pub mod event;
pub mod id;
pub mod job;
pub mod key;
pub mod pause;
pub mod secret;
pub mod time;
pub mod webhook;
