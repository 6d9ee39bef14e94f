//! The catalogue: the event types that the platform publishes, what they mean, the Omnia channel that announces them, and what
//! their data has to look like. Owns the look-ups by type and by channel.
//!
//! Invariant: names are unique, and a look-up costs one hash; a type without a schema costs nothing more when it is published.
//! Whether unknown types are refused is left to the service, where the list comes from to the configuration.

mod schema;

use std::collections::{BTreeSet, HashMap};

pub use schema::{Mismatch, Schema};

/// The known event types, as they were listed.
#[derive(Debug, Default)]
pub struct Catalogue {
    types: Vec<EventType>,
    by_name: HashMap<String, usize>,
    channels: BTreeSet<String>,
}

#[derive(Debug)]
pub struct EventType {
    pub name: String,
    /// For people.
    pub description: String,
    /// What Omnia's webhooks subscribe to and get it as.
    pub omnia_channel: Option<String>,
    /// What its `data` has to fit.
    pub schema: Option<Schema>,
}

impl Catalogue {
    /// Of two types with one name the later one is found.
    #[must_use]
    pub fn new(types: Vec<EventType>) -> Self {
        let by_name = types.iter().enumerate().map(|(place, known)| (known.name.clone(), place)).collect();
        let channels = types.iter().filter_map(|known| known.omnia_channel.clone()).collect();
        Self { types, by_name, channels }
    }

    /// In the order in which they were listed.
    #[must_use]
    pub fn types(&self) -> &[EventType] {
        &self.types
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&EventType> {
        self.types.get(*self.by_name.get(name)?)
    }

    /// Whether any type is announced on this channel.
    #[must_use]
    pub fn is_channel(&self, text: &str) -> bool {
        self.channels.contains(text)
    }

    /// Every channel once, sorted.
    pub fn channels(&self) -> impl Iterator<Item = &str> {
        self.channels.iter().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_channels_are_found_by_name() {
        let known = |name: &str, channel: Option<&str>| EventType {
            name: name.to_owned(),
            description: format!("{name} happened"),
            omnia_channel: channel.map(str::to_owned),
            schema: None,
        };
        let catalogue = Catalogue::new(vec![
            known("b", Some("MONEY")),
            known("a", None),
            known("c", Some("MONEY")),
            known("d", Some("ALERTS")),
        ]);
        assert_eq!(catalogue.get("c").and_then(|known| known.omnia_channel.as_deref()), Some("MONEY"));
        assert!(catalogue.get("MONEY").is_none() && catalogue.get("").is_none());
        assert_eq!(catalogue.channels().collect::<Vec<_>>(), ["ALERTS", "MONEY"]);
        assert!(catalogue.is_channel("MONEY") && !catalogue.is_channel("money") && !catalogue.is_channel("b"));
        let listed: Vec<&str> = catalogue.types().iter().map(|known| known.name.as_str()).collect();
        assert_eq!(listed, ["b", "a", "c", "d"]);
    }
}
