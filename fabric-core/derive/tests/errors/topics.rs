//! Topics and keys that the type cannot have.

use fabric_derive::Event;

#[derive(Event)]
#[event(topic = "orders..created")]
struct EmptyLevel;

#[derive(Event)]
#[event(topic = "orders.*")]
struct Wildcard;

#[derive(Event)]
#[event(topic = "orders.crée")]
struct BadCharacter;

#[derive(Event)]
#[event(topic = "dlq.billing")]
struct Reserved;

#[derive(Event)]
#[event(topic = "orders.o-{id}")]
struct HalfALevel {
    id: u32,
}

#[derive(Event)]
#[event(topic = "orders.{order}.{id}", key = "tenant")]
struct UnknownFields {
    id: u32,
    cents: u32,
}

#[derive(Event)]
#[event(topic = "orders.{1}")]
struct UnknownNumber(u32);

#[derive(Event)]
#[event(topic = "orders.created", key = "id")]
struct NoFields;

#[derive(Event)]
#[event(topic = "{tenant}.{id}")]
struct NoTypeLeft {
    tenant: String,
    id: u32,
}

#[derive(Event)]
#[event(topic = "orders.{id}", key = "id")]
enum FieldOfAnEnum {
    Created { id: u32 },
}

fn main() {}
