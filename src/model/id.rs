//! Ids that can't be swapped. Public ids are UUIDv7 (they sort by time); numbers are what the store counts with.

use std::borrow::Borrow;
use std::fmt;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::event::OPERATOR;

/// Position of an event in the log, from 1, without gaps; the store's name for an event.
pub type Seq = u64;
/// Position of a record in the journal, from 1, without gaps.
pub type JournalSeq = u64;
/// The store's number of a webhook, from 1, never used again.
pub type WebhookNo = u32;
/// The store's number of a tenant, from 1, never used again. 0 stands for "all tenants" (broadcast).
pub type TenantNo = u32;
/// Which try of a delivery: the first is 1; it counts on after a redrive.
pub type AttemptNumber = NonZeroU32;

/// The tenant number of a broadcast event.
pub const BROADCAST: TenantNo = 0;
/// The number of the reserved tenant `operator`, at the other end of all numbers.
pub const OPERATOR_NO: TenantNo = TenantNo::MAX;

/// Public name of an event: `evt_` and 32 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EventId(pub [u8; 16]);

/// Public name of a webhook: `wbh_` and 32 lower-case hex digits; Omnia and Vibe write the same digits in their own forms.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WebhookId(pub [u8; 16]);

/// Public name of an access key: `key_` and 16 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyId(pub [u8; 8]);

/// Public name of a job: `job_` and 32 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JobId(pub [u8; 16]);

/// A tenant's id, chosen by the operator: `[a-z0-9][a-z0-9_-]{0,63}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TenantId(String);

impl EventId {
    /// Reads `evt_…`; anything else is no event id.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        parse_hex(text.strip_prefix("evt_")?).map(Self)
    }

    /// What `Display` shows, as bytes: each event's is written four times on its way.
    #[must_use]
    pub fn text(&self) -> [u8; 36] {
        let mut text = *b"evt_00000000000000000000000000000000";
        for (digits, byte) in text[4..].as_chunks_mut::<2>().0.iter_mut().zip(self.0) {
            *digits = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
        }
        text
    }
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

impl WebhookId {
    /// Reads any of the three spellings: `wbh_<32 hex>`, `webhook_<32 hex>`, or the UUID with dashes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(digits) = text.strip_prefix("wbh_").or_else(|| text.strip_prefix("webhook_")) {
            return parse_hex(digits).map(Self);
        }
        let id = Self(*uuid::Uuid::try_parse(text).ok()?.as_bytes());
        (id.dashed() == text).then_some(id)
    }

    /// Omnia's spelling: the UUID with dashes.
    #[must_use]
    pub fn dashed(&self) -> String {
        uuid::Uuid::from_bytes(self.0).hyphenated().to_string()
    }

    /// Vibe's spelling: `webhook_` and 32 hex digits.
    #[must_use]
    pub fn vibe(&self) -> String {
        format!("webhook_{}", hex::encode(self.0))
    }
}

impl KeyId {
    /// Reads `key_…`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        parse_hex(text.strip_prefix("key_")?).map(Self)
    }
}

impl JobId {
    /// Reads `job_…`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        parse_hex(text.strip_prefix("job_")?).map(Self)
    }
}

impl TenantId {
    /// Reads a tenant id by its rule.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let first_ok = bytes.first().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let rest_ok = bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'));
        (first_ok && rest_ok && bytes.len() <= 64).then(|| Self(text.to_owned()))
    }

    /// The reserved tenant that operational events belong to.
    #[must_use]
    pub fn operator() -> Self {
        Self(OPERATOR.to_owned())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn parse_hex<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let mut out = [0; N];
    let lower = digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    (lower && hex::decode_to_slice(digits, &mut out).is_ok()).then_some(out)
}

macro_rules! shown_as {
    ($type:ty, $prefix:literal) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut digits = [0; 32];
                let digits = &mut digits[..self.0.len() * 2];
                hex::encode_to_slice(self.0, digits).map_err(|_| fmt::Error)?;
                f.write_str($prefix)?;
                f.write_str(std::str::from_utf8(digits).map_err(|_| fmt::Error)?)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}
shown_as!(EventId, "evt_");
shown_as!(WebhookId, "wbh_");
shown_as!(KeyId, "key_");
shown_as!(JobId, "job_");

impl Borrow<str> for TenantId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_s_id_is_written_in_one_way() {
        for id in [EventId([0; 16]), EventId([0xff; 16]), EventId(*b"0123456789:;<=>\xf0")] {
            assert_eq!(str::from_utf8(&id.text()), Ok(&*id.to_string()));
            assert_eq!(EventId::parse(&id.to_string()), Some(id));
        }
    }

    #[test]
    fn the_three_spellings_of_a_webhook_are_one() {
        let id = WebhookId::parse("wbh_9d701848a6c24b4abaac9704f144bd02").unwrap();
        assert_eq!(WebhookId::parse("9d701848-a6c2-4b4a-baac-9704f144bd02"), Some(id));
        assert_eq!(WebhookId::parse("webhook_9d701848a6c24b4abaac9704f144bd02"), Some(id));
        assert_eq!(id.to_string(), "wbh_9d701848a6c24b4abaac9704f144bd02");
        for other in [
            "9d701848a6c24b4abaac9704f144bd02",
            "WBH_9d701848a6c24b4abaac9704f144bd02",
            "wbh_9D701848a6c24b4abaac9704f144bd02",
            "wbh_9d70",
            "{9d701848-a6c2-4b4a-baac-9704f144bd02}",
        ] {
            assert_eq!(WebhookId::parse(other), None, "{other}");
        }
    }

    #[test]
    fn tenant_ids_follow_their_rule() {
        for good in ["a", "0", "acme", "a_b-c", &"x".repeat(64)] {
            assert!(TenantId::parse(good).is_some(), "{good}");
        }
        for bad in ["", "-a", "_a", "A", "a.b", "a b", "ä", "*", &"x".repeat(65)] {
            assert!(TenantId::parse(bad).is_none(), "{bad}");
        }
    }
}
