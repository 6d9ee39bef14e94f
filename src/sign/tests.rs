//! The published vectors, values from another implementation, rotation, and what must not verify.

use super::*;

const STANDARD_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const LEMON_SECRET: &str = "f09f8d8b2068747470733a2f2f6a6f62732e6c656d6f6e2e6d61726b6574732f";
const EVENT: &str = "evt_a8b11a37eccc49ecacb372e3a92a184d";
const AT: u64 = 1_688_049_630;

fn secret(text: &str) -> Secret {
    Secret::new(text.to_owned())
}

fn headers(dialect: Dialect, secrets: &[&str], id: &str, timestamp_s: u64, body: &str) -> HeaderMap {
    let secrets: Vec<_> = secrets.iter().map(|text| secret(text)).collect();
    let mut headers = HeaderMap::new();
    SigningKeys::new(dialect, &secrets).write_headers(&mut headers, id, timestamp_s, body.as_bytes(), 3).unwrap();
    headers
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers[name].to_str().unwrap()
}

#[test]
fn the_published_vector_of_lemon() {
    let headers = headers(Dialect::Lemon, &[&"0".repeat(64)], EVENT, 0, "{}");
    for name in ["LMG-Signature", "Lemon-Markets-Signature"] {
        let value = text(&headers, name);
        assert_eq!(value, "t=0,v1=3523dcc0013f08dfa1855772441107330218793f399d7452bd3ff2159c6e0285");
        assert_eq!(verify_lemon(&secret(&"0".repeat(64)), value, b"{}", 0, 0), Ok(()));
    }
}

#[test]
fn the_published_vector_of_standard_webhooks() {
    let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    let body = r#"{"test": 2432232314}"#;
    let headers = headers(Dialect::Omnia, &[STANDARD_SECRET], id, 1_614_265_330, body);
    let signature = text(&headers, "webhook-signature");
    assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    assert_eq!((text(&headers, "webhook-id"), text(&headers, "webhook-timestamp")), (id, "1614265330"));
    let bare = STANDARD_SECRET.strip_prefix("whsec_").unwrap();
    for text in [STANDARD_SECRET, bare] {
        let verified = verify_standard(&secret(text), id, "1614265330", signature, body.as_bytes(), 1_614_265_330, 0);
        assert_eq!(verified, Ok(()));
    }
}

/// Expected values from Python's `hmac` and `base64`, the seed's Flask receiver among them.
#[test]
fn values_from_another_implementation() {
    let lemon = headers(Dialect::Lemon, &[LEMON_SECRET], EVENT, AT, "{}");
    assert_eq!(text(&lemon, "webhook-signature"), "v1,Wxs2Oev9TRS93HsVi0bewJ83LFBzz3h4k3e8kwMfYc4=");
    let hex = "08b8a3972db48a9b190ff161d9a29a0e52565767c930286cedf6d3832351341e";
    assert_eq!(text(&lemon, "lmg-signature"), format!("t={AT},v1={hex}"));
    let own = headers(Dialect::Omnia, &["your_webhook_secret"], EVENT, AT, "{}");
    assert_eq!(text(&own, "webhook-signature"), "v1,9fPilzuZI082a1BJTwLYcBUz/gec9Vk4ofNLc+/4TBI=");
    let body = r#"{"event": "test", "data": {"message": "webhook test"}}"#;
    let vibe = headers(Dialect::Vibe, &["your_webhook_secret"], EVENT, AT, body);
    let expected = "30753fb97c613c6e3117470de068abf4a52b2f21d0e2f158e426234410e50b70";
    assert_eq!(text(&vibe, "x-webhook-signature"), expected);
}

#[test]
fn each_dialect_sends_its_own_headers_and_no_others() {
    let names = |dialect| {
        let headers = headers(dialect, &["a secret of ours"], EVENT, AT, "{}");
        assert_eq!((text(&headers, "webhook-id"), text(&headers, "webhook-attempt")), (EVENT, "3"));
        let mut names: Vec<_> =
            headers.keys().map(|name| name.as_str().to_owned()).filter(|name| !name.starts_with("webhook-")).collect();
        names.sort();
        (headers.len() - names.len(), names)
    };
    assert_eq!(names(Dialect::Lemon), (4, vec!["lemon-markets-signature".to_owned(), "lmg-signature".to_owned()]));
    assert_eq!(names(Dialect::Omnia), (4, vec![]));
    assert_eq!(names(Dialect::Vibe), (4, vec!["x-webhook-signature".to_owned()]));
    assert_eq!(names(Dialect::OneMetric), (4, vec!["x-webhook-token".to_owned()]));
}

#[test]
fn a_rotation_signs_with_both_and_newest_first_but_some_with_the_new_only() {
    let (new, old) = ("the newest secret", LEMON_SECRET);
    let alone = |dialect, one, name: &str| text(&headers(dialect, &[one], EVENT, AT, "{}"), name).to_owned();
    for dialect in [Dialect::Lemon, Dialect::Omnia, Dialect::Vibe, Dialect::OneMetric] {
        let both = headers(dialect, &[new, old], EVENT, AT, "{}");
        let parts = [new, old].map(|one| alone(dialect, one, "webhook-signature")).join(" ");
        assert_eq!(text(&both, "webhook-signature"), parts);
        for one in [new, old] {
            let now = AT + 5;
            let stamp = AT.to_string();
            assert_eq!(verify_standard(&secret(one), EVENT, &stamp, &parts, b"{}", now, 5), Ok(()));
        }
    }
    let lemon = headers(Dialect::Lemon, &[new, old], EVENT, AT, "{}");
    let value = text(&lemon, "lmg-signature");
    let second = alone(Dialect::Lemon, old, "lmg-signature");
    let expected = format!("{},{}", alone(Dialect::Lemon, new, "lmg-signature"), second.split_once(',').unwrap().1);
    assert_eq!((value, text(&lemon, "lemon-markets-signature")), (expected.as_str(), expected.as_str()));
    assert!([new, old].iter().all(|one| verify_lemon(&secret(one), value, b"{}", AT, 0).is_ok()));
    let vibe = headers(Dialect::Vibe, &[new, old], EVENT, AT, "{}");
    assert_eq!(text(&vibe, "x-webhook-signature"), alone(Dialect::Vibe, new, "x-webhook-signature"));
    let onemetric = headers(Dialect::OneMetric, &[new, old], EVENT, AT, "{}");
    assert_eq!(text(&onemetric, "x-webhook-token"), new);
    assert!(onemetric["x-webhook-token"].is_sensitive());
}

#[test]
fn writing_again_replaces_and_what_no_header_may_carry_is_an_error() {
    let keys = SigningKeys::new(Dialect::Lemon, &[secret("a secret of ours")]);
    let mut headers = HeaderMap::new();
    keys.write_headers(&mut headers, EVENT, AT, b"1", 1).unwrap();
    let first = headers.clone();
    keys.write_headers(&mut headers, EVENT, AT, b"2", 2).unwrap();
    assert_eq!(headers.len(), 6);
    assert_ne!(headers["lmg-signature"], first["lmg-signature"]);
    assert!(keys.write_headers(&mut headers, "evt\n", AT, b"", 1).is_err());
    let token = SigningKeys::new(Dialect::OneMetric, &[secret("line\nbreak")]);
    assert!(token.write_headers(&mut headers, EVENT, AT, b"", 1).is_err());
}

#[test]
fn which_secrets_are_valid() {
    let whsec = |bytes: usize| format!("whsec_{}", STANDARD.encode(vec![7; bytes]));
    for good in [
        STANDARD_SECRET,
        "12345678",
        &"ü".repeat(256),
        LEMON_SECRET,
        &whsec(24),
        &whsec(64),
        "with inner spaces",
        "your_webhook_secret",
    ] {
        assert_eq!(secret_valid(good), Ok(()), "{good}");
    }
    for bad in [
        "",
        "1234567",
        &"ü".repeat(257),
        "whsec_",
        "whsec_not base64 at all, is it?!",
        &whsec(23),
        &whsec(65),
        whsec(32).trim_end_matches('='),
        "line\nbreak",
        "nul\0nul\0",
        " leading",
    ] {
        assert!(secret_valid(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_text_that_is_no_base64_of_24_bytes_is_its_own_key() {
    let mac_with = |key_bytes: &[u8]| STANDARD.encode(standard_mac(&key(key_bytes), EVENT, "0", b"{}"));
    let long = STANDARD.encode([9; 25]);
    let stray_bits = long.replace("CQ==", "CR==");
    assert_ne!(stray_bits, long);
    for (text, key_bytes) in [
        ("a plain text", b"a plain text".as_slice()),
        ("whsec_a plain text", b"a plain text"),
        ("abcdefgh", b"abcdefgh"),
        ("MfKQ9r8GKYqrTwjUPD8ILPZIo2La", b"MfKQ9r8GKYqrTwjUPD8ILPZIo2La"),
        (long.as_str(), &[9; 25]),
        (stray_bits.as_str(), &[9; 25]),
        (long.trim_end_matches('='), long.trim_end_matches('=').as_bytes()),
        ("____________________________________", b"____________________________________"),
    ] {
        let headers = headers(Dialect::OneMetric, &[text], EVENT, 0, "{}");
        assert_eq!(self::text(&headers, "webhook-signature"), format!("v1,{}", mac_with(key_bytes)), "{text}");
    }
}

#[test]
fn what_does_not_verify() {
    let ours = secret("a secret of ours");
    let headers = headers(Dialect::Lemon, &[ours.expose()], EVENT, AT, "{}");
    let (lemon, standard) = (text(&headers, "lmg-signature"), text(&headers, "webhook-signature"));
    let stamp = AT.to_string();
    let check = |signature: &str, body: &[u8], now| verify_lemon(&ours, signature, body, now, 300);
    assert_eq!([check(lemon, b"{}", AT - 300), check(lemon, b"{}", AT + 300)], [Ok(()); 2]);
    assert_eq!(check(lemon, b"{}", AT + 301), Err(Refusal::OutOfTime));
    assert_eq!(check(lemon, b"{}", AT - 301), Err(Refusal::OutOfTime));
    assert_eq!(check(lemon, b"{ }", AT), Err(Refusal::Mismatch));
    assert_eq!(check(&lemon.to_uppercase().replace("T=", "t=").replace("V1", "v1"), b"{}", AT), Err(Refusal::Mismatch));
    assert_eq!(check(&lemon[..lemon.len() - 1], b"{}", AT), Err(Refusal::Mismatch));
    for malformed in ["", "t=", "t=1", "v1=00", "t=x,v1=00", "t=+1,v1=00", "t=-1,v1=00", "t=99999999999999999999,v1="] {
        assert_eq!(check(malformed, b"{}", AT), Err(Refusal::Malformed), "{malformed}");
    }
    let check = |id: &str, stamp: &str, signature: &str| verify_standard(&ours, id, stamp, signature, b"{}", AT, 300);
    assert_eq!(check(EVENT, &stamp, &format!("v1a,xyz v1,AAAA {standard}")), Ok(()));
    assert_eq!(check("evt_other", &stamp, standard), Err(Refusal::Mismatch));
    assert_eq!(check(EVENT, &(AT + 1).to_string(), standard), Err(Refusal::Mismatch));
    assert_eq!(check(EVENT, "0", standard), Err(Refusal::OutOfTime));
    assert_eq!(check(EVENT, "", standard), Err(Refusal::Malformed));
    assert_eq!(check(EVENT, &stamp, "v2,AAAA"), Err(Refusal::Malformed));
    let vibe = hex_mac(&vendor_key(&ours), &[b"{}"]);
    assert_eq!(verify_vibe(&ours, &vibe, b"{}"), Ok(()));
    assert_eq!(verify_vibe(&ours, &vibe, b"{} "), Err(Refusal::Mismatch));
    assert_eq!(verify_vibe(&ours, "", b"{}"), Err(Refusal::Mismatch));
}

#[test]
fn generated_secrets_are_valid_and_differ() {
    let entropy = Entropy::seeded(1);
    let (one, two) = (generate_secret(&entropy), generate_secret(&entropy));
    assert!(one != two && one.expose().len() == 64);
    assert!(one.expose().bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
    assert_eq!(secret_valid(one.expose()), Ok(()));
}
