//! The cases, one behaviour each, by the letter of their ids.
//!
//! A case asserts what the contract says; it runs only where everything it needs is claimed.

#![expect(
    clippy::missing_errors_doc,
    reason = "every case fails with what did not hold, and nothing else"
)]

pub mod batches;
pub mod care;
pub mod consumers;
pub mod dead_letters;
pub mod definitions;
pub mod faults;
pub mod groups;
pub mod health;
pub mod lifecycle;
pub mod nemesis;
pub mod order;
pub mod overflow;
pub mod patterns;
pub mod publishing;
pub mod replay;
pub mod requests;
pub mod round_trip;
pub mod settlement;
pub mod starts;
pub mod telemetry;
pub mod timing;
