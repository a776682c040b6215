//! Extensions: CloudEvents attributes that Fabric has no field for, carried along.

use crate::headers::MAX_TOTAL_LEN;
use crate::text::clipped;
use crate::{Error, ErrorKind, Result};

/// The longest name of an extension in bytes.
const MAX_NAME_LEN: usize = 20;

/// The attributes that are fields of an event; whatever begins with `fabric` is Fabric's own.
const RESERVED: [&str; 16] = [
    "causationid",
    "correlationid",
    "data",
    "datacontenttype",
    "eventversion",
    "expirytime",
    "id",
    "partitionkey",
    "priority",
    "source",
    "specversion",
    "subject",
    "time",
    "traceparent",
    "tracestate",
    "type",
];

/// A map from name to text, in the order of the names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extensions(Vec<(Box<str>, Box<str>)>);

impl Extensions {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn insert(&mut self, name: &str, value: &str) -> Result<()> {
        check(name, value)?;
        let at = self.find(name);
        let replaced = at.map_or(0, |at| name.len() + self.0[at].1.len());
        let total = self.size() - replaced + name.len() + value.len();
        if total > MAX_TOTAL_LEN {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("the extensions take {total} bytes together, {MAX_TOTAL_LEN} are allowed"),
            )
            .with("extension", name));
        }
        match at {
            Ok(at) => self.0[at].1 = value.into(),
            Err(at) => self.0.insert(at, (name.into(), value.into())),
        }
        Ok(())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.find(name).ok().map(|at| &*self.0[at].1)
    }

    pub(crate) fn remove(&mut self, name: &str) -> Option<String> {
        self.find(name).ok().map(|at| self.0.remove(at).1.into())
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Bytes of all names and values together.
    pub(crate) fn size(&self) -> usize {
        self.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| (**known).cmp(name))
    }
}

fn check(name: &str, value: &str) -> Result<()> {
    let refuse = |what: String| Err(Error::new(ErrorKind::InvalidEvent, what));
    let shown = clipped(name, 80);
    if name.is_empty() || name.len() > MAX_NAME_LEN {
        let len = name.len();
        return refuse(format!(
            "the extension name {shown:?} has {len} bytes; 1 to {MAX_NAME_LEN} are allowed"
        ));
    }
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if let Some((at, c)) = name.char_indices().find(|(_, c)| !legal(*c)) {
        return refuse(format!(
            "the extension name {shown:?} holds {c:?} at byte {at}; `a` to `z` and digits are allowed"
        ));
    }
    if RESERVED.contains(&name) || name.starts_with("fabric") {
        return refuse(format!(
            "`{name}` is no extension: it is a field of the event, or Fabric's own"
        ));
    }
    if let Some((at, c)) = value.char_indices().find(|(_, c)| c.is_control()) {
        return refuse(format!(
            "the extension `{name}` holds the control character {c:?} at byte {at}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Event;

    #[test]
    fn bad_names_and_values_are_refused_and_named() {
        let long = "n".repeat(21);
        let bad = ["", "Upper", "with-dash", "ä", &long, "id", "data", "expirytime", "fabricx"];
        for name in bad {
            let error = Event::to("a").extension(name, "v").build().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidEvent, "{name}");
            assert!(error.message().contains(name), "{error}");
        }
        let error = Event::to("a").extension("dataref", "a\nb").build().unwrap_err();
        assert!(error.message().contains("`dataref`"), "{error}");
        let huge = "x".repeat(MAX_TOTAL_LEN);
        let error = Event::to("a").extension("dataref", huge).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
    }

    #[test]
    fn an_event_carries_them_in_the_order_of_their_names() {
        let event = Event::to("a").extension("sequence", "2").extension("dataref", "s3://b/k");
        let mut event = event.extension("sequence", "3").build().unwrap();
        assert_eq!(event.extension("sequence"), Some("3"));
        assert_eq!(event.extension("nothing"), None);
        let all: Vec<_> = event.extensions().collect();
        assert_eq!(all, [("dataref", "s3://b/k"), ("sequence", "3")]);
        assert_eq!(event.remove_extension("dataref").as_deref(), Some("s3://b/k"));
        assert_eq!(event.remove_extension("dataref"), None);
        event.set_extension("sequence", "").unwrap();
        assert_eq!(event.extension("sequence"), Some(""));
    }

    proptest! {
        #[test]
        fn any_text_is_kept_or_refused(name in "[a-z0-9]{0,22}|.{0,3}", value in ".{0,40}") {
            let mut extensions = Extensions::new();
            match extensions.insert(&name, &value) {
                Ok(()) => prop_assert_eq!(extensions.get(&name), Some(value.as_str())),
                Err(_) => prop_assert_eq!(extensions, Extensions::new()),
            }
        }
    }
}
