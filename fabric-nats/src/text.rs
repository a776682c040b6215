//! Subjects that end in a number, written for each event.

/// `prefix` and `number`, in as many bytes as they take: what has room to spare would be moved once
/// more.
pub(crate) fn numbered(prefix: &str, number: u64) -> String {
    let digits = number.checked_ilog10().unwrap_or_default() as usize + 1;
    let mut text = String::with_capacity(prefix.len() + digits);
    text.push_str(prefix);
    let mut reversed = [0; 20];
    let mut left = number;
    for digit in &mut reversed[..digits] {
        *digit = b'0' + (left % 10) as u8;
        left /= 10;
    }
    text.extend(reversed[..digits].iter().rev().map(|digit| char::from(*digit)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_no_more_bytes_than_it_has() {
        for number in [0, 7, 10, 99, 100, 12_345, u64::MAX] {
            let text = numbered("_INBOX.x.", number);
            assert_eq!(text, format!("_INBOX.x.{number}"));
            assert_eq!(text.capacity(), text.len());
        }
    }
}
