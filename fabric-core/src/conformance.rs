//! The conformance suite: what every backend has to show, whoever wrote it.
//!
//! It is public, so that backends outside this repository can run it, and **exempt from semantic
//! versioning**: cases are added and sharpened in any release.
//!
//! A backend writes a [`Harness`] and one line in `tests/conformance.rs`, which becomes one
//! `#[test]` per case:
//!
//! ```ignore
//! fabric_core::conformance!(MyHarness::new());
//! ```
//!
//! On virtual time, for a backend that does no I/O: `fabric_core::conformance!(paused, …)`. The crate
//! whose tests these are needs `fabric-core` with feature `conformance`, and nothing else.
//!
//! **Every case has two arms.** Where everything that it needs is claimed, the behaviour is asserted.
//! Where something is not claimed, the call that needs it has to be refused as `Unsupported`,
//! promptly and without effect. So nothing is skipped, and a lie in either direction fails. A case
//! that needs a [`Tool`] which cannot exist for a backend is listed with the reason, by
//! [`Harness::without`].
//!
//! **Verdicts come from a history**, not from counters: what was published with which of three
//! outcomes (accepted, refused, unknown), what was received by whom, and what became of it. [`Check`]
//! finds losses, duplicates, events from nowhere and broken order in it.
//!
//! **Time.** Nothing is asserted to be quick in real time, everything has a watchdog, and waiting is
//! done only where time itself is under test or where nothing must come.

mod actors;
pub mod cases;
mod chance;
mod check;
mod copies;
mod exporters;
mod failure;
mod harness;
mod history;
mod list;
mod load;
mod refusal;
mod run;
mod tamper;
mod trial;

pub use actors::{Crew, Draft, Publisher, Reader, same_content, same_event};
pub use check::{Check, Lost, Outcome, Swapped, Where};
pub use copies::Copies;
pub use failure::{Failure, Verdict, refused};
pub use harness::{
    BrokerCtl, Child, ChildCtl, ChildJob, DiskCtl, Fault, FaultCtl, Harness, Links, RightsCtl,
    Timing, Tool, Way,
};
pub use history::{History, Op, Record, Stage};
pub use list::cases;
pub use run::{Arm, Case, Clock, test};
pub use trial::Trial;

/// Makes one `#[test]` per case of the suite for a [`Harness`], which is made anew for each.
///
/// `conformance!(harness)` runs on real time, `conformance!(paused, harness)` on virtual time.
#[macro_export]
macro_rules! conformance {
    (paused, $harness:expr $(,)?) => {
        $crate::__conformance_list! { [$crate::__conformance_tests!] [Paused $harness] }
    };
    ($harness:expr $(,)?) => {
        $crate::__conformance_list! { [$crate::__conformance_tests!] [Real $harness] }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_tests {
    (
        [$clock:ident $harness:expr]
        $($id:literal $module:ident::$name:ident [$($ability:ident)*] [$($tool:ident)*];)*
    ) => {
        $(#[test]
        fn $name() {
            let clock = $crate::conformance::Clock::$clock;
            let test = concat!(module_path!(), "::", stringify!($name));
            $crate::conformance::test(clock, || $harness, test);
        })*
    };
}
