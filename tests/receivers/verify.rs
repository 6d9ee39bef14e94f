//! The receiver's check in Rust, as docs/RECEIVERS.md has it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

fn key_of(secret: &str) -> Vec<u8> {
    let text = secret.strip_prefix("whsec_").unwrap_or(secret);
    let decoded = STANDARD.decode(text).ok().filter(|key| key.len() >= 24);
    decoded.unwrap_or_else(|| text.as_bytes().to_vec())
}

pub fn verify(secret: &str, id: &str, stamp: &str, signatures: &str, body: &[u8], now: i64) -> bool {
    let fresh = stamp.parse::<i64>().is_ok_and(|at| now.abs_diff(at) <= 300);
    fresh
        && signatures.split(' ').filter_map(|one| STANDARD.decode(one.strip_prefix("v1,")?).ok()).any(|given| {
            let mut mac = Hmac::<Sha256>::new_from_slice(&key_of(secret)).expect("any length");
            mac.update(format!("{id}.{stamp}.").as_bytes());
            mac.update(body);
            // In constant time.
            mac.verify_slice(&given).is_ok()
        })
}
