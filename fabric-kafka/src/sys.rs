//! What the client library has and its Rust bindings do not show: the only module with `unsafe`.
#![allow(unsafe_code, reason = "four calls into librdkafka that its bindings leave out")]

mod commit;
mod describe;
mod joined;
mod status;

pub(crate) use commit::commit;
pub(crate) use describe::{Described, describe_topics};
pub(crate) use joined::has_joined;
pub(crate) use status::{Persisted, persisted};
