//! Durations and sizes as people write them: `"5 min"`, `"30d"`, `"64 MiB"`. Owns reading, writing and their serde forms.
//!
//! Invariant: what is written here reads back as the same value. A day has 24 hours. Leaves ranges to the schema.

use std::time::Duration;

use bytesize::ByteSize;
use jiff::{SignedDuration, Span, SpanRelativeTo};

const DAY_SECONDS: u64 = 24 * 3_600;

/// Reads a friendly duration; the error is a rule without the offending text.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "is not a duration such as \"5s\", \"5 min\", \"24h\" or \"30d\"";
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(format!("has no unit; write \"{text}s\" for seconds"));
    }
    let span: Span = text.parse().map_err(|_| EXPECTED.to_owned())?;
    if span.get_years() != 0 || span.get_months() != 0 {
        return Err("uses months or years, which have no fixed length; write days".to_owned());
    }
    let duration: SignedDuration =
        span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| EXPECTED.to_owned())?;
    Duration::try_from(duration).map_err(|_| "must not be negative".to_owned())
}

/// Writes a duration so that it reads back as itself: whole days from two on, otherwise hours and below.
pub(super) fn format_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if duration.subsec_nanos() == 0 && seconds > DAY_SECONDS && seconds.is_multiple_of(DAY_SECONDS) {
        return format!("{}d", seconds / DAY_SECONDS);
    }
    SignedDuration::try_from(duration).map_or_else(|_| format!("{seconds}s"), |duration| format!("{duration:#}"))
}

/// Reads a size such as `64 MiB` or `10 GB`; a bare number is bytes.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    match text.parse::<ByteSize>() {
        Ok(size) if text.starts_with(|first: char| first.is_ascii_digit()) => Ok(size.as_u64()),
        _ => Err("is not a size such as \"256 KiB\", \"64 MiB\" or \"10 GB\"".to_owned()),
    }
}

/// Writes a size exactly, in the largest binary unit that divides it.
pub(super) fn format_size(bytes: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = UNITS.iter().find(|(_, shift)| bytes != 0 && bytes.is_multiple_of(1 << shift));
    unit.map_or_else(|| format!("{bytes} B"), |(name, shift)| format!("{} {name}", bytes >> shift))
}

macro_rules! serde_as_text {
    ($module:ident, $option:ident, $type:ty, $parse:path, $format:path) => {
        pub(super) mod $module {
            use serde::{Deserialize, Deserializer, Serializer, de::Error};

            pub(crate) fn serialize<S: Serializer>(value: &$type, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&$format(*value))
            }

            pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<$type, D::Error> {
                $parse(&String::deserialize(from)?).map_err(D::Error::custom)
            }
        }

        pub(super) mod $option {
            use serde::{Deserialize, Deserializer, Serializer, de::Error};

            pub(crate) fn serialize<S: Serializer>(value: &Option<$type>, to: S) -> Result<S::Ok, S::Error> {
                match value {
                    Some(value) => to.serialize_str(&$format(*value)),
                    None => to.serialize_none(),
                }
            }

            pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<$type>, D::Error> {
                let text = Option::<String>::deserialize(from)?;
                text.map(|text| $parse(&text).map_err(D::Error::custom)).transpose()
            }
        }
    };
}

serde_as_text!(duration, duration_option, std::time::Duration, super::parse_duration, super::format_duration);
serde_as_text!(size, size_option, u64, super::parse_size, super::format_size);

pub(super) mod durations {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(value: &[Duration], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(value.iter().map(|duration| super::format_duration(*duration)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Duration>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        texts.iter().map(|text| super::parse_duration(text).map_err(D::Error::custom)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        for (text, seconds) in [
            ("5s", 5),
            ("5 min", 300),
            ("5m", 300),
            ("1h 30m", 5_400),
            ("24h", 86_400),
            ("30d", 2_592_000),
            ("2w", 1_209_600),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse_duration("250 ms"), Ok(Duration::from_millis(250)));
        for (text, part) in [
            ("10", "no unit"),
            ("", "not a duration"),
            ("-5s", "negative"),
            ("2mo", "no fixed length"),
            ("soon", "not a"),
        ] {
            let error = parse_duration(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn sizes_read_as_people_write_them() {
        for (text, bytes) in [("64 MiB", 64 << 20), ("256KiB", 256 << 10), ("10 GB", 10_000_000_000), ("17", 17)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "-1 KiB", "5 apples", ".5 GiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for millis in [1, 250, 1_000, 90_000, 300_000, 86_400_000, 90_000_000, 172_800_000, 2_592_000_000] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }
        assert_eq!(format_duration(Duration::from_secs(30 * DAY_SECONDS)), "30d");
        assert_eq!(format_duration(Duration::from_secs(DAY_SECONDS)), "24h");
        for bytes in [0, 1, 1_000_001, 1 << 10, 64 << 20, 3 << 40, u64::MAX] {
            assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }
        assert_eq!(format_size(64 << 20), "64 MiB");
    }
}
