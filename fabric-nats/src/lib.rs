#![doc = include_str!("../README.md")]

mod api;
mod auth;
mod backend;
mod care;
mod config;
mod connection;
mod error;
mod group;
mod hub;
mod layout;
mod live;
mod member;
mod presence;
mod publish;
mod pull;
mod purged;
mod replay;
mod request;
mod settle;
mod streams;
mod subscribe;
mod wire;

/// The client library, for what Fabric does not have.
pub use async_nats as client;
pub use backend::{Listener, Nats};
pub use config::{Discard, Mode, NatsConfig, Profile, SCHEMES, Storage, StreamRoots};
pub use wire::{Messages, raw_message};
