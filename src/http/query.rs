//! The query of a request: its parameters, each at most once. Unknown ones are ignored.

use std::borrow::Cow;

use super::problem::Problem;
use crate::clock::Millis;
use crate::limits::PAGE_MAX;
use crate::model::time::parse_rfc3339;

pub struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    pub fn parse(text: Option<&'a str>) -> Self {
        Self(text.map_or(Vec::new(), |text| url::form_urlencoded::parse(text.as_bytes()).collect()))
    }

    /// A parameter's value.
    ///
    /// # Errors
    /// 422 when it is there twice.
    pub fn one(&self, name: &str) -> Result<Option<&str>, Problem> {
        let mut found = self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_ref());
        let first = found.next();
        if found.next().is_some() {
            return Err(Problem::invalid(format!("{name} stands there twice")));
        }
        Ok(first)
    }

    /// Parameters whose name begins with `prefix`, without it.
    pub fn under(&self, prefix: &str) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter_map(move |(key, value)| Some((key.strip_prefix(prefix)?, value.as_ref())))
    }

    /// `limit`: 1 to 100, 100 when it is left out.
    ///
    /// # Errors
    /// 422.
    pub fn limit(&self) -> Result<usize, Problem> {
        let Some(text) = self.one("limit")? else { return Ok(PAGE_MAX) };
        let limit = text.parse().ok().filter(|limit| (1..=PAGE_MAX).contains(limit));
        limit.ok_or_else(|| Problem::invalid("limit must be 1 to 100"))
    }

    /// A moment, in milliseconds, rounded down.
    ///
    /// # Errors
    /// 422.
    pub fn moment(&self, name: &str) -> Result<Option<Millis>, Problem> {
        let Some(text) = self.one(name)? else { return Ok(None) };
        // A `+` that was not escaped has become a blank, which no moment holds where an offset stands.
        let us = parse_rfc3339(&text.replace(' ', "+"));
        let rule = || Problem::invalid(format!("{name} must be an RFC 3339 time such as 2024-01-15T10:30:01Z"));
        us.map(|us| Some(us / 1_000)).ok_or_else(rule)
    }
}
