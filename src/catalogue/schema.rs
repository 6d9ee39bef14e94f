//! What the data of an event type has to look like, as a JSON Schema. Owns reading one and what is said when data does not
//! fit.
//!
//! Invariant: nothing is fetched, whatever a schema refers to, and the patterns of a schema take time in proportion to the
//! data. What is said names the place in the data and the rule, never a value. Built only with the feature `schema`: without
//! it no `Schema` can be made, and publishing has nothing to check.

use serde_json::value::RawValue;

#[cfg(feature = "schema")]
use crate::limits::ECHO_BYTES_MAX;

/// Data that does not fit: where, and against which rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path} does not fit the schema of its type: {rule}")]
pub struct Mismatch {
    /// `data` and a JSON pointer, cut to `ECHO_BYTES_MAX`.
    pub path: String,
    /// The keyword of the schema that it breaks.
    pub rule: String,
}

#[cfg(feature = "schema")]
pub struct Schema {
    text: Box<RawValue>,
    validator: jsonschema::Validator,
}

/// Without the feature there is none.
#[cfg(not(feature = "schema"))]
pub enum Schema {}

impl std::fmt::Debug for Schema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text().get())
    }
}

#[cfg(feature = "schema")]
impl Schema {
    /// Reads a schema: draft 2020-12 unless its `$schema` says otherwise.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(text: &str) -> Result<Self, String> {
        let raw: Box<RawValue> = serde_json::from_str(text).map_err(|error| not_json(&error))?;
        let value = serde_json::from_str(raw.get()).map_err(|error| not_json(&error))?;
        let patterns = jsonschema::PatternOptions::regex();
        let options = jsonschema::options().offline().with_pattern_options(patterns);
        let validator = options.build(&value).map_err(|error| error.to_string())?;
        Ok(Self { text: raw, validator })
    }

    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &RawValue {
        &self.text
    }

    /// Holds data against it; what was published without data has `{}`.
    ///
    /// # Errors
    /// The first thing that does not fit.
    pub fn check(&self, data: Option<&str>) -> Result<(), Mismatch> {
        let told = |path: String, rule: &str| {
            Err(Mismatch { path: path[..path.floor_char_boundary(ECHO_BYTES_MAX)].to_owned(), rule: rule.to_owned() })
        };
        // What the publisher sent has been read once, so only a number beyond every range is left.
        let Ok(value) = serde_json::from_str(data.unwrap_or("{}")) else { return told("data".to_owned(), "number") };
        let Err(error) = self.validator.validate(&value) else { return Ok(()) };
        let at = error.instance_path();
        let path = match error.kind() {
            jsonschema::error::ValidationErrorKind::Required { property } => {
                format!("data{at}/{}", property.as_str().unwrap_or_default())
            }
            _ => format!("data{at}"),
        };
        told(path, error.kind().keyword())
    }
}

#[cfg(not(feature = "schema"))]
impl Schema {
    /// Refuses: a build without the feature can't check anything.
    ///
    /// # Errors
    /// Always.
    pub fn read(_: &str) -> Result<Self, String> {
        Err("this build checks no schemas: build it with --features schema".to_owned())
    }

    #[must_use]
    pub fn text(&self) -> &RawValue {
        match *self {}
    }

    /// # Errors
    /// Never.
    pub fn check(&self, _: Option<&str>) -> Result<(), Mismatch> {
        match *self {}
    }
}

#[cfg(feature = "schema")]
fn not_json(error: &serde_json::Error) -> String {
    format!("it is not JSON (line {}, column {})", error.line(), error.column())
}

#[cfg(all(test, feature = "schema"))]
mod tests {
    use super::*;

    const ORDER: &str = r#"{"type":"object","required":["orderId"],"properties":{
        "orderId":{"type":"string","pattern":"^[0-9]+$"},"lines":{"type":"array","items":{"type":"integer"}}}}"#;

    #[test]
    fn a_mismatch_names_the_place_and_the_rule_and_no_value() {
        let schema = Schema::read(ORDER).unwrap();
        assert_eq!(schema.check(Some(r#"{"orderId":"4711","more":[1]}"#)), Ok(()));
        let told = |data| schema.check(data).unwrap_err().to_string();
        let rest = "does not fit the schema of its type";
        assert_eq!(told(Some(r#"{"orderId":4711}"#)), format!("data/orderId {rest}: type"));
        assert_eq!(told(Some(r#"{"orderId":"secret"}"#)), format!("data/orderId {rest}: pattern"));
        assert_eq!(told(Some(r#"{"orderId":"1","lines":[1,2.5]}"#)), format!("data/lines/1 {rest}: type"));
        for none in [Some("{}"), None] {
            assert_eq!(told(none), format!("data/orderId {rest}: required"));
        }
        let closed = Schema::read(r#"{"additionalProperties":{"type":"null"}}"#).unwrap();
        let long = format!(r#"{{"{}":1}}"#, "x".repeat(200));
        assert_eq!(closed.check(Some(&long)).unwrap_err().path.len(), 64);
        assert_eq!(closed.check(Some(r#"{"n":1e400}"#)).unwrap_err().rule, "number");
    }

    #[test]
    fn a_schema_that_is_none_is_refused() {
        for (text, part) in [
            ("{", "not JSON (line 1, column 1)"),
            (r#"{"type":"strnig"}"#, "strnig"),
            (r#"{"$ref":"https://schemas.example.com/a.json"}"#, "example.com"),
            (r#"{"$ref":"file:///etc/hostname"}"#, "/etc/hostname"),
            (r#"{"pattern":"(?=a)b"}"#, "(?=a)b"),
        ] {
            let told = Schema::read(text).unwrap_err();
            assert!(told.contains(part), "{text}: {told}");
        }
        assert_eq!(Schema::read(" {\"type\" : \"object\"}\n").unwrap().text().get(), "{\"type\" : \"object\"}");
    }
}
