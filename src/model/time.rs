//! The forms in which a moment is written on the wire. Moments are microseconds since 1970-01-01 UTC.

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};

use crate::clock::Millis;

/// lemon's form: `2023-06-29T14:40:30.523373+00:00`, always six digits.
#[must_use]
pub fn lemon(us: u64) -> [u8; 32] {
    let at = Offset::UTC.to_datetime(timestamp(us));
    // Digit by digit and not by a format string: this is written twice for every event.
    let mut text = *b"0000-00-00T00:00:00.000000+00:00";
    digits(&mut text[..4], at.year().unsigned_abs().into());
    let parts = [at.month(), at.day(), at.hour(), at.minute(), at.second()];
    for (place, part) in [5, 8, 11, 14, 17].into_iter().zip(parts) {
        digits(&mut text[place..place + 2], part.unsigned_abs().into());
    }
    digits(&mut text[20..26], at.subsec_nanosecond().unsigned_abs() / 1_000);
    text
}

/// Fills a place with the last digits of a number.
fn digits(place: &mut [u8], mut number: u32) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Whole seconds, truncated, `Z`: `2024-01-15T10:30:00Z`.
#[must_use]
pub fn seconds_z(us: u64) -> String {
    zoned(us).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// OneMetric's form: `2024-10-01 10:20:00`, UTC.
#[must_use]
pub fn spaced(us: u64) -> String {
    zoned(us).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// Our own form for attempt and state times: milliseconds and `Z`.
#[must_use]
pub fn millis_z(ms: Millis) -> String {
    zoned(ms.saturating_mul(1_000)).strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

/// Reads an RFC 3339 moment from 1970 to 9999 (offset required). `None` for anything else.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    let moment: Timestamp = text.parse().ok()?;
    u64::try_from(moment.as_microsecond()).ok()
}

fn zoned(us: u64) -> jiff::Zoned {
    timestamp(us).to_zoned(TimeZone::UTC)
}

fn timestamp(us: u64) -> Timestamp {
    let us = i64::try_from(us).unwrap_or(i64::MAX);
    Timestamp::from_microsecond(us).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form() {
        let us = parse_rfc3339("2023-06-29T14:40:30.523373+00:00").unwrap();
        let lemon = |us| String::from_utf8(super::lemon(us).to_vec()).unwrap();
        assert_eq!(lemon(us), "2023-06-29T14:40:30.523373+00:00");
        assert_eq!(seconds_z(us), "2023-06-29T14:40:30Z");
        assert_eq!(spaced(us), "2023-06-29 14:40:30");
        assert_eq!(millis_z(us / 1_000), "2023-06-29T14:40:30.523Z");
        assert_eq!(lemon(parse_rfc3339("2024-01-15T10:30:01Z").unwrap()), "2024-01-15T10:30:01.000000+00:00");
        assert_eq!(lemon(1), "1970-01-01T00:00:00.000001+00:00");
        assert_eq!(lemon(u64::MAX), "9999-12-30T22:00:00.999999+00:00", "the last moment there is");
        for moment in ["2024-02-29T23:59:59.999999Z", "2099-12-31T00:00:00.000010Z"] {
            let us = parse_rfc3339(moment).unwrap();
            assert_eq!(parse_rfc3339(&lemon(us)), Some(us));
        }
        assert_eq!(parse_rfc3339("2024-01-15T12:30:01+02:00"), parse_rfc3339("2024-01-15T10:30:01Z"));
    }

    #[test]
    fn what_is_no_moment() {
        for bad in
            ["", "yesterday", "2024-01-15", "2024-01-15T10:30:01", "1969-12-31T23:59:59Z", "2024-13-01T00:00:00Z"]
        {
            assert_eq!(parse_rfc3339(bad), None, "{bad}");
        }
    }
}
