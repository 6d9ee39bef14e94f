//! What a receiver's answer means. Owns the bounds on what is read of it, the reading of `Retry-After`, and the excerpt that
//! an attempt keeps. Decides no retry: that is `retry`'s.

use std::time::UNIX_EPOCH;

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;

use crate::clock::{Clock, Millis};
use crate::limits::{EXCERPT_BYTES, RESPONSE_BYTES_MAX, RETRY_AFTER_MAX};
use crate::model::attempt::{Class, Failure};

/// How far a body was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// To its end: the connection can carry another exchange.
    Whole,
    /// To `RESPONSE_BYTES_MAX`, with more to come.
    Enough,
}

/// Reads a body as far as it is of interest; its first bytes go to `excerpt`.
pub(super) async fn read<B>(mut body: B, excerpt: &mut Vec<u8>) -> Result<Read, B::Error>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut read_bytes = 0;
    while !body.is_end_stream() {
        if read_bytes >= RESPONSE_BYTES_MAX {
            return Ok(Read::Enough);
        }
        let Some(frame) = body.frame().await else { break };
        if let Ok(data) = frame?.into_data() {
            read_bytes += data.len();
            let room = EXCERPT_BYTES - excerpt.len();
            excerpt.extend_from_slice(&data[..data.len().min(room)]);
        }
    }
    Ok(Read::Whole)
}

/// What a status says about the exchange; `None` for 2xx.
pub(super) fn status_failure(status: StatusCode) -> Option<Failure> {
    if status.is_success() {
        return None;
    }
    let number = status.as_u16();
    Some(if status.is_redirection() {
        Failure { class: Class::Redirect, detail: format!("status {number}: redirects are not followed") }
    } else {
        Failure { class: Class::Status, detail: format!("status {number}") }
    })
}

/// `Retry-After` (RFC 9110 §10.2.3) in milliseconds from now, at most `RETRY_AFTER_MAX`. Read from 429 and 503 only; what is
/// neither a number of seconds nor a date counts as absent.
pub(super) fn retry_after_ms(status: StatusCode, headers: &HeaderMap, clock: &Clock) -> Option<Millis> {
    if status != StatusCode::TOO_MANY_REQUESTS && status != StatusCode::SERVICE_UNAVAILABLE {
        return None;
    }
    let max_ms = Millis::try_from(RETRY_AFTER_MAX.as_millis()).unwrap_or(Millis::MAX);
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a number holds are still a number, beyond the cap.
        return Some(text.parse::<Millis>().map_or(max_ms, |seconds| seconds.saturating_mul(1_000)).min(max_ms));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    let at_ms =
        date.duration_since(UNIX_EPOCH).map_or(0, |since| Millis::try_from(since.as_millis()).unwrap_or(max_ms));
    Some(at_ms.saturating_sub(clock.wall_ms()).min(max_ms))
}

/// As much of a body as an attempt keeps.
pub(super) fn first(body: &[u8]) -> Vec<u8> {
    body[..body.len().min(EXCERPT_BYTES)].to_vec()
}

/// The first bytes of a body as people can read them: invalid UTF-8 and control characters become U+FFFD, line breaks and
/// tabs spaces. At most `EXCERPT_BYTES` long.
pub(super) fn printable(bytes: Vec<u8>) -> String {
    if bytes.iter().all(|byte| (b' '..=b'~').contains(byte)) {
        return String::from_utf8(bytes).unwrap_or_default();
    }
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.extend(chunk.valid().chars().map(|c| match c {
            '\t' | '\n' | '\r' => ' ',
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        }));
        if !chunk.invalid().is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    cut(text, EXCERPT_BYTES)
}

/// Shortens a text to `max` bytes, at a character's boundary.
pub(super) fn cut(mut text: String, max: usize) -> String {
    text.truncate(text.floor_char_boundary(max));
    text
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const DAY_MS: Millis = 24 * 3_600 * 1_000;

    fn read_from(status: u16, value: &[u8], now_ms: Millis) -> Option<Millis> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_bytes(value).unwrap());
        retry_after_ms(StatusCode::from_u16(status).unwrap(), &headers, &Clock::manual(now_ms))
    }

    #[test]
    fn retry_after_is_a_number_or_a_date_or_nothing() {
        let table: &[(&[u8], Option<Millis>)] = &[
            (b"0", Some(0)),
            (b"120", Some(120_000)),
            (b" 120 ", Some(120_000)),
            (b"86400", Some(DAY_MS)),
            (b"86401", Some(DAY_MS)),
            (b"99999999999999999999999999", Some(DAY_MS)),
            (b"-1", None),
            (b"+5", None),
            (b"1.5", None),
            (b"1e3", None),
            (b"", None),
            (b"soon", None),
            (b"\xff", None),
            (b"Sun, 06 Nov 1994 08:49:37 GMT", Some(7_000)),
            (b"Sunday, 06-Nov-94 08:49:37 GMT", Some(7_000)),
            (b"Sun Nov  6 08:49:37 1994", Some(7_000)),
            (b"Sun, 06 Nov 1994 08:49:29 GMT", Some(0)),
            (b"Sun, 06 Nov 2095 08:49:37 GMT", Some(DAY_MS)),
            (b"Sun, 99 Nov 1994 08:49:37 GMT", None),
        ];
        for (value, expected) in table {
            let shown = String::from_utf8_lossy(value);
            assert_eq!(read_from(429, value, 784_111_770_000), *expected, "{shown}");
            assert_eq!(read_from(503, value, 784_111_770_000), *expected, "{shown}");
            assert_eq!(read_from(500, value, 784_111_770_000), None, "{shown}");
        }
    }

    #[test]
    fn excerpts_are_printable_and_bounded() {
        assert_eq!(printable(Vec::new()), "");
        assert_eq!(printable(b"{\"ok\":\n\ttrue}".to_vec()), "{\"ok\":  true}");
        assert_eq!(printable("a\0b\x1b[31m\u{85}ü".into()), "a\u{fffd}b\u{fffd}[31m\u{fffd}ü");
        assert_eq!(printable(b"\xff\xfe".to_vec()), "\u{fffd}\u{fffd}");
        let long = printable(vec![0xff; EXCERPT_BYTES]);
        assert!(long.len() <= EXCERPT_BYTES && long.len() > EXCERPT_BYTES - 4);
    }
}
