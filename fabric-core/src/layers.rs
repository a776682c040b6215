//! The layers that come with Fabric, one file each.
//!
//! [`Layer`](crate::Layer) says how they stack and in which order.

mod batch;
mod circuit_breaker;
mod fault;
mod limit;
mod retry;
mod timeout;
mod way;

#[cfg(test)]
mod probe;

pub use batch::Batching;
pub use circuit_breaker::{CircuitBreaker, CircuitState};
pub use fault::{Fault, Faults};
pub use limit::Limit;
pub use retry::PublishRetry;
pub use timeout::Timeout;
