//! The conformance suite on memory: every case, on virtual time, without and with a window in which
//! duplicates are recognised.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod harness;

mod by_default {
    use super::harness::MemoryHarness;

    fabric_core::conformance!(paused, MemoryHarness::new());
}

mod deduplicating {
    use super::harness::MemoryHarness;

    fabric_core::conformance!(paused, MemoryHarness::deduplicating());
}
