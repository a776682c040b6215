//! The layers that come with Fabric, one file each.
//!
//! [`Layer`](crate::Layer) says how they stack and in which order.

mod hooks;

pub use hooks::{Hooks, hooks};
