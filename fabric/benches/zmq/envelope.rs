//! An event as header block and payload, written and read by hand from `docs/wire.md`.

use std::hint::black_box;

use bytes::Bytes;
use jiff::Timestamp;
use uuid::Uuid;

use crate::support::Result;

/// What a message carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carries {
    /// Header block and payload of an event.
    Event,
    /// The payload alone.
    Payload,
}

const PREAMBLE: usize = 40;
const MAGIC_AND_VERSION: [u8; 3] = [b'E', b'F', 1];
const EVENT: u8 = 0;
const MARKER: u8 = 6;
const ID: u8 = 3;
const SOURCE: u8 = 4;
const TYPE: u8 = 5;
const TIME: u8 = 6;

/// Writes a block with the pairs that an event without further fields has.
pub(crate) fn write(block: &mut Vec<u8>, sender: Uuid, sequence: u64, payload: usize) {
    block.clear();
    block.extend_from_slice(&MAGIC_AND_VERSION);
    block.push(EVENT);
    block.extend_from_slice(&[0; 4]);
    block.extend_from_slice(&(payload as u32).to_le_bytes());
    block.extend_from_slice(&3_u16.to_le_bytes());
    block.extend_from_slice(&[0; 2]);
    block.extend_from_slice(sender.as_bytes());
    block.extend_from_slice(&sequence.to_le_bytes());
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    pair(block, ID, Uuid::now_v7().hyphenated().encode_lower(&mut text));
    pair(block, SOURCE, "bench");
    pair(block, TIME, &Timestamp::now().to_string());
    let length = (block.len() as u32).to_le_bytes();
    block[4..8].copy_from_slice(&length);
}

fn pair(block: &mut Vec<u8>, code: u8, value: &str) {
    block.push(code);
    block.extend_from_slice(&(value.len() as u16).to_le_bytes());
    block.extend_from_slice(value.as_bytes());
}

/// What a program keeps of a received event.
#[derive(Debug, Default)]
pub(crate) struct Received {
    pub(crate) sequence: u64,
    pub(crate) id: String,
    pub(crate) source: String,
    pub(crate) kind: Option<String>,
    pub(crate) time: Timestamp,
    pub(crate) payload: Bytes,
}

/// Reads one event.
pub(crate) fn read(block: &[u8], payload: Bytes) -> Result<Received> {
    let (preamble, mut pairs) = block.split_at_checked(PREAMBLE).ok_or("no header block")?;
    if !preamble.starts_with(&MAGIC_AND_VERSION) || number(preamble, 4)? as usize != block.len() {
        return Err("no header block".into());
    }
    if number(preamble, 8)? as usize != payload.len() {
        return Err("the payload has another length".into());
    }
    let sequence = preamble.get(32..40).ok_or("no sequence")?.try_into()?;
    let mut received =
        Received { payload, sequence: u64::from_le_bytes(sequence), ..Received::default() };
    while let [code, low, high, rest @ ..] = pairs {
        let length = u16::from_le_bytes([*low, *high]);
        let (value, left) = rest.split_at_checked(length.into()).ok_or("a pair is cut off")?;
        let text = std::str::from_utf8(value)?;
        match *code {
            ID => received.id = text.to_owned(),
            SOURCE => received.source = text.to_owned(),
            TYPE => received.kind = Some(text.to_owned()),
            TIME => received.time = text.parse()?,
            _ => {}
        }
        pairs = left;
    }
    if received.id.is_empty() || received.source.is_empty() {
        return Err("a pair is missing".into());
    }
    Ok(received)
}

fn number(preamble: &[u8], at: usize) -> Result<u32> {
    let bytes = preamble.get(at..at + 4).ok_or("no header block")?;
    Ok(u32::from_le_bytes(bytes.try_into()?))
}

/// Looks at what came.
pub(crate) fn look_at(received: &Received) {
    black_box((&received.id, &received.source, &received.kind, received.time));
    black_box(received.payload.first());
}
