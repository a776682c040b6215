//! Event Fabric over Apache Kafka: a topic is a topic, a group settles its events one by one.

mod backend;
mod care;
mod config;
mod connection;
mod definition;
mod discovery;
mod error;
mod feed;
mod member;
mod names;
mod places;
mod progress;
mod publish;
mod record;
mod replay;
mod schedule;
mod settle;
mod subscribe;
mod sys;
mod watermark;

pub use backend::Kafka;
pub use config::{Compression, KafkaConfig, RetryMode, SCHEMES, Security};
/// The client library beneath, for what this crate has no word for.
pub use rdkafka as client;
