//! Types that cannot be events, and attributes in the wrong place.

use fabric_derive::Event;

#[derive(Event)]
#[event(topic = "orders.created")]
struct Generic<T> {
    value: T,
}

#[derive(Event)]
#[event(topic = "orders.created")]
struct Borrowed<'a> {
    value: &'a str,
}

#[derive(Event)]
#[event(topic = "orders.created")]
union Union {
    number: u32,
    float: f32,
}

#[derive(Event)]
#[event(topic = "orders.created")]
struct OnAField {
    #[event(key)]
    id: u32,
}

#[derive(Event)]
#[event(topic = "camera.frame", content_type = "raw")]
struct RawOfTwo {
    width: u32,
    pixels: Vec<u8>,
}

fn main() {}
