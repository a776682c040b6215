//! The conformance suite on memory: every case, on virtual time, without and with a window in which
//! duplicates are recognised.

mod harness;

mod by_default {
    use super::harness::MemoryHarness;

    fabric_core::conformance!(paused, MemoryHarness::new());
}

mod deduplicating {
    use super::harness::MemoryHarness;

    fabric_core::conformance!(paused, MemoryHarness::deduplicating());
}
