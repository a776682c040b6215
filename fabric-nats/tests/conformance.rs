//! The conformance suite on a real server: JetStream, and NATS alone.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod harness;

mod jetstream {
    use super::harness::NatsHarness;

    fabric_core::conformance!(NatsHarness::jetstream());
}

mod core_nats {
    use super::harness::NatsHarness;

    fabric_core::conformance!(NatsHarness::core());
}

mod least_rights {
    use super::harness::NatsHarness;

    fabric_core::conformance!(NatsHarness::least_rights());
}
