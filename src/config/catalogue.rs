//! The built-in catalogue of event types: the live part of the `webhookd.toml` that is shipped.
//!
//! Invariant: there is one list, in that file; an operator's copy of it and the built-in one can't drift apart.

use std::path::Path;
use std::sync::LazyLock;

use super::settings::EventType;
use super::source;

/// The file as shipped, comments and all.
pub const SHIPPED: &str = include_str!("../../webhookd.toml");

/// The event types of the four seeds.
pub(super) fn built_in() -> Vec<EventType> {
    static BUILT_IN: LazyLock<Vec<EventType>> = LazyLock::new(|| {
        let layer = source::parse_file(Path::new("webhookd.toml"), SHIPPED);
        layer.data.get("event_types").and_then(|types| types.deserialize().ok()).unwrap_or_default()
    });
    BUILT_IN.clone()
}
