//! The contract of Event Fabric: events, topics, the backend trait, layers.
//!
//! Users take the crate `fabric`, which re-exports all of this; backends and layers build on this
//! crate alone.

mod backend;
mod batch;
mod capabilities;
mod chunk;
#[cfg(feature = "json")]
pub mod cloudevents;
pub mod codec;
#[cfg(feature = "config")]
mod config;
mod consumer;
mod dead_letter;
mod delivery;
#[cfg(feature = "derive")]
mod derived;
mod dsn;
mod error;
mod event;
mod fabric;
mod group;
mod headers;
mod health;
mod id;
mod info;
#[cfg(feature = "json")]
pub mod jsonl;
mod layer;
pub mod lease;
mod name;
mod notice;
mod options;
mod pattern;
mod patterns;
mod payload;
mod position;
mod prefix;
mod remembered;
mod request;
mod secret;
mod setters;
mod stats;
mod subscription;
#[cfg(feature = "testing")]
pub mod testing;
mod text;
mod time;
mod topic;
mod trie;
mod typed;
mod watch;

pub mod clock {
    //! One clock for timers and timestamps; it follows tokio's, also where that is paused.
    pub use crate::time::{Now, far_future, instant_at, wall_at};
}

#[cfg(feature = "conformance")]
pub mod conformance;

pub mod layers;

pub mod wire;

pub mod header {
    //! Rules and well-known names of headers.
    pub use crate::headers::{MAX_NAME_LEN, MAX_TOTAL_LEN, is_reserved, names};
}

#[cfg(feature = "derive")]
#[doc(hidden)]
pub mod __private {
    //! What the code that `#[derive(Event)]` writes calls; no part of the contract.
    pub use std::sync::OnceLock;
    pub use std::time::Duration;

    pub use bytes::Bytes;

    #[cfg(feature = "cbor")]
    pub use crate::codec::Cbor;
    pub use crate::codec::Codec;
    #[cfg(feature = "json")]
    pub use crate::codec::Json;
    #[cfg(feature = "msgpack")]
    pub use crate::codec::MessagePack;
    pub use crate::derived::{Held, HeldBytes, HeldElsewhere, Part, fixed_topic, raw, topic};
    pub use crate::{Priority, Result, Topic, TypedEvent, TypedRequest};
}

pub use backend::{
    AdminBackend, Backend, DynAdmin, DynBackend, DynGroups, DynReplay, DynRequestReply,
    GroupsBackend, ReplayBackend, RequestReplyBackend, SharedBackend,
};
pub use batch::{Batch, Confirms, ExpectedLast, Outcomes, Receipt, SubmitOptions};
pub use capabilities::{Ability, Capabilities, Support};
pub use chunk::{Chunk, DeliveryInfo, MAX_CHUNK, Nack, Places, Settled, Settlement, Settler};
pub use codec::Codec;
#[cfg(feature = "config")]
pub use config::Config;
#[cfg(feature = "tower")]
pub use consumer::Incoming;
pub use consumer::{
    Claim, Consumer, ConsumerBuilder, ConsumerEvent, ConsumerEvents, ConsumerState, ConsumerStatus,
    Context, DedupStore, Gather, HandlerError, HandlerResult, IntoOutputs, IntoVerdicts,
    KillSwitch, MemoryDedup, Outputs, Responder, ResponderService, Retry, Unmatched, Verdict,
};
pub use dead_letter::{DeadLetter, DeadLetterReason, MAX_ERROR_LEN};
pub use delivery::{Delivery, DeliveryBatch, SettleError, Settling};
pub use dsn::{Dsn, DsnOptions, Host, OptionValue, parse_bytes, parse_duration};
pub use error::{Error, ErrorKind, Result, RetryClass};
pub use event::{
    DEFAULT_CONTENT_TYPE, Event, EventBuilder, IntoEvent, Priority, TraceContext, default_source,
};
pub use fabric::{
    Admin, AskFor, Confirm, DEFAULT_IN_FLIGHT, DeadLetters, Fabric, Groups, Publish, PublishAll,
    Redrive, ReplayRequest, ResponderBuilder, SCOPE_DEADLINE, Submit, Subscribe,
};
#[cfg(feature = "derive")]
pub use fabric_derive::Event;
pub use group::Group;
pub use headers::Headers;
pub use health::{Health, HealthStatus};
pub use id::{EventId, MAX_ID_LEN};
pub use info::{BackendInfo, GroupInfo, SubscriptionInfo, TopicInfo, TopicLag, Trim};
pub use layer::Layer;
pub use notice::{Notice, NoticeKind, NoticeSender, Notices};
pub use options::{
    AckMode, DEFAULT_ACK_WAIT, End, GroupDefinition, ReplayOptions, SubscribeOptions, WhenFull,
};
pub use pattern::{IntoPattern, Pattern};
pub use patterns::{IntoPatterns, Patterns};
pub use payload::{MemoryKind, Payload, Region};
pub use position::{Cursor, Position, Start};
pub use prefix::Prefix;
#[cfg(feature = "json")]
pub use remembered::FileState;
pub use remembered::{MemoryState, Remembered, RememberedSubscription, StateStore};
pub use request::{IntoRequest, Replier, Request, Requests, RespondOptions, remote_error};
pub use secret::Secret;
pub use stats::StatsSnapshot;
pub use subscription::{Replay, Source, Subscription};
pub use time::Timestamp;
pub use topic::{IntoTopic, Topic};
pub use trie::PatternTrie;
pub use typed::{Typed, TypedEvent, TypedRequest};
