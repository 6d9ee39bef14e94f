//! What is wrong with a configuration, and where. Owns the form in which a problem is told to the operator.
//!
//! Invariant: a message names the key and the rule, and never repeats more than 64 bytes of what was written.
//! Leaves finding the problems to the rest of this room.

use std::fmt;
use std::path::PathBuf;

/// Where a setting was written. Lines and columns count from 1; columns count characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    File { path: PathBuf, line: usize, column: usize },
    Variable(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::Variable(name) => f.write_str(name),
        }
    }
}

/// Where the effective value of a key comes from; printed without the column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    Set(Place),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Set(Place::File { path, line, .. }) => write!(f, "{}:{line}", path.display()),
            Self::Set(Place::Variable(name)) => f.write_str(name),
        }
    }
}

/// One thing that is wrong. Prints as `webhookd.toml:12:3: egress.timeot: unknown key; did you mean egress.timeout?`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, dotted; empty where the problem is not about one key.
    pub path: String,
    pub place: Option<Place>,
    /// The rule that was broken.
    pub message: String,
    /// What to do about it, as a phrase that can end the line.
    pub suggestion: Option<String>,
}

impl Problem {
    /// A problem with `path` that is not tied to a place yet.
    #[must_use]
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), place: None, message: message.into(), suggestion: None }
    }

    /// The same, written at `place`.
    #[must_use]
    pub fn at(mut self, place: Option<Place>) -> Self {
        self.place = place;
        self
    }

    /// The same, with advice.
    #[must_use]
    pub fn suggest(mut self, suggestion: impl Into<String>) -> Self {
        self.suggestion = Some(suggestion.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        match &self.suggestion {
            Some(suggestion) => write!(f, "; {suggestion}"),
            None => Ok(()),
        }
    }
}

/// Everything that is wrong, in the order of the file, then variables, then the rest. Prints one line each and a count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// `Ok` when nothing is wrong; otherwise sorted, each told once.
    pub(super) fn into_result(mut self) -> Result<(), Self> {
        if self.0.is_empty() {
            return Ok(());
        }
        self.0.sort_by(|a, b| (a.place.is_none(), &a.place).cmp(&(b.place.is_none(), &b.place)));
        self.0.dedup();
        Err(self)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.0 {
            writeln!(f, "{problem}")?;
        }
        match self.0.len() {
            1 => f.write_str("1 problem in the configuration"),
            count => write!(f, "{count} problems in the configuration"),
        }
    }
}

impl std::error::Error for Problems {}

/// `text` in double quotes with escapes, cut at 64 bytes.
pub(super) fn quoted(text: &str) -> String {
    const BYTES_MAX: usize = 64;
    if text.len() <= BYTES_MAX {
        return format!("{text:?}");
    }
    let end = (0..=BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{:?}…", &text[..end])
}
