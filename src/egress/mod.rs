//! To come.

pub mod guard;
pub mod resolve;
pub mod target;
pub mod tls;
