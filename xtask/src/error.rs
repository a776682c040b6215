//! The one error of this program: a sentence for the person who ran it.

use std::fmt;

pub(crate) type Result<T> = std::result::Result<T, Error>;

/// What failed, where, and what to do about it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Error(String);

impl Error {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
