//! The signature schemes of the contract, written down once more and independently of the daemon's own.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

fn hmac(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any key length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().to_vec()
}

/// lemon's `LMG-Signature`.
pub fn lemon(secret: &str, unix_seconds: u64, body: &[u8]) -> String {
    let time = unix_seconds.to_string();
    format!("t={time},v1={}", hex::encode(hmac(secret.as_bytes(), &[time.as_bytes(), b".", body])))
}

/// Vibe's `X-Webhook-Signature`.
pub fn vibe(secret: &str, body: &[u8]) -> String {
    hex::encode(hmac(secret.as_bytes(), &[body]))
}

/// Standard Webhooks' `webhook-signature`, with the contract's reading of a secret.
pub fn standard(secret: &str, id: &str, unix_seconds: &str, body: &[u8]) -> String {
    let bare = secret.strip_prefix("whsec_").unwrap_or(secret);
    let decoded = STANDARD.decode(bare).ok().filter(|key| key.len() >= 24);
    let key = decoded.unwrap_or_else(|| bare.as_bytes().to_vec());
    let signature = hmac(&key, &[id.as_bytes(), b".", unix_seconds.as_bytes(), b".", body]);
    format!("v1,{}", STANDARD.encode(signature))
}

/// Vibe's signed requests: `X-Signature`.
pub fn vibe_request(secret_key: &str, method: &str, path: &str, body: &str, unix_seconds: u64) -> String {
    let time = unix_seconds.to_string();
    let parts = [method, path, body, &time].map(str::as_bytes);
    hex::encode(hmac(secret_key.as_bytes(), &parts))
}

#[test]
fn the_published_vectors_hold() {
    let zeros = "0".repeat(64);
    let lemon_vector = "t=0,v1=3523dcc0013f08dfa1855772441107330218793f399d7452bd3ff2159c6e0285";
    assert_eq!(lemon(&zeros, 0, b"{}"), lemon_vector);
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let signed = standard(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", br#"{"test": 2432232314}"#);
    assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
}
