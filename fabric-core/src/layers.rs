//! The layers that come with Fabric, one file each.
//!
//! [`Layer`](crate::Layer) says how they stack and in which order.

mod batch;
mod circuit_breaker;
mod fault;
mod hooks;
mod limit;
#[cfg(feature = "metrics")]
mod metrics;
mod retry;
#[cfg(any(feature = "metrics", feature = "tracing"))]
pub(crate) mod semconv;
mod timeout;
#[cfg(feature = "tracing")]
mod tracing;
pub(crate) mod way;

#[cfg(test)]
mod probe;

pub use batch::Batching;
pub use circuit_breaker::{CircuitBreaker, CircuitState};
pub use fault::{Fault, Faults};
pub use hooks::{Hooks, hooks};
pub use limit::Limit;
#[cfg(feature = "metrics")]
pub use metrics::Metrics;
pub use retry::PublishRetry;
pub use timeout::Timeout;
#[cfg(feature = "tracing")]
pub use tracing::Tracing;
