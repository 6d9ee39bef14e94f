//! Signatures: what proves to a receiver that a delivery is ours. Owns the schemes, their key rules and their verification.
//!
//! Invariant: the bytes given here as `body` are the bytes that are sent; each scheme reads them once, in place. A key's
//! schedule is computed when the keys are built and cloned per signature. Comparisons are in constant time. Which secrets
//! are valid at which time is `Webhook::secrets_at`; keeping them at rest is the store's business.
//!
//! Two keys are made of one secret. Vendor signatures use its whole text. Standard Webhooks uses the bytes that its
//! libraries make of it: without a `whsec_` prefix, base64-decoded where that yields at least 24 bytes, else the text.
//! Base64 here is RFC 4648 §4: standard alphabet, padding required, as the Go, JavaScript, Python and Rust libraries read
//! it; stray trailing bits are let through as Go and Python do. A lemon secret (64 hex digits) is such base64 of 48 bytes.

use base64::Engine;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::general_purpose::{GeneralPurpose, PAD, STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use http::header::InvalidHeaderValue;
use http::{HeaderMap, HeaderName, HeaderValue};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::entropy::Entropy;
use crate::model::secret::Secret;
use crate::model::webhook::Dialect;

pub const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
pub const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
pub const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
pub const WEBHOOK_ATTEMPT: HeaderName = HeaderName::from_static("webhook-attempt");
/// lemon's two names for one value: its guide says the one, its reference the other.
pub const LEMON_SIGNATURES: [HeaderName; 2] =
    [HeaderName::from_static("lmg-signature"), HeaderName::from_static("lemon-markets-signature")];
pub const VIBE_SIGNATURE: HeaderName = HeaderName::from_static("x-webhook-signature");
pub const ONEMETRIC_TOKEN: HeaderName = HeaderName::from_static("x-webhook-token");

const WHSEC: &str = "whsec_";
/// Bytes of a Standard Webhooks key (its specification, "Signature scheme": between 24 and 64).
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// Characters of a secret that an owner chooses.
const OWN_SECRET_CHARS: std::ops::RangeInclusive<usize> = 8..=256;
const BASE64: GeneralPurpose = GeneralPurpose::new(&ALPHABET, PAD.with_decode_allow_trailing_bits(true));

type HmacSha256 = Hmac<Sha256>;

/// A webhook's signing keys, ready to sign: about 300 bytes for each secret. Build once per version of a webhook and change
/// of its valid secrets.
#[derive(Clone)]
pub struct SigningKeys {
    dialect: Dialect,
    /// Newest first.
    keys: Vec<Key>,
    /// OneMetric's token: the newest secret's text.
    token: Option<Secret>,
}

#[derive(Clone)]
struct Key {
    standard: HmacSha256,
    /// Only where the dialect has a vendor signature that uses this secret.
    vendor: Option<HmacSha256>,
}

impl SigningKeys {
    /// Keys of the valid secrets, newest first.
    #[must_use]
    pub fn new<'a>(dialect: Dialect, secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        // Most have one, and a vector that grows makes room for four: a kilobyte for each lane.
        let mut keys = Vec::with_capacity(1);
        let mut token = None;
        for (age, secret) in secrets.into_iter().enumerate() {
            let vendor = match dialect {
                Dialect::Lemon => true,
                // These carry one signature, the newest secret's.
                Dialect::Vibe => age == 0,
                Dialect::Omnia | Dialect::OneMetric => false,
            };
            if dialect == Dialect::OneMetric && age == 0 {
                token = Some(secret.clone());
            }
            keys.push(Key { standard: standard_key(secret), vendor: vendor.then(|| vendor_key(secret)) });
        }
        Self { dialect, keys, token }
    }

    /// Writes every header that proves this attempt: `webhook-id`, `-timestamp` (unix seconds), `-signature`, `-attempt`
    /// (from 1) and the dialect's own. Replaces what is there under these names.
    ///
    /// # Errors
    /// When `event_id` or OneMetric's token holds a byte that no header may carry. Our ids never do, nor does a secret
    /// that `secret_valid` let in. `headers` may have been written in part.
    pub fn write_headers(
        &self,
        headers: &mut HeaderMap,
        event_id: &str,
        timestamp_s: u64,
        body: &[u8],
        attempt: u32,
    ) -> Result<(), InvalidHeaderValue> {
        let stamp = timestamp_s.to_string();
        headers.insert(WEBHOOK_SIGNATURE, self.standard(event_id, &stamp, body)?);
        headers.insert(WEBHOOK_ID, HeaderValue::from_str(event_id)?);
        match self.dialect {
            Dialect::Lemon => {
                let value = self.lemon(&stamp, body)?;
                let [guide, reference] = LEMON_SIGNATURES;
                headers.insert(guide, value.clone());
                headers.insert(reference, value);
            }
            Dialect::Vibe => {
                if let Some(key) = self.keys.first().and_then(|key| key.vendor.as_ref()) {
                    headers.insert(VIBE_SIGNATURE, HeaderValue::from_str(&hex_mac(key, &[body]))?);
                }
            }
            Dialect::OneMetric => {
                if let Some(token) = &self.token {
                    let mut value = HeaderValue::from_bytes(token.expose().as_bytes())?;
                    value.set_sensitive(true);
                    headers.insert(ONEMETRIC_TOKEN, value);
                }
            }
            Dialect::Omnia => {}
        }
        headers.insert(WEBHOOK_TIMESTAMP, HeaderValue::from_str(&stamp)?);
        // Nearly all are first ones, which need no memory.
        let attempt = if attempt == 1 { HeaderValue::from_static("1") } else { HeaderValue::from(attempt) };
        headers.insert(WEBHOOK_ATTEMPT, attempt);
        Ok(())
    }

    /// `v1,<base64>`, one per valid secret, separated by spaces.
    fn standard(&self, event_id: &str, stamp: &str, body: &[u8]) -> Result<HeaderValue, InvalidHeaderValue> {
        // "v1," and 44 characters of base64, and a space between: exactly, so that the text becomes the value as it is.
        let mut value = String::with_capacity((self.keys.len() * 48).saturating_sub(1));
        for key in &self.keys {
            value.push_str(if value.is_empty() { "v1," } else { " v1," });
            STANDARD.encode_string(standard_mac(&key.standard, event_id, stamp, body), &mut value);
        }
        HeaderValue::try_from(value)
    }

    /// `t=<unix>,v1=<hex>`, one `v1` per valid secret.
    fn lemon(&self, stamp: &str, body: &[u8]) -> Result<HeaderValue, InvalidHeaderValue> {
        let mut value = String::with_capacity(2 + stamp.len() + self.keys.len() * 68);
        value.push_str("t=");
        value.push_str(stamp);
        for key in self.keys.iter().filter_map(|key| key.vendor.as_ref()) {
            value.push_str(",v1=");
            push_hex(&mut value, &mac(key, &[stamp.as_bytes(), b".", body]));
        }
        HeaderValue::try_from(value)
    }
}

/// A new secret: 64 lower-case hex digits, 32 random bytes.
#[must_use]
pub fn generate_secret(entropy: &Entropy) -> Secret {
    let bytes = Zeroizing::new(entropy.bytes::<32>());
    Secret::new(hex::encode(*bytes))
}

/// Whether an owner may sign with `text`: a `whsec_` secret has to be what Standard Webhooks calls one, any other is 8 to 256
/// characters that can stand in a header (OneMetric's token is the secret itself).
///
/// # Errors
/// What is wrong with it, as a clause for the owner.
pub fn secret_valid(text: &str) -> Result<(), &'static str> {
    if text.chars().any(char::is_control) {
        return Err("a secret may not hold control characters");
    }
    if text.trim() != text {
        return Err("a secret may not start or end with white space");
    }
    if let Some(encoded) = text.strip_prefix(WHSEC) {
        let fits = base64_bytes(encoded).is_some_and(|key| KEY_BYTES.contains(&key.len()));
        return fits.then_some(()).ok_or("a whsec_ secret must be padded base64 of 24 to 64 bytes");
    }
    let fits = OWN_SECRET_CHARS.contains(&text.chars().count());
    fits.then_some(()).ok_or("a secret must have 8 to 256 characters")
}

/// Why a signature was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the signature headers can't be read")]
    Malformed,
    #[error("the timestamp is too far from now")]
    OutOfTime,
    #[error("no signature fits the secret and the body")]
    Mismatch,
}

/// Checks a Standard Webhooks signature: `timestamp` and `signatures` are the header values as received, `tolerance_s` is
/// the distance from `now_s` (unix seconds) that is let through, both ways.
///
/// # Errors
/// Why it is refused.
pub fn verify_standard(
    secret: &Secret,
    id: &str,
    timestamp: &str,
    signatures: &str,
    body: &[u8],
    now_s: u64,
    tolerance_s: u64,
) -> Result<(), Refusal> {
    let at = unix_seconds(timestamp)?;
    if !signatures.split(' ').any(|one| one.starts_with("v1,")) {
        return Err(Refusal::Malformed);
    }
    in_time(at, now_s, tolerance_s)?;
    let expected = STANDARD.encode(standard_mac(&standard_key(secret), id, timestamp, body));
    any_equal(&expected, signatures.split(' ').filter_map(|one| one.strip_prefix("v1,")))
}

/// Checks a lemon signature (`t=<unix>,v1=<hex>[,v1=<hex>]`); times as in `verify_standard`.
///
/// # Errors
/// Why it is refused.
pub fn verify_lemon(
    secret: &Secret,
    signature: &str,
    body: &[u8],
    now_s: u64,
    tolerance_s: u64,
) -> Result<(), Refusal> {
    let parts = || signature.split(',').filter_map(|part| part.split_once('='));
    let stamp = parts().find_map(|(name, value)| (name == "t").then_some(value)).ok_or(Refusal::Malformed)?;
    let at = unix_seconds(stamp)?;
    if !parts().any(|(name, _)| name == "v1") {
        return Err(Refusal::Malformed);
    }
    in_time(at, now_s, tolerance_s)?;
    let expected = hex_mac(&vendor_key(secret), &[stamp.as_bytes(), b".", body]);
    any_equal(&expected, parts().filter_map(|(name, value)| (name == "v1").then_some(value)))
}

/// Checks a Vibe signature (lower-case hex), which carries no time.
///
/// # Errors
/// `Mismatch` when it does not fit.
pub fn verify_vibe(secret: &Secret, signature: &str, body: &[u8]) -> Result<(), Refusal> {
    any_equal(&hex_mac(&vendor_key(secret), &[body]), [signature])
}

fn standard_key(secret: &Secret) -> HmacSha256 {
    let text = secret.expose();
    let text = text.strip_prefix(WHSEC).unwrap_or(text);
    match base64_bytes(text).filter(|bytes| bytes.len() >= *KEY_BYTES.start()) {
        Some(bytes) => key(&bytes),
        None => key(text.as_bytes()),
    }
}

fn vendor_key(secret: &Secret) -> HmacSha256 {
    key(secret.expose().as_bytes())
}

fn key(bytes: &[u8]) -> HmacSha256 {
    HmacSha256::new_from_slice(bytes).expect("HMAC takes keys of any length")
}

fn base64_bytes(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    BASE64.decode(text).ok().map(Zeroizing::new)
}

fn standard_mac(key: &HmacSha256, id: &str, stamp: &str, body: &[u8]) -> [u8; 32] {
    mac(key, &[id.as_bytes(), b".", stamp.as_bytes(), b".", body])
}

fn hex_mac(key: &HmacSha256, parts: &[&[u8]]) -> String {
    let mut text = String::with_capacity(64);
    push_hex(&mut text, &mac(key, parts));
    text
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)]);
        text.push(DIGITS[usize::from(byte & 0xf)]);
    }
}

fn mac(key: &HmacSha256, parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = key.clone();
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// Reads unix seconds as we write them: digits only, so that what was signed is what was read.
fn unix_seconds(text: &str) -> Result<u64, Refusal> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or(Refusal::Malformed)
}

fn in_time(at_s: u64, now_s: u64, tolerance_s: u64) -> Result<(), Refusal> {
    if at_s.abs_diff(now_s) <= tolerance_s { Ok(()) } else { Err(Refusal::OutOfTime) }
}

/// Compares with every candidate, all to the end, so that time tells nothing about where they differ.
fn any_equal<'a>(expected: &str, candidates: impl IntoIterator<Item = &'a str>) -> Result<(), Refusal> {
    let equal = candidates
        .into_iter()
        .fold(subtle::Choice::from(0), |equal, one| equal | expected.as_bytes().ct_eq(one.as_bytes()));
    if bool::from(equal) { Ok(()) } else { Err(Refusal::Mismatch) }
}

#[cfg(test)]
mod tests;
