//! The compact header block: what ZeroMQ and UCX, which have no headers of their own, carry beside
//! the payload. `docs/wire.md` describes it byte by byte.
//!
//! Encoding and decoding are pure; nothing here does I/O, and nothing that arrives makes it panic.
//!
//! ```
//! use fabric_core::wire::block::{self, Block, Kind, Stamp};
//! use fabric_core::{Event, Topic, wire};
//!
//! let event = Event::to("orders.created").id("o-42").source("shop").text("two chairs").build()?;
//! let stamp = Stamp { kind: Kind::Event, publisher: [7; 16], sequence: 1 };
//! let mut bytes = Vec::new();
//! block::write(&mut bytes, stamp, &event, 10)?;
//!
//! let (read, rest) = Block::parse(&bytes)?;
//! assert!(rest.is_empty());
//! assert_eq!((read.stamp(), read.payload_len()), (stamp, 10));
//! let mut reader = wire::Reader::new(block::STYLE);
//! let received = read.event(&mut reader, event.topic(), &b"two chairs"[..]);
//! assert_eq!(received.event.id(), event.id());
//! # Ok::<(), fabric_core::Error>(())
//! ```

mod code;

#[cfg(test)]
mod tests;

use super::name::{Known, Name};
use super::read::{Reader, Received};
use super::style::Style;
use crate::event::Event;
use crate::payload::Payload;
use crate::topic::Topic;
use crate::{Error, ErrorKind, Result};

/// The version of the format that is written here, and the only one that is read.
pub const VERSION: u8 = 1;

/// How many bytes stand before the pairs.
pub const PREAMBLE: usize = 40;

/// The most bytes of one block; a longer one is neither written nor read.
pub const MAX_LEN: usize = 256 * 1024;

/// The names behind the codes.
pub const STYLE: Style = Style::dashed();

const MAGIC: [u8; 2] = *b"EF";
/// A header of the user's: its name follows.
const HEADER: u8 = 0;
/// A CloudEvents extension: its name follows.
const EXTENSION: u8 = 1;

/// What a block stands before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Kind {
    /// An event.
    Event = 0,
    /// A request; its sequence is the number that the answer repeats.
    Request = 1,
    /// The answer to a request.
    Reply = 2,
    /// The responder failed; the payload is why, as text.
    Failure = 3,
    /// Nobody answers this request.
    NoResponders = 4,
    /// A publisher's last sequences; the payload is a list.
    Heartbeat = 5,
    /// A subscription has arrived.
    Marker = 6,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::Event,
        Self::Request,
        Self::Reply,
        Self::Failure,
        Self::NoResponders,
        Self::Heartbeat,
        Self::Marker,
    ];

    const fn read(byte: u8) -> Option<Self> {
        if (byte as usize) < Self::ALL.len() { Some(Self::ALL[byte as usize]) } else { None }
    }
}

/// Who sent what, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "the preamble has these fields and no others")]
pub struct Stamp {
    /// What the block stands before.
    pub kind: Kind,
    /// The sender, as the bytes of a UUID.
    pub publisher: [u8; 16],
    /// Of an event: the publisher's count in this topic, from 1.
    pub sequence: u64,
}

/// Appends the block of `event` to `out`; its payload has `payload_len` bytes.
///
/// What follows from something else is left out: the version of CloudEvents, a type that is the
/// topic, and the trace of this hop where it is that of the origin.
///
/// # Errors
/// `TooLarge` for a block of more than [`MAX_LEN`] bytes or a payload of 4 GiB; `out` is unchanged.
pub fn write(out: &mut Vec<u8>, stamp: Stamp, event: &Event, payload_len: usize) -> Result<()> {
    put(out, stamp, event, payload_len, false)
}

/// As [`write()`], with the event's topic as a pair: for what travels under another one.
///
/// # Errors
/// As [`write()`].
pub fn write_elsewhere(
    out: &mut Vec<u8>,
    stamp: Stamp,
    event: &Event,
    payload_len: usize,
) -> Result<()> {
    put(out, stamp, event, payload_len, true)
}

fn put(
    out: &mut Vec<u8>,
    stamp: Stamp,
    event: &Event,
    payload_len: usize,
    elsewhere: bool,
) -> Result<()> {
    let start = begin(out, stamp);
    let mut pairs: u16 = 0;
    let mut too_long = false;
    let topic = event.topic();
    if elsewhere {
        // A topic has at most 200 bytes.
        out.push(code::of(Known::Topic));
        out.extend_from_slice(&(topic.as_str().len() as u16).to_le_bytes());
        out.extend_from_slice(topic.as_str().as_bytes());
        pairs = 1;
    }
    STYLE.write(event, |name, value| {
        match name {
            Name::Known(Known::SpecVersion | Known::TraceParent | Known::TraceState) => return,
            Name::Known(Known::Type) if value == topic.as_str() => return,
            Name::Known(known) => out.push(code::of(known)),
            Name::Extension(name) => put_name(out, EXTENSION, name, &mut too_long),
            Name::Header(name) => put_name(out, HEADER, name, &mut too_long),
        }
        let Ok(len) = u16::try_from(value.len()) else {
            too_long = true;
            return;
        };
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(value.as_bytes());
        pairs = pairs.saturating_add(1);
    });
    end(out, start, pairs, payload_len, too_long || pairs == u16::MAX)
        .map_err(|error| error.with("topic", topic).with("id", event.id()))
}

/// Appends a block without pairs.
///
/// # Errors
/// `TooLarge` for a payload of 4 GiB.
pub fn write_bare(out: &mut Vec<u8>, stamp: Stamp, payload_len: usize) -> Result<()> {
    let start = begin(out, stamp);
    end(out, start, 0, payload_len, false)
}

fn begin(out: &mut Vec<u8>, stamp: Stamp) -> usize {
    let start = out.len();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[VERSION, stamp.kind as u8]);
    out.extend_from_slice(&[0; 12]);
    out.extend_from_slice(&stamp.publisher);
    out.extend_from_slice(&stamp.sequence.to_le_bytes());
    start
}

/// Writes what is known only now: the lengths.
fn end(
    out: &mut Vec<u8>,
    start: usize,
    pairs: u16,
    payload_len: usize,
    too_long: bool,
) -> Result<()> {
    let len = out.len() - start;
    let lens = (u32::try_from(len), u32::try_from(payload_len));
    let (Ok(block), Ok(payload), false, true) = (lens.0, lens.1, too_long, len <= MAX_LEN) else {
        out.truncate(start);
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!(
                "the envelope takes {len} bytes and the payload {payload_len}; {MAX_LEN} and \
                 4 GiB are allowed, and 64 KiB for one value"
            ),
        ));
    };
    out[start + 4..start + 8].copy_from_slice(&block.to_le_bytes());
    out[start + 8..start + 12].copy_from_slice(&payload.to_le_bytes());
    out[start + 12..start + 14].copy_from_slice(&pairs.to_le_bytes());
    Ok(())
}

fn put_name(out: &mut Vec<u8>, code: u8, name: &str, too_long: &mut bool) {
    let Ok(len) = u8::try_from(name.len()) else {
        *too_long = true;
        return;
    };
    out.extend_from_slice(&[code, len]);
    out.extend_from_slice(name.as_bytes());
}

/// A block whose preamble was read; its pairs are read when asked for.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    stamp: Stamp,
    payload_len: usize,
    pairs: u16,
    body: &'a [u8],
}

impl<'a> Block<'a> {
    /// Reads the block that `bytes` begin with, and returns what is behind it.
    ///
    /// # Errors
    /// `Codec` where it is none, is cut off, is of another version or longer than [`MAX_LEN`].
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8])> {
        let preamble = bytes.get(..PREAMBLE).ok_or_else(|| cut_off(bytes.len()))?;
        if preamble[..2] != MAGIC {
            return Err(codec("this is no header block: it does not begin with `EF`".to_owned()));
        }
        if preamble[2] != VERSION {
            let version = preamble[2];
            let text =
                format!("header blocks of version {version} are not read here, only {VERSION}");
            return Err(codec(text));
        }
        let kind = Kind::read(preamble[3])
            .ok_or_else(|| codec(format!("a header block of kind {} is not known", preamble[3])))?;
        let len = long(&preamble[4..8]);
        if !(PREAMBLE..=MAX_LEN).contains(&len) {
            return Err(codec(format!(
                "a header block of {len} bytes is not read; {PREAMBLE} to {MAX_LEN} are"
            )));
        }
        let body = bytes.get(PREAMBLE..len).ok_or_else(|| cut_off(bytes.len()))?;
        let mut publisher = [0; 16];
        publisher.copy_from_slice(&preamble[16..32]);
        let mut sequence = [0; 8];
        sequence.copy_from_slice(&preamble[32..40]);
        let stamp = Stamp { kind, publisher, sequence: u64::from_le_bytes(sequence) };
        let payload_len = long(&preamble[8..12]);
        let pairs = u16::from_le_bytes([preamble[12], preamble[13]]);
        Ok((Self { stamp, payload_len, pairs, body }, &bytes[len..]))
    }

    /// Who sent it, and its number there.
    #[must_use]
    pub const fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// How many bytes its payload has.
    #[must_use]
    pub const fn payload_len(&self) -> usize {
        self.payload_len
    }

    /// The value of one pair, if the block has it.
    #[must_use]
    pub fn find(&self, known: Known) -> Option<&'a [u8]> {
        let mut pairs = Pairs { rest: self.body };
        (0..self.pairs).find_map(|_| match pairs.next() {
            Ok(Pair::Known(found, value)) if found == known => Some(Some(value)),
            Ok(_) => None,
            Err(_) => Some(None),
        })?
    }

    /// The event of this block, on `topic`. What cannot be read of it is its fault.
    #[must_use]
    pub fn event(
        &self,
        reader: &mut Reader,
        topic: &Topic,
        payload: impl Into<Payload>,
    ) -> Received {
        reader.pair(STYLE.known(Known::SpecVersion), b"1.0");
        let mut typed = false;
        let mut named = topic.as_str().as_bytes();
        let mut pairs = Pairs { rest: self.body };
        let mut fault = None;
        for _ in 0..self.pairs {
            match pairs.next() {
                Ok(Pair::Known(known, value)) => {
                    typed |= known == Known::Type;
                    if known == Known::Topic {
                        named = value;
                    }
                    reader.pair(STYLE.known(known), value);
                }
                Ok(Pair::Extension(name, value)) => {
                    let mut attribute = [0; 3 + 255];
                    reader.pair(prefixed(&mut attribute, name), value);
                }
                Ok(Pair::Header(name, value)) => reader.pair(name, value),
                Err(error) => {
                    fault = Some(error);
                    break;
                }
            }
        }
        if fault.is_none() && !pairs.rest.is_empty() {
            let left = pairs.rest.len();
            fault = Some(codec(format!("{left} bytes are behind the last pair of a header block")));
        }
        if !typed {
            reader.pair(STYLE.known(Known::Type), named);
        }
        let mut received = reader.finish(topic, payload);
        received.fault = fault.or(received.fault);
        received
    }
}

/// What one pair is.
enum Pair<'a> {
    Known(Known, &'a [u8]),
    Extension(&'a str, &'a [u8]),
    Header(&'a str, &'a [u8]),
}

struct Pairs<'a> {
    rest: &'a [u8],
}

impl<'a> Pairs<'a> {
    fn next(&mut self) -> Result<Pair<'a>> {
        match self.take(1)?[0] {
            HEADER => Ok(Pair::Header(self.name()?, self.value()?)),
            EXTENSION => Ok(Pair::Extension(self.name()?, self.value()?)),
            number => match code::read(number) {
                Some(known) => Ok(Pair::Known(known, self.value()?)),
                None => Err(codec(format!(
                    "this version of Fabric knows no pair {number}; it may come from a later one"
                ))),
            },
        }
    }

    fn name(&mut self) -> Result<&'a str> {
        let len = usize::from(self.take(1)?[0]);
        let name = self.take(len)?;
        std::str::from_utf8(name).map_err(|_| codec("the name of a header is no text".to_owned()))
    }

    fn value(&mut self) -> Result<&'a [u8]> {
        let len = self.take(2)?;
        self.take(usize::from(u16::from_le_bytes([len[0], len[1]])))
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or_else(|| codec("a pair of a header block is cut off".to_owned()))?;
        self.rest = rest;
        Ok(taken)
    }
}

/// `ce-` and the name of an extension, without an allocation.
fn prefixed<'a>(held: &'a mut [u8; 3 + 255], name: &str) -> &'a str {
    let len = STYLE.prefix().len() + name.len();
    held[..3].copy_from_slice(STYLE.prefix().as_bytes());
    held[3..len].copy_from_slice(name.as_bytes());
    // Both parts are whole texts.
    std::str::from_utf8(&held[..len]).unwrap_or_default()
}

fn long(bytes: &[u8]) -> usize {
    let mut long = [0; 4];
    long.copy_from_slice(bytes);
    u32::from_le_bytes(long) as usize
}

fn cut_off(len: usize) -> Error {
    codec(format!("a header block is cut off after {len} bytes"))
}

fn codec(text: String) -> Error {
    Error::new(ErrorKind::Codec, text)
}
