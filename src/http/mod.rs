//! The HTTP rooms, from the bytes of a socket up to a request that is worth routing. A request passes through them in this
//! order: `listen` (sockets), `gate` (how many), `tls`, `server` (connections and their time limits, on `wire` and
//! `framing`), `hygiene` (is it well-formed?), `body`. Routing, credentials and dialects are the rooms above.

pub mod body;
pub mod framing;
pub mod gate;
pub mod hygiene;
pub mod listen;
pub mod server;
pub mod tls;
pub mod wire;

#[cfg(test)]
mod tests;
