//! Where settings are written: the file and the `WEBHOOKD_…` variables. Owns finding, reading and parsing both.
//!
//! Invariant: every problem carries the place it was written at. Leaves judging keys and values to `walk`.

use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Place, Problem, quoted};
use super::schema::{self, Key, Kind, Leaf};
use super::value;
use super::walk::Layer;

/// What the variables of this daemon start with.
const PREFIX: &str = "WEBHOOKD_";
/// Variables that are not settings: the file's path, and what the client commands use.
const NOT_SETTINGS: [&str; 3] = [FILE_VARIABLE, "WEBHOOKD_URL", "WEBHOOKD_TOKEN"];
/// Names the file.
pub(super) const FILE_VARIABLE: &str = "WEBHOOKD_CONFIG";
/// Names the folder in which systemd puts a service's credentials.
pub(super) const CREDENTIALS_VARIABLE: &str = "CREDENTIALS_DIRECTORY";
/// Looked for in this order when no file is named.
pub(super) const USUAL_FILES: [&str; 2] = ["webhookd.toml", "/etc/webhookd/webhookd.toml"];

/// The first of `usual` that exists.
pub(super) fn find(usual: &[&str]) -> Option<PathBuf> {
    usual.iter().map(PathBuf::from).find(|path| path.exists())
}

/// Reads a file as a layer; one that can't be read is an empty layer with a problem.
pub(super) fn read_file(path: &Path) -> Layer {
    let mut layer = Layer::named(path.display().to_string());
    layer.is_broken = true;
    match std::fs::read(path) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => return parse_file(path, &text),
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                let text = String::from_utf8_lossy(&error.as_bytes()[..valid]).into_owned();
                let place = place_of(path, &text, valid);
                layer.problems.push(Problem::new("", "is not UTF-8 from here on").at(Some(place)));
            }
        },
        Err(error) => {
            layer.problems.push(Problem::new("", format!("{}: can't be read: {error}", path.display())));
        }
    }
    layer
}

/// Parses the text of a file as a layer. What can be understood beside syntax errors is checked too.
pub(super) fn parse_file(path: &Path, text: &str) -> Layer {
    let mut layer = Layer::named(path.display().to_string());
    let (document, errors) = DeTable::parse_recoverable(text);
    let locate = |span: Range<usize>| place_of(path, text, span.start);
    layer.take_document(document.get_ref(), &locate);
    let broken: Vec<Problem> = errors.iter().map(|error| syntax_problem(error, &locate)).collect();
    // What recovery made of a broken line is not worth a second message.
    let line_of = |problem: &Problem| match &problem.place {
        Some(Place::File { line, .. }) => Some(*line),
        _ => None,
    };
    let broken_lines: Vec<Option<usize>> = broken.iter().map(line_of).collect();
    layer.problems.retain(|problem| !broken_lines.contains(&line_of(problem)));
    layer.is_broken = !broken.is_empty();
    layer.problems.extend(one_per_line(broken, line_of));
    layer
}

fn one_per_line(mut problems: Vec<Problem>, line_of: impl Fn(&Problem) -> Option<usize>) -> Vec<Problem> {
    problems.sort_by(|a, b| a.place.cmp(&b.place));
    problems.dedup_by_key(|problem| line_of(problem));
    problems
}

fn syntax_problem(error: &toml::de::Error, locate: &dyn Fn(Range<usize>) -> Place) -> Problem {
    let message = error.message().lines().collect::<Vec<_>>().join(", ");
    Problem::new("", format!("not valid TOML: {message}")).at(Some(locate(error.span().unwrap_or(0..0))))
}

/// The line and column of a byte offset.
fn place_of(path: &Path, text: &str, offset: usize) -> Place {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.matches('\n').count() + 1;
    Place::File { path: path.to_owned(), line, column: before[line_start..].chars().count() + 1 }
}

/// Reads the variables as a layer; names that don't start with `WEBHOOKD_` are not ours.
pub(super) fn read_variables(variables: impl Iterator<Item = (String, String)>) -> Layer {
    let mut ours: Vec<(String, String)> =
        variables.filter(|(name, _)| name.starts_with(PREFIX) && !NOT_SETTINGS.contains(&name.as_str())).collect();
    // A section before its keys, so that the keys win.
    ours.sort();
    let mut layer = Layer::named("environment");
    for (name, text) in ours {
        let place = Place::Variable(name.clone());
        let path = name[PREFIX.len()..].to_lowercase().replace("__", ".");
        let Some(kind) = schema::find(&path).filter(|_| schema::variable(&path) == name) else {
            layer.problems.push(unknown_variable(&name).at(Some(place)));
            continue;
        };
        let locate = |_: Range<usize>| place.clone();
        match parse_variable(kind, text.trim()) {
            Ok(value) => layer.take_one(&path, kind, &Spanned::new(0..0, value), &locate),
            Err(message) => layer.problems.push(Problem::new(path, message).at(Some(place))),
        }
    }
    layer
}

fn unknown_variable(name: &str) -> Problem {
    let known: Vec<String> = schema::leaves().iter().map(|(path, _)| schema::variable(path)).collect();
    let known = known.iter().map(String::as_str).chain(NOT_SETTINGS).map(|known| &known[PREFIX.len()..]);
    let written = &name[PREFIX.len()..];
    // A namesake in another spelling of the separators is what was meant, however far it is.
    let plain = |name: &str| name.to_lowercase().replace(['_', '.'], "");
    let namesake = known.clone().find(|known| plain(known) == plain(written));
    let problem = Problem::new("", "unknown variable");
    match namesake.or_else(|| schema::nearest(written, known)) {
        Some(near) => problem.suggest(format!("did you mean {PREFIX}{near}?")),
        None => problem.suggest("settings are WEBHOOKD_<SECTION>__<KEY>, with two underscores between"),
    }
}

/// A variable's text as a TOML value: TOML where it is, otherwise the bare text; lists may go without brackets and quotes.
fn parse_variable(kind: Kind, text: &str) -> Result<DeValue<'_>, String> {
    match kind {
        Kind::Optional(word, _) if text == word => Ok(bare(text)),
        Kind::Optional(_, kind) => parse_variable(*kind, text),
        Kind::Leaf(leaf) => Ok(parse_leaf(leaf, text)),
        Kind::List(_) if text.starts_with('[') => parse_toml(text),
        Kind::List(leaf) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Ok(DeValue::Array(items.map(|item| Spanned::new(0..0, parse_leaf(leaf, item))).collect()))
        }
        Kind::PlanChoice | Kind::Table(_) | Kind::Plans if text.starts_with('{') => parse_toml(text),
        Kind::EventTypes if text.starts_with('[') => parse_toml(text),
        Kind::PlanChoice => Ok(parse_leaf(Leaf::PlanName, text)),
        Kind::Table(keys) => Err(whole_section(keys)),
        Kind::Plans | Kind::EventTypes => Ok(bare(text)),
    }
}

fn whole_section(keys: &[Key]) -> String {
    let names = keys.iter().map(|key| key.name).collect::<Vec<_>>().join(", ");
    format!("is a section; add two underscores and a key ({names})")
}

fn parse_leaf(leaf: Leaf, text: &str) -> DeValue<'_> {
    match DeValue::parse(text).map(Spanned::into_inner) {
        Ok(value) if !value::is_textual(leaf) || value.is_str() => value,
        _ => bare(text),
    }
}

fn parse_toml(text: &str) -> Result<DeValue<'_>, String> {
    let parsed = DeValue::parse(text).map(Spanned::into_inner);
    parsed.map_err(|error| format!("{} is not valid TOML: {}", quoted(text), error.message()))
}

fn bare(text: &str) -> DeValue<'_> {
    DeValue::String(text.into())
}
