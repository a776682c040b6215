//! Pieces of text for messages.

/// The longest start of `text` with at most `max` bytes that ends between two characters.
pub(crate) fn clipped(text: &str, max: usize) -> &str {
    let fits = |end: &usize| text.is_char_boundary(*end);
    let end = (0..=max.min(text.len())).rev().find(fits).unwrap_or_default();
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_between_characters() {
        for (text, max, cut) in
            [("", 3, ""), ("abc", 3, "abc"), ("abcd", 3, "abc"), ("aé", 2, "a"), ("é", 0, "")]
        {
            assert_eq!(clipped(text, max), cut);
        }
    }
}
