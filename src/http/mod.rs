//! The HTTP rooms, from the bytes of a socket up to a request that is worth routing. A request passes through them in this
//! order: `listen` (sockets), `gate` (how many), `tls`, `server` (connections and their time limits, on `wire` and
//! `framing`), `hygiene` (is it well-formed?), `route` (which row of the one table), `auth` (who asks), `body`, and then the
//! dialect that the route speaks (`events`, `dialect`, `admin`), which parses, asks the `service`, and renders.

pub mod access;
pub mod admin;
mod answers;
pub mod audit;
pub mod auth;
mod backup;
pub mod body;
pub mod call;
pub mod certificates;
pub mod control;
mod cursor;
mod deadletters;
pub mod dialect;
pub mod events;
pub mod framing;
pub mod gate;
pub mod hygiene;
pub mod jobs;
mod json;
pub mod listen;
mod lookup;
mod openapi;
mod operate;
mod origin;
pub mod problem;
mod query;
mod reply;
mod retention;
pub mod route;
pub mod server;
mod show;
mod stats;
mod streams;
pub mod tls;
pub mod wire;

#[cfg(test)]
mod api_tests;
#[cfg(test)]
mod tests;

pub use call::{Api, Door, Surface};
