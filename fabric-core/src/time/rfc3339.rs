//! RFC 3339 by hand, as it is written here and by most others: several times as fast as the library,
//! which reads what else there is.
//!
//! Source of the calendar: H. Hinnant, chrono-compatible low-level date algorithms.

use std::fmt;

use super::Timestamp;

/// Days from the beginning of the calendar, in March of the year 0, to 1970.
const TO_1970: u64 = 719_468;

impl Timestamp {
    /// Writes as many digits of a second as it takes. Times before 1970 are refused.
    pub(crate) fn write_rfc3339(self, out: &mut impl fmt::Write) -> fmt::Result {
        let nanos = u64::try_from(self.0).map_err(|_| fmt::Error)?;
        let (seconds, nanos) = (nanos / 1_000_000_000, (nanos % 1_000_000_000) as u32);
        let (days, second) = (seconds / 86_400, (seconds % 86_400) as u32);
        let (year, month, day) = civil(days);
        let mut text = *b"0000-00-00T00:00:00.000000000Z";
        digits(&mut text[..4], year);
        digits(&mut text[5..7], month);
        digits(&mut text[8..10], day);
        digits(&mut text[11..13], second / 3600);
        digits(&mut text[14..16], second / 60 % 60);
        digits(&mut text[17..19], second % 60);
        digits(&mut text[20..29], nanos);
        let mut end = 29;
        while text[end - 1] == b'0' {
            end -= 1;
        }
        // No digits, no point.
        if end == 20 {
            end = 19;
        }
        text[end] = b'Z';
        out.write_str(std::str::from_utf8(&text[..=end]).map_err(|_| fmt::Error)?)
    }

    /// Reads a time in UTC from 1970 on, with at most nine digits of a second; `None` for anything
    /// else, right or wrong.
    pub(super) fn read_usual(text: &str) -> Option<Self> {
        let (whole, rest) = text.as_bytes().split_at_checked(19)?;
        let marks = [whole[4], whole[7], whole[10], whole[13], whole[16]];
        let nanos = match rest {
            [b'Z'] => 0,
            [b'.', fraction @ .., b'Z'] if (1..=9).contains(&fraction.len()) => {
                number(fraction)? * 10_u32.pow(9 - fraction.len() as u32)
            }
            _ => return None,
        };
        let (year, month, day) =
            (number(&whole[..4])?, number(&whole[5..7])?, number(&whole[8..10])?);
        let (hour, minute, second) =
            (number(&whole[11..13])?, number(&whole[14..16])?, number(&whole[17..])?);
        // The last year that is there as a whole.
        let known = marks == *b"--T::"
            && (1970..=2261).contains(&year)
            && (1..=12).contains(&month)
            && (1..=days_of(year, month)).contains(&day)
            && hour < 24
            && minute < 60
            && second < 60;
        if !known {
            return None;
        }
        let seconds =
            days(year, month, day) * 86_400 + u64::from(hour * 3600 + minute * 60 + second);
        Some(Self((seconds * 1_000_000_000 + u64::from(nanos)) as i64))
    }
}

/// Writes `number` in decimal, right-aligned in what is all digits.
fn digits(text: &mut [u8], mut number: u32) {
    for digit in text.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// At most nine digits and nothing else.
fn number(text: &[u8]) -> Option<u32> {
    text.iter().try_fold(0, |number, byte| {
        byte.is_ascii_digit().then(|| number * 10 + u32::from(byte - b'0'))
    })
}

/// Year, month and day of a day since 1970: `civil_from_days`.
fn civil(days: u64) -> (u32, u32, u32) {
    let days = days + TO_1970;
    let (era, of_era) = (days / 146_097, (days % 146_097) as u32);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era as u32 * 400 + u32::from(month <= 2);
    (year, month, day)
}

/// The other way round: `days_from_civil`.
fn days(year: u32, month: u32, day: u32) -> u64 {
    let year = year - u32::from(month <= 2);
    let (era, year_of_era) = (year / 400, year % 400);
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * shifted + 2) / 5 + day - 1;
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
    u64::from(era) * 146_097 + u64::from(of_era) - TO_1970
}

fn days_of(year: u32, month: u32) -> u32 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// By the library alone.
    fn by_library(text: &str) -> Option<i64> {
        let time: jiff::Timestamp = text.parse().ok()?;
        i64::try_from(time.as_nanosecond()).ok()
    }

    #[test]
    fn what_is_not_usual_is_left_to_the_library() {
        for text in [
            "1969-12-31T23:59:59Z",
            "2262-01-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2100-02-29T00:00:00Z",
            "2026-04-31T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "2026-01-01T00:00:60Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00.1234567890Z",
            "2026-01-01T00:00:00+01:00",
            "2026-01-01 00:00:00Z",
            "2026-01-01t00:00:00z",
            "+026-01-01T00:00:00Z",
            "2026-01-01T00:00:00",
            "",
        ] {
            assert_eq!(Timestamp::read_usual(text), None, "{text}");
        }
    }

    #[test]
    fn every_day_is_read_as_it_was_written() {
        for day in 0..106_651_u64 {
            let time = Timestamp((day * 86_400_000_000_000) as i64);
            let mut text = String::new();
            time.write_rfc3339(&mut text).unwrap();
            assert_eq!(Timestamp::read_usual(&text), Some(time), "{text}");
        }
    }

    proptest! {
        #[test]
        fn it_reads_as_the_library_does(nanos in 0..9_214_646_400_000_000_000_i64, digits in 0..10_u32) {
            let step = 10_i64.pow(9 - digits);
            let time = Timestamp(nanos / step * step);
            let mut text = String::new();
            time.write_rfc3339(&mut text).unwrap();
            prop_assert_eq!(Timestamp::read_usual(&text), Some(time));
            prop_assert_eq!(by_library(&text), Some(time.0));
        }

        #[test]
        fn what_it_reads_the_library_reads_alike(
            text in "[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{1,10})?Z"
        ) {
            if let Some(time) = Timestamp::read_usual(&text) {
                prop_assert_eq!(by_library(&text), Some(time.0));
            }
        }
    }
}
