//! Durations and sizes as people write them.

use std::time::Duration;

use jiff::{Span, SpanRelativeTo};

use crate::{Error, ErrorKind, Result};

/// Reads a duration: `250ms`, `5s`, `1h 30m`, `7d`, `2 weeks` or ISO 8601 (`PT1H30M`).
///
/// A day is 24 hours and a week seven days. A number always needs its unit.
///
/// ```
/// use std::time::Duration;
///
/// assert_eq!(fabric_core::parse_duration("1h 30m")?, Duration::from_secs(90 * 60));
/// assert_eq!(fabric_core::parse_duration("PT0.25S")?, Duration::from_millis(250));
/// assert!(fabric_core::parse_duration("5").is_err());
/// # Ok::<(), fabric_core::Error>(())
/// ```
///
/// # Errors
///
/// [`ErrorKind::Config`] for what is no duration, is negative, or counts in months or years, which
/// have no fixed length.
pub fn parse_duration(text: &str) -> Result<Duration> {
    duration(text).map_err(|expected| refused(text, &expected))
}

/// Reads a size in bytes: `1048576`, `64MiB`, `1kB`, `2 GiB`.
///
/// `kB`, `MB`, `GB`, `TB` and `PB` count in thousands, `KiB`, `MiB`, `GiB`, `TiB` and `PiB` in 1024s;
/// `B` and nothing at all are bytes. Upper and lower case are the same.
///
/// ```
/// assert_eq!(fabric_core::parse_bytes("64MiB")?, 64 * 1024 * 1024);
/// assert_eq!(fabric_core::parse_bytes("1 kB")?, 1000);
/// assert!(fabric_core::parse_bytes("64M").is_err(), "MB or MiB?");
/// # Ok::<(), fabric_core::Error>(())
/// ```
///
/// # Errors
///
/// [`ErrorKind::Config`] for what is no whole number with one of these units, and for what exceeds
/// 64 bits.
pub fn parse_bytes(text: &str) -> Result<u64> {
    bytes(text).map_err(|expected| refused(text, &expected))
}

fn refused(text: &str, expected: &str) -> Error {
    Error::new(ErrorKind::Config, format!("`{text}` is refused: expected {expected}"))
}

/// The duration, or what was expected instead.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    const EXAMPLES: &str =
        "a duration with its unit, such as `250ms`, `5s`, `1h 30m`, `7d` or `PT1H30M`";
    let span: Span = text.parse().map_err(|_| EXAMPLES.to_owned())?;
    let signed = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| format!("{EXAMPLES}; months and years have no fixed length"))?;
    Duration::try_from(signed).map_err(|_| format!("{EXAMPLES}; it cannot be negative"))
}

/// The number of bytes, or what was expected instead.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    const EXAMPLES: &str = "a size in bytes, such as `1048576`, `64MiB` or `1kB`";
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    if digits.is_empty() {
        return Err(EXAMPLES.to_owned());
    }
    let Some(factor) = factor(unit.trim_start_matches(' ')) else {
        return Err(format!(
            "{EXAMPLES}: a whole number and one of B, kB, MB, GB, TB, PB, KiB, MiB, GiB, TiB, PiB"
        ));
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(|| format!("{EXAMPLES}, of at most {} bytes", u64::MAX))
}

fn factor(unit: &str) -> Option<u64> {
    Some(match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "mb" => 1000_u64.pow(2),
        "gb" => 1000_u64.pow(3),
        "tb" => 1000_u64.pow(4),
        "pb" => 1000_u64.pow(5),
        "kib" => 1024,
        "mib" => 1024_u64.pow(2),
        "gib" => 1024_u64.pow(3),
        "tib" => 1024_u64.pow(4),
        "pib" => 1024_u64.pow(5),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use jiff::fmt::friendly::SpanPrinter;
    use proptest::prelude::*;

    use super::*;

    const UNITS: [(&str, u64); 11] = [
        ("", 1),
        ("B", 1),
        ("kB", 1000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("PB", 1_000_000_000_000_000),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("PiB", 1 << 50),
    ];

    #[test]
    fn durations_are_read() {
        for (text, millis) in [
            ("0s", 0),
            ("250ms", 250),
            ("5s", 5_000),
            ("5 seconds", 5_000),
            ("1.5s", 1_500),
            ("1h 30m", 5_400_000),
            ("1h30m", 5_400_000),
            ("1h, 30m", 5_400_000),
            ("7d", 7 * 86_400_000),
            ("2w", 14 * 86_400_000),
            ("PT1H30M", 5_400_000),
            ("P1DT1S", 86_401_000),
            ("PT0.25S", 250),
        ] {
            assert_eq!(parse_duration(text).unwrap(), Duration::from_millis(millis), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_the_reason() {
        for (text, piece) in [
            ("", "expected a duration with its unit"),
            ("5", "such as `250ms`, `5s`, `1h 30m`, `7d` or `PT1H30M`"),
            ("s", "a duration with its unit"),
            ("five seconds", "`five seconds` is refused"),
            ("1h 1h", "a duration with its unit"),
            ("99999999999999999999s", "a duration with its unit"),
            ("-5s", "it cannot be negative"),
            ("5s ago", "it cannot be negative"),
            ("-PT5S", "it cannot be negative"),
            ("1 month", "months and years have no fixed length"),
            ("P1Y", "months and years have no fixed length"),
        ] {
            let error = parse_duration(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(piece), "{text}: {error}");
        }
    }

    #[test]
    fn sizes_are_read() {
        for (text, size) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("64MiB", 64 << 20),
            ("64mib", 64 << 20),
            ("1kB", 1000),
            ("1 KB", 1000),
            ("12 B", 12),
            ("3TiB", 3 << 40),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_bytes(text).unwrap(), size, "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_the_reason() {
        for (text, piece) in [
            ("", "expected a size in bytes, such as `1048576`, `64MiB` or `1kB`"),
            ("-1", "a size in bytes"),
            ("+1", "a size in bytes"),
            ("MiB", "a size in bytes"),
            ("64M", "one of B, kB, MB"),
            ("1.5GiB", "a whole number and one of"),
            ("1 0", "a whole number and one of"),
            ("1kB ", "a whole number and one of"),
            ("18446744073709551616", "at most 18446744073709551615 bytes"),
            ("16384PiB", "at most 18446744073709551615 bytes"),
        ] {
            let error = parse_bytes(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(piece), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn a_printed_duration_reads_back(seconds in 0..1_000_000_000_u64, nanos in 0..1_000_000_000_u32) {
            let duration = Duration::new(seconds, nanos);
            let printed = SpanPrinter::new().unsigned_duration_to_string(&duration);
            prop_assert_eq!(parse_duration(&printed).unwrap(), duration);
        }

        #[test]
        fn a_size_is_its_number_times_its_unit(number: u64, shift in 0..64_u32, unit in 0..UNITS.len()) {
            let (number, (unit, factor)) = (number >> shift, UNITS[unit]);
            prop_assert_eq!(parse_bytes(&format!("{number}{unit}")).ok(), number.checked_mul(factor));
        }

        #[test]
        fn any_text_is_read_or_refused(text in any::<String>()) {
            let _ = parse_duration(&text);
            let _ = parse_bytes(&text);
        }

        #[test]
        fn text_close_to_a_value_is_read_or_refused(text in "-?[0-9]{0,22}[.]?[0-9]{0,2} ?[PTYMWDHSkmgibsh ]{0,4}") {
            let _ = parse_duration(&text);
            let _ = parse_bytes(&text);
        }
    }
}
