//! The conformance suite over ZeroMQ: through a broker of this crate, and without one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod support;

mod brokered {
    use super::support::Brokered;

    fabric_core::conformance!(Brokered::fragile());
}

mod peers {
    use super::support::Peers;

    fabric_core::conformance!(Peers::new());
}
