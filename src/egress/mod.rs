//! The way out: from a webhook's URL to one HTTP exchange with its receiver, and to no other address.
//!
//! In the order in which an exchange passes through:
//!
//! - [`target`] reads the URL, refuses what parsers disagree about, and asks the guard about literal addresses;
//! - [`client`] holds the deadline over everything and says what came of it;
//! - [`pool`] gives a kept connection when one fits, and takes it back;
//! - [`connect`] makes a new one otherwise, with [`resolve`] for names and [`tls`] for trust;
//! - [`guard`] judges every address before it is dialled: only it makes a [`PublicAddr`], and only that can be dialled;
//! - [`answer`] bounds what is read back and reads `Retry-After`; [`meter`] all that a receiver says, whatever it is.
//!
//! [`stream`] is the other way: to a receiver that has no address and listens on a stream of ours.
//!
//! Knows nothing of events, signatures or retries. No proxy, no proxy variables, no redirects.

mod answer;
mod client;
mod connect;
pub mod guard;
mod meter;
mod pool;
pub mod resolve;
pub mod stream;
pub mod target;
pub mod tls;

#[cfg(test)]
mod tests;

pub use client::{Egress, EgressError, Settings};
pub use connect::{Connect, Connecting, Wire};
pub use guard::{PublicAddr, Refusal, Rules};
pub use pool::Pool;
pub use resolve::{Resolve, StaticResolver, SystemResolver};
pub use target::{Endpoint, Host, Target, TargetError};
pub use tls::TlsError;
