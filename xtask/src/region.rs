//! The parts of a Markdown file that are generated, between two comments.

use std::fmt::Write as _;

use crate::error::{Error, Result};

const CLOSE: &str = "<!-- /generated -->";

/// Replaces what stands in the region `name`, leaving all else as it is.
pub(crate) fn replace(text: &str, name: &str, content: &str) -> Result<String> {
    let open = format!("<!-- generated:{name} -->");
    let missing = |marker: &str| Error::new(format!("the marker `{marker}` is missing"));
    let (before, rest) = text.split_once(&open).ok_or_else(|| missing(&open))?;
    if rest.contains(&open) {
        return Err(Error::new(format!("the marker `{open}` stands there twice")));
    }
    let (inside, after) =
        rest.split_once(CLOSE).ok_or_else(|| missing(&format!("{CLOSE}` after `{open}")))?;
    if inside.contains("<!-- generated:") {
        return Err(missing(&format!("{CLOSE}` after `{open}")));
    }
    Ok(format!("{before}{open}\n\n{}\n\n{CLOSE}{after}", content.trim()))
}

/// The lines in which two texts differ, from the first difference to the last; `None` if none.
pub(crate) fn difference(old: &str, new: &str) -> Option<String> {
    if old == new {
        return None;
    }
    let (mut old, mut new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    while old.last().is_some() && old.last() == new.last() {
        old.pop();
        new.pop();
    }
    let same = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let mut text = format!("from line {}:\n", same + 1);
    let lines = old[same..].iter().map(|line| ('-', line));
    for (sign, line) in lines.chain(new[same..].iter().map(|line| ('+', line))) {
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "{sign} {line}");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Title\n\n<!-- generated:a -->\nold\n<!-- /generated -->\n\nbetween\n\
                        <!-- generated:b --><!-- /generated -->\nend\n";

    #[test]
    fn only_the_named_region_changes() {
        let once = replace(TEXT, "b", "| x |\n").unwrap();
        assert_eq!(
            once,
            "# Title\n\n<!-- generated:a -->\nold\n<!-- /generated -->\n\nbetween\n\
             <!-- generated:b -->\n\n| x |\n\n<!-- /generated -->\nend\n"
        );
        assert_eq!(replace(&once, "b", "| x |").unwrap(), once, "a second time changes nothing");
        assert!(!replace(TEXT, "a", "new").unwrap().contains("old"));
    }

    #[test]
    fn missing_and_doubled_markers_are_named() {
        for (text, part) in [
            ("nothing", "`<!-- generated:a -->` is missing"),
            ("<!-- generated:a -->", "`<!-- /generated -->` after"),
            ("<!-- generated:a --><!-- generated:b --><!-- /generated -->", "after"),
            ("<!-- generated:a --><!-- /generated --><!-- generated:a -->", "twice"),
        ] {
            let error = replace(text, "a", "x").expect_err(text).to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_difference_shows_the_changed_lines() {
        assert_eq!(difference("a\nb\n", "a\nb\n"), None);
        assert_eq!(
            difference("a\nb\nc", "a\nx\ny\nc").as_deref(),
            Some("from line 2:\n- b\n+ x\n+ y\n")
        );
        assert_eq!(difference("a\na\n", "a\n").as_deref(), Some("from line 1:\n- a\n"));
    }
}
