//! Durations, as `fabric_core::parse_duration` reads them: the usual forms, which suffice here.

use std::time::Duration;

pub(crate) const EXPECTED: &str = "a duration, such as `250ms`, `5s`, `10m`, `1h 30m` or `7d`";

/// Reads whole numbers with their units, the larger unit first.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = 0_u64;
    let mut units = UNITS.iter();
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        // Each unit once and in order: what was passed over is gone.
        let (_, millis) = units.by_ref().find(|(unit, _)| *unit == &rest[..end])?;
        total = total.checked_add(number.checked_mul(*millis)?)?;
        rest = &rest[end..];
        if rest.is_empty() {
            return Some(Duration::from_millis(total));
        }
        rest = rest.strip_prefix(' ').unwrap_or(rest);
    }
}

/// Units in milliseconds.
const UNITS: [(&str, u64); 6] = [
    ("w", 604_800_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_reads_the_same() {
        for text in [
            "250ms",
            "5s",
            "10m",
            "1h 30m",
            "1h30m",
            "7d",
            "2w",
            "1w 2d 3h 4m 5s 6ms",
            "0s",
            "90m",
            "007s",
        ] {
            let own = parse(text).unwrap_or_else(|| panic!("{text} is refused"));
            assert_eq!(own, fabric_core::parse_duration(text).unwrap(), "{text}");
        }
    }

    #[test]
    fn the_rest_is_refused() {
        for text in [
            "",
            "5",
            "s",
            "5x",
            "5 s",
            "-5s",
            "1m 1h",
            "1h 1h",
            "1h  1m",
            "1h ",
            " 1h",
            "1.5s",
            "1mo",
            "1M",
            "PT1H",
            "99999999999999999999s",
            "18446744073709551615w",
            "5µs",
            "१s",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
