//! What a case says where the contract does not hold.

use std::fmt;
use std::panic::Location;

use crate::delivery::SettleError;
use crate::{Error, ErrorKind, Result};

/// The outcome of a case, or of one step of it.
pub type Verdict<T = ()> = Result<T, Failure>;

/// What went wrong, and where in the suite it was noticed.
pub struct Failure {
    what: String,
    at: &'static Location<'static>,
}

impl Failure {
    /// A failure that was noticed by the caller.
    #[must_use]
    #[track_caller]
    pub fn new(what: impl Into<String>) -> Self {
        Self::at(what, Location::caller())
    }

    pub(crate) fn at(what: impl Into<String>, at: &'static Location<'static>) -> Self {
        Self { what: what.into(), at }
    }

    /// The same, noticed on behalf of somebody else.
    pub(crate) const fn seen_at(mut self, at: &'static Location<'static>) -> Self {
        self.at = at;
        self
    }

    /// The same with what came before it.
    #[must_use]
    pub fn after(mut self, before: impl fmt::Display) -> Self {
        self.what = format!("{before}: {}", self.what);
        self
    }
}

impl From<Error> for Failure {
    #[track_caller]
    fn from(error: Error) -> Self {
        Self::new(format!("an unexpected error: {error:#} ({})", error.kind()))
    }
}

impl<D> From<SettleError<D>> for Failure {
    #[track_caller]
    fn from(failed: SettleError<D>) -> Self {
        Self::from(failed.error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  at {}", self.what, self.at)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Failure {}

/// The error of `result`, which has to be of `kind`.
///
/// # Errors
/// If it is `Ok` or of another kind.
#[track_caller]
pub fn refused<T, E: Into<Error>>(result: Result<T, E>, kind: ErrorKind) -> Verdict<Error> {
    match result.map_err(Into::into) {
        Err(error) if error.kind() == kind => Ok(error),
        Err(error) => {
            Err(Failure::new(format!("`{kind}` was expected, not `{}`: {error:#}", error.kind())))
        }
        Ok(_) => Err(Failure::new(format!("`{kind}` was expected, and it went well"))),
    }
}

/// Fails unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($what:tt)+) => {
        if !$condition {
            return Err($crate::conformance::Failure::new(format!($($what)+)));
        }
    };
}

/// Fails unless both are equal, and shows them.
macro_rules! ensure_eq {
    ($left:expr, $right:expr, $($what:tt)+) => {{
        match (&$left, &$right) {
            (left, right) if *left == *right => {}
            (left, right) => {
                return Err($crate::conformance::Failure::new(format!(
                    "{}: {left:?}, where {right:?} was expected",
                    format_args!($($what)+)
                )));
            }
        }
    }};
}

pub(crate) use {ensure, ensure_eq};
