#![doc = include_str!("../README.md")]

mod api;
mod asking;
mod auth;
mod backend;
mod care;
mod clock;
mod config;
mod confirm;
mod connection;
mod draft;
mod error;
mod group;
mod hub;
mod layout;
mod lease;
mod line;
mod live;
mod member;
mod overrun;
mod presence;
mod publish;
mod pull;
mod purged;
mod read;
mod replay;
mod request;
mod seen;
mod settle;
mod streams;
mod subscribe;
mod target;
mod text;
mod wire;

/// The client library, for what Fabric does not have.
pub use async_nats as client;
pub use backend::{Listener, Nats};
pub use config::{Discard, Mode, NatsConfig, Profile, SCHEMES, Storage, StreamRoots};
pub use wire::{Messages, raw_message};
