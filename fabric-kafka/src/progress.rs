//! How far a group is in one partition, in what a commit has room for.
//!
//! `f1:` and base64 of: origin, how far was read, a bitmap of what was settled above the watermark,
//! and how often what is open was tried; numbers as varints.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;

/// What a broker takes as the metadata of a commit by default.
const MAX_TEXT: usize = 4095;
/// How many offsets above the watermark the bitmap tells about.
pub(crate) const MAX_SPAN: u64 = 16_384;
/// What is left for tries beside the bitmap and the numbers before it.
const MAX_TRIES_BYTES: usize = 900;
const FORMAT: &str = "f1:";

/// How far a group is in one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The revision of the group's definition at which its place was last set.
    pub(crate) origin: u64,
    /// Everything below is settled.
    pub(crate) watermark: i64,
    /// The next offset that a member would read.
    pub(crate) next: i64,
    /// What is settled from the watermark on, in order.
    pub(crate) settled: Vec<i64>,
    /// How often what is open was tried, in order.
    pub(crate) tries: Vec<(i64, u32)>,
}

impl Progress {
    /// At `watermark`, with nothing else to know.
    pub(crate) const fn at(origin: u64, watermark: i64) -> Self {
        Self { origin, watermark, next: watermark, settled: Vec::new(), tries: Vec::new() }
    }

    /// How many events members hold or have tried.
    pub(crate) fn pending(&self) -> u64 {
        let read = self.next.saturating_sub(self.watermark).max(0).unsigned_abs();
        let settled = self.settled.iter().filter(|offset| **offset < self.next).count();
        read.saturating_sub(settled as u64)
    }

    /// As the metadata of a commit. What does not fit is left out: it may be repeated then.
    pub(crate) fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(64);
        put(&mut bytes, self.origin);
        put(&mut bytes, self.next.saturating_sub(self.watermark).max(0).unsigned_abs());
        let above = |offset: i64| u64::try_from(offset - self.watermark).ok();
        let mut bitmap = Vec::new();
        for at in self.settled.iter().filter_map(|offset| above(*offset)) {
            if at < MAX_SPAN {
                let (byte, bit) = ((at / 8) as usize, at % 8);
                if bitmap.len() <= byte {
                    bitmap.resize(byte + 1, 0u8);
                }
                bitmap[byte] |= 1 << bit;
            }
        }
        put(&mut bytes, bitmap.len() as u64);
        bytes.extend_from_slice(&bitmap);
        let before = bytes.len();
        let mut last = 0;
        for (offset, tries) in &self.tries {
            let Some(at) = above(*offset) else { continue };
            if bytes.len() - before > MAX_TRIES_BYTES {
                break;
            }
            put(&mut bytes, at - last);
            put(&mut bytes, u64::from(*tries));
            last = at;
        }
        let text = format!("{FORMAT}{}", BASE64.encode(bytes));
        debug_assert!(text.len() <= MAX_TEXT, "{} bytes of metadata", text.len());
        text
    }

    /// What a commit at `watermark` says; none where its metadata is not of this format.
    pub(crate) fn decode(watermark: i64, text: &str) -> Option<Self> {
        let bytes = BASE64.decode(text.strip_prefix(FORMAT)?).ok()?;
        let mut rest = bytes.as_slice();
        let origin = take(&mut rest)?;
        let next = watermark.checked_add(i64::try_from(take(&mut rest)?).ok()?)?;
        let len = usize::try_from(take(&mut rest)?).ok()?;
        let (bitmap, mut rest) = rest.split_at_checked(len)?;
        let mut settled = Vec::new();
        for (byte, bits) in bitmap.iter().enumerate() {
            let set = (0..8).filter(|bit| bits & (1 << bit) != 0);
            settled.extend(set.map(|bit| watermark + byte as i64 * 8 + bit));
        }
        let (mut tries, mut last) = (Vec::new(), watermark);
        while !rest.is_empty() {
            last = last.checked_add(i64::try_from(take(&mut rest)?).ok()?)?;
            tries.push((last, u32::try_from(take(&mut rest)?).ok()?));
        }
        Some(Self { origin, watermark, next, settled, tries })
    }
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_format_is_written_down_for_good() {
        let progress = Progress {
            origin: 300,
            watermark: 1000,
            next: 1012,
            settled: vec![1001, 1003, 1010],
            tries: vec![(1000, 2), (1004, 1)],
        };
        let text = "f1:rAIMAgoEAAIEAQ";
        assert_eq!(progress.encode(), text);
        assert_eq!(Progress::decode(1000, text), Some(progress.clone()));
        assert_eq!(progress.pending(), 9);
        for other in ["", "f2:rAIMAgoEAAIEAQ", "f1:rAIMAgo", "f1:!", "somebody else's"] {
            assert_eq!(Progress::decode(1000, other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_settled_fits(
            watermark in 0..i64::MAX / 2,
            settled in prop::collection::btree_set(1..20_000i64, 0..20_000),
            tries in prop::collection::btree_map(0..20_000i64, 1..u32::MAX, 0..2_000),
        ) {
            let progress = Progress {
                origin: u64::MAX,
                watermark,
                next: watermark + 20_000,
                settled: settled.iter().map(|at| watermark + at).collect(),
                tries: tries.iter().map(|(at, tries)| (watermark + at, *tries)).collect(),
            };
            let text = progress.encode();
            prop_assert!(text.len() <= MAX_TEXT, "{}", text.len());
            let read = Progress::decode(watermark, &text).unwrap();
            let told = |at: &i64| (*at as u64) < MAX_SPAN;
            prop_assert_eq!(
                read.settled,
                settled.iter().filter(|at| told(at)).map(|at| watermark + at).collect::<Vec<_>>()
            );
            prop_assert!(progress.tries.starts_with(&read.tries));
        }

        #[test]
        fn any_text_is_read_without_a_panic(watermark: i64, text in "(f1:)?[A-Za-z0-9+/]{0,40}") {
            let _ = Progress::decode(watermark, &text);
        }
    }
}
