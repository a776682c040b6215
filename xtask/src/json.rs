//! Joining JSON arrays as text: the records themselves are not looked at.

use crate::error::{Error, Result};

/// One array with the elements of all.
pub(crate) fn concat_arrays(arrays: &[String]) -> Result<String> {
    let mut elements = Vec::new();
    for array in arrays {
        let inner = array.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let inner =
            inner.ok_or_else(|| Error::new("a bench wrote something that is no JSON array"))?;
        let inner = inner.trim_matches(['\n', '\r']).trim_end();
        if !inner.trim().is_empty() {
            elements.push(inner);
        }
    }
    Ok(format!("[\n{}\n]\n", elements.join(",\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn concat(arrays: &[&str]) -> Result<String> {
        concat_arrays(&arrays.iter().map(|&array| array.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn elements_of_all_arrays_are_kept_in_order() {
        assert_eq!(
            concat(&["[{\"a\":[1]}]", "[\n  2,\n  3\n]\n"]),
            Ok("[\n{\"a\":[1]},\n  2,\n  3\n]\n".to_owned())
        );
    }

    #[test]
    fn empty_arrays_leave_no_comma() {
        assert_eq!(concat(&["[]", "[1]", "[ ]"]), Ok("[\n1\n]\n".to_owned()));
        assert_eq!(concat(&[]), Ok("[\n\n]\n".to_owned()));
    }

    #[test]
    fn anything_else_is_refused() {
        assert!(concat(&["{}"]).is_err());
        assert!(concat(&["[1"]).is_err());
        assert!(concat(&[""]).is_err());
    }
}
