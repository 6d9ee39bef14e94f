//! Request bodies as JSON. Owns how a syntax error is told from a wrong member, and that a refusal names the member and
//! echoes nothing of its value.
//!
//! Members are taken as raw text first and read one by one, so that every error has a name, and so that published objects
//! pass through byte for byte. Duplicates among the members of a body are refused; in published objects they are not ours.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::problem::Problem;
use crate::model::time::parse_rfc3339;
use crate::service::shown;

/// Reads an object into a struct of members.
///
/// # Errors
/// 400 `invalid_json` when it is no JSON; 422 `invalid_field` when it is no object, or a member is doubled or unknown.
pub fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    // A derived struct would take an array too.
    if body.trim_ascii_start().first() != Some(&b'{') {
        serde_json::from_slice::<&RawValue>(body).map_err(|error| syntax(&error))?;
        return Err(Problem::invalid("the body must be a JSON object"));
    }
    serde_json::from_slice(body).map_err(|error| match error.classify() {
        Category::Data => Problem::invalid(about_member(&error.to_string())),
        Category::Syntax | Category::Eof | Category::Io => syntax(&error),
    })
}

/// As `parse`; an empty body is an empty object.
///
/// # Errors
/// As `parse`.
pub fn parse_optional<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    parse(if body.is_empty() { b"{}" } else { body })
}

fn syntax(error: &serde_json::Error) -> Problem {
    let (line, column) = (error.line(), error.column());
    let message = if error.is_eof() {
        "the body ends before its JSON does".to_owned()
    } else {
        format!("the body is not JSON: line {line}, column {column}")
    };
    Problem::new(http::StatusCode::BAD_REQUEST, "invalid_json", message)
}

/// serde's text without its place and its list of what was expected.
fn about_member(text: &str) -> String {
    let name = text.split('`').nth(1).unwrap_or_default();
    if text.starts_with("duplicate field") {
        format!("{} stands there twice", shown(name))
    } else if text.starts_with("unknown field") {
        format!("{} is not a member of this", shown(name))
    } else {
        "a member has the wrong type".to_owned()
    }
}

/// A member of a body that may be left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Member<'a>(Option<&'a str>);

impl<'de: 'a, 'a> Deserialize<'de> for Member<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Not as an `Option`, which would take `null` for an absent member.
        <&'a RawValue>::deserialize(deserializer).map(|raw| Self(Some(raw.get())))
    }
}

impl<'a> Member<'a> {
    #[must_use]
    pub fn is_there(self) -> bool {
        self.0.is_some()
    }

    /// Where it stands in `body`, if it is there.
    #[must_use]
    pub fn place(self, body: &[u8]) -> Option<Range<usize>> {
        let text = self.0?;
        let from = text.as_ptr().addr().wrapping_sub(body.as_ptr().addr());
        Some(from..from.wrapping_add(text.len()))
    }

    /// Its text, if it is there and not `null`.
    #[must_use]
    pub fn raw(self) -> Option<&'a str> {
        self.0.filter(|text| *text != "null")
    }

    /// Reads it; `null` counts as left out.
    ///
    /// # Errors
    /// 422 that says what `name` must be.
    pub fn read<T: Deserialize<'a>>(self, name: &str, what: &str) -> Result<Option<T>, Problem> {
        let read = |text| serde_json::from_str(text).map_err(|_| Problem::invalid(format!("{name} must be {what}")));
        self.raw().map(read).transpose()
    }

    /// Reads what can't be left out.
    ///
    /// # Errors
    /// 422 that says what `name` must be, or that it is missing.
    pub fn required<T: Deserialize<'a>>(self, name: &str, what: &str) -> Result<T, Problem> {
        self.read(name, what)?.ok_or_else(|| Problem::invalid(format!("{name} is required")))
    }

    /// Reads it; `null` takes it back to its default.
    ///
    /// # Errors
    /// 422 that says what `name` must be.
    pub fn settable<T: Deserialize<'a>>(self, name: &str, what: &str) -> Result<Option<Option<T>>, Problem> {
        Ok(match self.0 {
            None => None,
            Some(_) => Some(self.read(name, what)?),
        })
    }

    /// Reads text, borrowed where it holds no escapes.
    ///
    /// # Errors
    /// 422 naming it.
    pub fn text(self, name: &str) -> Result<Option<Cow<'a, str>>, Problem> {
        // Nearly always: a string that says what stands there.
        let quoted = self.0.and_then(|text| text.strip_prefix('"')?.strip_suffix('"'));
        if let Some(plain) = quoted.filter(|text| !text.contains('\\')) {
            return Ok(Some(Cow::Borrowed(plain)));
        }
        Ok(self.read::<Text<'a>>(name, "a string")?.map(|text| text.0))
    }

    /// The text of an object.
    ///
    /// # Errors
    /// 422 naming it.
    pub fn object(self, name: &str) -> Result<Option<&'a str>, Problem> {
        match self.raw() {
            Some(text) if !text.starts_with('{') => Err(Problem::invalid(format!("{name} must be an object"))),
            text => Ok(text),
        }
    }

    /// A moment, in microseconds.
    ///
    /// # Errors
    /// 422 naming it.
    pub fn moment(self, name: &str) -> Result<Option<u64>, Problem> {
        let rule = || Problem::invalid(format!("{name} must be an RFC 3339 time such as 2024-01-15T10:30:01Z"));
        self.text(name)?.map(|text| parse_rfc3339(&text).ok_or_else(rule)).transpose()
    }
}

struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Cow<'de, str>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(text))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text.to_owned()))
            }
        }
        deserializer.deserialize_str(Read).map(Self)
    }
}

/// A whole number, however it is written: to JSON `8.0` is what `8` is.
pub struct Whole(pub u64);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// Up to here every whole number has its own `f64`.
        const MAX: f64 = 9_007_199_254_740_992.0;
        let number = f64::deserialize(deserializer)?;
        if number.fract() != 0.0 || !(0.0..=MAX).contains(&number) {
            return Err(serde::de::Error::custom("not a whole number"));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is whole and in range")]
        Ok(Self(number as u64))
    }
}

/// The members of an object of strings, in the order given, doubled ones too.
pub struct Pairs(pub Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Vec<(String, String)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(pairs)
            }
        }
        deserializer.deserialize_map(Read).map(Self)
    }
}
