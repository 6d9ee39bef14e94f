//! One layer of settings (the file, or the variables) held against the schema. Owns unknown keys, types and places.
//!
//! Invariant: a layer's data holds only known keys with values that `settings` can read; everything else became a problem.
//! Leaves parsing TOML and variables to `source`, merging and rules between keys to `load`.

use std::collections::BTreeMap;
use std::ops::Range;

use figment::value::{Dict, Empty, Map, Tag, Value};
use figment::{Metadata, Profile, Provider};
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::problem::{Place, Problem, quoted};
use super::schema::{self, Key, Kind, Leaf};
use super::value::{self, Fault};

/// What one source says.
#[derive(Debug, Default)]
pub(super) struct Layer {
    name: String,
    pub data: Dict,
    /// Where each key was written.
    pub places: BTreeMap<String, Place>,
    pub problems: Vec<Problem>,
    /// Whether parts of the source could not be read at all, so that what seems to be missing may be there.
    pub is_broken: bool,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.data.clone()))
    }
}

/// Turns a span of the source into a place.
pub(super) type Locate<'a> = &'a dyn Fn(Range<usize>) -> Place;

impl Layer {
    pub(super) fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Takes a whole document.
    pub(super) fn take_document(&mut self, document: &DeTable<'_>, locate: Locate<'_>) {
        self.data = Walk { layer: self, locate }.table("", schema::ROOT, document);
    }

    /// Takes one value for the key at `path`, whose kind is `kind`.
    pub(super) fn take_one(&mut self, path: &str, kind: Kind, written: &Spanned<DeValue<'_>>, locate: Locate<'_>) {
        self.places.insert(path.to_owned(), locate(written.span()));
        if let Some(value) = (Walk { layer: self, locate }).value(path, kind, written) {
            let names: Vec<&str> = path.split('.').collect();
            insert(&mut self.data, &names, value);
        }
    }
}

fn insert(into: &mut Dict, names: &[&str], value: Value) {
    let Some((first, rest)) = names.split_first() else { return };
    if rest.is_empty() {
        // A whole section (`WEBHOOKD_EGRESS={…}`) and a key of it may both be set: join them.
        match (into.get_mut(*first), value) {
            (Some(Value::Dict(_, old)), Value::Dict(_, new)) => old.extend(new),
            (_, value) => drop(into.insert((*first).to_owned(), value)),
        }
        return;
    }
    let slot = into.entry((*first).to_owned()).or_insert_with(|| Value::from(Dict::new()));
    if !matches!(slot, Value::Dict(..)) {
        *slot = Value::from(Dict::new());
    }
    if let Value::Dict(_, dict) = slot {
        insert(dict, rest, value);
    }
}

struct Walk<'a> {
    layer: &'a mut Layer,
    locate: Locate<'a>,
}

impl Walk<'_> {
    fn table(&mut self, path: &str, keys: &[Key], table: &DeTable<'_>) -> Dict {
        let mut data = Dict::new();
        for (name, written) in table {
            let place = (self.locate)(name.span());
            let name = name.get_ref().as_ref();
            let Some(key) = keys.iter().find(|key| key.name == name) else {
                self.unknown(path, name, keys, place);
                continue;
            };
            let path = schema::join(path, key.name);
            self.layer.places.insert(path.clone(), place);
            if let Some(value) = self.value(&path, key.kind, written) {
                data.insert(key.name.to_owned(), value);
            }
        }
        data
    }

    fn unknown(&mut self, path: &str, name: &str, keys: &[Key], place: Place) {
        let shown = quoted(name);
        let written = schema::join(path, if shown.trim_matches('"') == name { name } else { &shown });
        let problem = Problem::new(written, "unknown key").at(Some(place));
        let suggestion = match schema::did_you_mean(path, name, keys) {
            Some(meant) => format!("did you mean {meant}?"),
            None => format!("known here: {}", keys.iter().map(|key| key.name).collect::<Vec<_>>().join(", ")),
        };
        self.layer.problems.push(problem.suggest(suggestion));
    }

    fn value(&mut self, path: &str, kind: Kind, written: &Spanned<DeValue<'_>>) -> Option<Value> {
        match (kind, written.get_ref()) {
            (Kind::Table(keys), DeValue::Table(table)) => Some(Value::from(self.table(path, keys, table))),
            (Kind::Table(_), _) => {
                let (message, _) = value::mistyped("a table", written.get_ref());
                self.refuse(path, written, (message, Some(format!("write the keys below [{path}]"))))
            }
            (Kind::Leaf(leaf), _) => self.leaf(path, leaf, written),
            (Kind::List(leaf), DeValue::Array(items)) => self.list(path, leaf, items),
            (Kind::List(_), DeValue::String(text)) => {
                let (message, _) = value::mistyped("a list", written.get_ref());
                self.refuse(path, written, (message, Some(format!("write [{}]", quoted(text)))))
            }
            (Kind::List(_), other) => self.refuse(path, written, value::mistyped("a list", other)),
            (Kind::Optional(word, _), DeValue::String(text)) if text == word => {
                Some(Value::Empty(Tag::Default, Empty::None))
            }
            (Kind::Optional(word, kind), _) => self.optional(path, word, kind, written),
            (Kind::PlanChoice, DeValue::Table(table)) => Some(Value::from(self.table(path, schema::PLAN, table))),
            (Kind::PlanChoice, _) => self.leaf(path, Leaf::PlanName, written),
            (Kind::Plans, DeValue::Table(plans)) => Some(Value::from(self.plans(path, plans))),
            (Kind::Plans, other) => self.refuse(path, written, value::mistyped("a table of plans", other)),
            (Kind::EventTypes, DeValue::Array(entries)) => Some(self.event_types(path, entries)),
            (Kind::EventTypes, other) => {
                let (message, _) = value::mistyped("a list of tables", other);
                self.refuse(path, written, (message, Some(format!("write [[{path}]] above each entry"))))
            }
        }
    }

    /// A value, with the word for "not set" added to what is said against it.
    fn optional(&mut self, path: &str, word: &str, kind: &Kind, written: &Spanned<DeValue<'_>>) -> Option<Value> {
        let known = self.layer.problems.len();
        let value = self.value(path, *kind, written);
        for problem in self.layer.problems.iter_mut().skip(known).filter(|problem| problem.suggestion.is_none()) {
            problem.suggestion = Some(format!("or write \"{word}\", the default"));
        }
        value
    }

    fn leaf(&mut self, path: &str, leaf: Leaf, written: &Spanned<DeValue<'_>>) -> Option<Value> {
        match value::check(leaf, written.get_ref()) {
            Ok(value) => Some(value),
            Err(fault) => self.refuse(path, written, fault),
        }
    }

    fn list(&mut self, path: &str, leaf: Leaf, items: &DeArray<'_>) -> Option<Value> {
        let values: Vec<Value> = items.iter().filter_map(|item| self.leaf(path, leaf, item)).collect();
        (values.len() == items.len()).then(|| Value::from(values))
    }

    fn plans(&mut self, path: &str, plans: &DeTable<'_>) -> Dict {
        let mut data = Dict::new();
        for (name, written) in plans {
            let place = (self.locate)(name.span());
            let name = name.get_ref().as_ref();
            if !value::is_plan_name(name) {
                let rule = format!("{} is not a plan's name: 1 to 64 of a–z 0–9 _ -", quoted(name));
                self.layer.problems.push(Problem::new(path, rule).at(Some(place)));
                continue;
            }
            let path = schema::join(path, name);
            self.layer.places.insert(path.clone(), place);
            if let Some(value) = self.value(&path, Kind::Table(schema::PLAN), written) {
                data.insert(name.to_owned(), value);
            }
        }
        data
    }

    fn event_types(&mut self, path: &str, entries: &DeArray<'_>) -> Value {
        let mut values: Vec<Value> = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let path = format!("{path}[{index}]");
            let known = self.layer.problems.len();
            self.layer.places.insert(path.clone(), (self.locate)(entry.span()));
            let value = self.value(&path, Kind::Table(schema::EVENT_TYPE), entry);
            let named = entry.get_ref().as_table().is_some_and(|table| table.contains_key("name"));
            if self.layer.problems.len() == known && !named {
                let place = (self.locate)(entry.span());
                self.layer.problems.push(Problem::new(format!("{path}.name"), "is missing").at(Some(place)));
            }
            // Positions stay, so that later rules find the place of an entry by its index.
            values.push(value.filter(|_| self.layer.problems.len() == known).unwrap_or_else(|| Value::from(false)));
        }
        Value::from(values)
    }

    fn refuse(&mut self, path: &str, written: &Spanned<DeValue<'_>>, (message, suggestion): Fault) -> Option<Value> {
        let place = (self.locate)(written.span());
        self.layer.problems.push(Problem { path: path.to_owned(), place: Some(place), message, suggestion });
        None
    }
}
