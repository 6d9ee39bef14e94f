//! The effective configuration as lines for `config show`. Owns writing it as TOML.
//!
//! Invariant: the lines, put in a file, load as the same configuration. Leaves printing to the command line.

use figment::value::Value;

use super::problem::Origin;
use super::schema::{self, Key, Kind};
use super::{Config, Loaded};

/// One key with its effective value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Dotted.
    pub key: String,
    /// As TOML.
    pub value: String,
    pub origin: Origin,
}

impl std::fmt::Display for Entry {
    /// `egress.timeout = "2s"`, a line of TOML.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} = {}", self.key, self.value)
    }
}

impl Loaded {
    /// Every key in the order of the shipped file, plans one by one.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        let Ok(value) = Value::serialize(&self.config) else { return Vec::new() };
        let mut entries = Vec::new();
        for key in schema::ROOT {
            self.list("", key, &value, &mut entries);
        }
        entries
    }

    fn list(&self, prefix: &str, Key { name, kind }: &Key, table: &Value, entries: &mut Vec<Entry>) {
        let path = schema::join(prefix, name);
        let Some(value) = table.find_ref(name) else { return };
        match (kind, value) {
            (Kind::Table(keys), _) => keys.iter().for_each(|key| self.list(&path, key, value, entries)),
            (Kind::Plans, Value::Dict(_, plans)) => {
                let lines = plans.iter().map(|(name, plan)| self.entry(schema::join(&path, name), toml(plan)));
                entries.extend(lines);
            }
            (Kind::Optional(word, _), Value::Empty(..)) => entries.push(self.entry(path, format!("{word:?}"))),
            _ => entries.push(self.entry(path, toml(value))),
        }
    }

    fn entry(&self, key: String, value: String) -> Entry {
        let origin = self.origin(&key);
        Entry { key, value, origin }
    }
}

impl From<Config> for Loaded {
    /// A configuration made by hand: everything counts as default.
    fn from(config: Config) -> Self {
        Self { config, file: None, origins: std::collections::BTreeMap::new(), credentials_hidden: false }
    }
}

/// A value on one line. JSON's string escapes are TOML's too.
fn toml(value: &Value) -> String {
    match value {
        Value::String(_, text) => serde_json::Value::from(text.as_str()).to_string(),
        Value::Bool(_, flag) => flag.to_string(),
        Value::Num(_, number) => match number.to_f64() {
            Some(float) => format!("{float:?}"),
            None => number.to_u128().map_or_else(|| format!("{:?}", number.to_i128().unwrap_or(0)), |n| n.to_string()),
        },
        Value::Array(_, items) => format!("[{}]", items.iter().map(toml).collect::<Vec<_>>().join(", ")),
        Value::Dict(_, members) => {
            let members = members.iter().map(|(name, value)| format!("{name} = {}", toml(value)));
            format!("{{ {} }}", members.collect::<Vec<_>>().join(", "))
        }
        Value::Char(_, char) => serde_json::Value::from(char.to_string()).to_string(),
        Value::Empty(..) => "\"\"".to_owned(),
    }
}
