//! The conformance suite on a real broker: with topics of one partition, whose events keep their
//! order, and with topics of several, whose events keep it by key.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

#[path = "conformance/harness.rs"]
mod harness;

mod by_default {
    use super::harness::KafkaHarness;

    fabric_core::conformance!(KafkaHarness::new());
}

mod partitioned {
    use super::harness::KafkaHarness;

    fabric_core::conformance!(KafkaHarness::partitioned());
}
