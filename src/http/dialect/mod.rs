//! The vendors' shapes: parse and render, nothing else. What a webhook may be is the service's to judge.

pub mod lemon;
pub mod vibe;
