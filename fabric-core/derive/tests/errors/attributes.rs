//! Attributes that are missing, unknown, given twice, or without a value that they can have.

use fabric_derive::Event;

#[derive(Event)]
struct NoAttribute;

#[derive(Event)]
#[event(version = 2)]
struct NoTopic;

#[derive(Event)]
#[event(topic)]
struct NoValue;

#[derive(Event)]
#[event(topic = 5)]
struct NoText;

#[derive(Event)]
#[event(topik = "orders.created", version = 2)]
struct Unknown;

#[derive(Event)]
#[event(topic = "orders.created", version = 1, version = 2)]
struct Twice;

#[derive(Event)]
#[event(topic = "orders.created")]
#[event(topic = "orders.created")]
struct TwiceApart;

#[derive(Event)]
#[event(topic = "orders.created", version = 0)]
struct VersionZero;

#[derive(Event)]
#[event(topic = "orders.created", version = "2")]
struct VersionText;

#[derive(Event)]
#[event(topic = "orders.created", ttl = "10")]
struct TtlWithoutUnit;

#[derive(Event)]
#[event(topic = "orders.created", ttl = "0s")]
struct TtlZero;

#[derive(Event)]
#[event(topic = "orders.created", priority = "urgent")]
struct UnknownPriority;

#[derive(Event)]
#[event(topic = "orders.created", content_type = "xml")]
struct UnknownContentType;

#[derive(Event)]
#[event(topic = "orders.created", event_type = "")]
struct EmptyType;

#[derive(Event)]
#[event(topic = "orders.created", reply = "Quote")]
struct ReplyText;

#[derive(Event)]
#[event(topic = "orders.created", crate = "fabric core")]
struct BadCrate;

#[derive(Event)]
#[event(topic = "orders..created", version = 0, ttl = "soon", urgent)]
struct AllAtOnce;

fn main() {}
