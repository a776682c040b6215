//! A message of NATS as an event.

use async_nats::{HeaderMap, Message};
use fabric_core::wire::{Reader, payload_alone};
use fabric_core::{Error, Event, EventId, Timestamp, Topic};

use crate::config::Profile;
use crate::layout::Layout;
use crate::seen::{Seen, Subjects};
use crate::wire::STYLE;

/// A message as it was read.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) event: Event,
    pub(crate) fault: Option<Error>,
    /// Which try its sender said it is on.
    pub(crate) attempt: u32,
}

/// Where a stream keeps a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    /// Which life of the stream.
    pub(crate) life: u64,
    pub(crate) stored: u64,
}

/// Reads messages; one per subscription.
#[derive(Debug)]
pub(crate) struct Decoder {
    profile: Profile,
    reader: Reader,
    subjects: Subjects,
}

impl Decoder {
    pub(crate) fn new(profile: Profile) -> Self {
        Self { profile, reader: Reader::new(STYLE), subjects: Subjects::default() }
    }

    /// What a subject is.
    pub(crate) fn look(&mut self, layout: &Layout, subject: &str) -> &mut Seen {
        self.subjects.get(layout, subject)
    }

    /// Forgets which subjects match.
    pub(crate) fn forget_matches(&mut self) {
        self.subjects.forget_matches();
    }

    /// The event of a message that came at `now`.
    pub(crate) fn read(
        &mut self,
        layout: &Layout,
        message: &Message,
        kept: Option<Kept>,
        now: Timestamp,
    ) -> Incoming {
        let seen = self.subjects.get(layout, &message.subject);
        let fault = seen.fault.clone();
        if self.profile == Profile::Raw && !seen.is_enveloped() {
            let event = read_raw(&seen.topic, seen.number, message, kept, now);
            return Incoming { event, fault: fault.map(|fault| at(fault, message)), attempt: 1 };
        }
        let mut read = read_headers(&mut self.reader, &seen.topic, message);
        if let Some(fault) = fault {
            read.fault = Some(at(fault, message));
        }
        read
    }

    /// The event of a message whose topic is known: an answer.
    pub(crate) fn read_as(&mut self, topic: &Topic, message: &Message) -> Incoming {
        if self.profile == Profile::Raw {
            let event = read_raw(topic, 0, message, None, Timestamp::now());
            return Incoming { event, fault: None, attempt: 1 };
        }
        read_headers(&mut self.reader, topic, message)
    }
}

fn at(fault: Error, message: &Message) -> Error {
    fault.with("subject", &message.subject)
}

fn read_headers(reader: &mut Reader, topic: &Topic, message: &Message) -> Incoming {
    for (name, values) in message.headers.iter().flat_map(HeaderMap::iter) {
        let name: &str = name.as_ref();
        // What the server and its clients tell each other.
        if name.len() > 5 && name.as_bytes()[..5].eq_ignore_ascii_case(b"nats-") {
            continue;
        }
        if let Some(value) = values.last() {
            reader.pair(name, value.as_str().as_bytes());
        }
    }
    let read = reader.finish(topic, message.payload.clone());
    let fault = read.fault.map(|fault| at(fault, message));
    Incoming { event: read.event, fault, attempt: read.attempt.unwrap_or(1) }
}

/// The payload alone: its id is its place, or fresh where it has none.
fn read_raw(
    topic: &Topic,
    number: u64,
    message: &Message,
    kept: Option<Kept>,
    now: Timestamp,
) -> Event {
    let id = match kept {
        // Another life of the stream counts from one again.
        Some(Kept { life, stored }) => EventId::of_place(number ^ life.rotate_left(32), stored),
        None => EventId::generate_at(now),
    };
    payload_alone(topic.clone(), message.payload.clone(), id, now)
}

/// What JetStream says about a delivery, in the subject that it is acked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    /// How often it was handed out.
    pub(crate) delivered: u32,
    /// Its place in the stream.
    pub(crate) stored: u64,
    /// Its place in the consumer.
    pub(crate) number: u64,
    /// How many events the consumer has for whoever asks next.
    pub(crate) pending: u64,
}

impl Sent {
    /// From `$JS.ACK.<stream>.<consumer>.<delivered>.<stored>.<number>.<time>.<pending>`, or the
    /// newer form with domain and account before the stream.
    pub(crate) fn parse(reply: &str) -> Option<Self> {
        Self::after(reply, numbers_begin(reply)?)
    }

    /// The same where the numbers begin at `from`, as in every subject of one consumer; that is
    /// learned where it is not known yet.
    pub(crate) fn parse_at(reply: &str, from: &mut usize) -> Option<Self> {
        if let Some(sent) = Self::after(reply, *from) {
            return Some(sent);
        }
        *from = numbers_begin(reply)?;
        Self::after(reply, *from)
    }

    fn after(reply: &str, from: usize) -> Option<Self> {
        let before = from.checked_sub(1)?;
        let bytes = reply.as_bytes().get(before..)?;
        let (b'.', mut rest) = bytes.split_first().map(|(dot, rest)| (*dot, rest))? else {
            return None;
        };
        let mut next = || {
            let mut number = 0_u64;
            let mut length = 0;
            while let Some(digit) = rest.get(length).map(|byte| byte.wrapping_sub(b'0'))
                && digit < 10
            {
                number = number.checked_mul(10)?.checked_add(u64::from(digit))?;
                length += 1;
            }
            let end = rest.get(length).copied();
            rest = rest.get(length + 1..).unwrap_or_default();
            (length > 0 && matches!(end, None | Some(b'.'))).then_some((number, end.is_none()))
        };
        let ((delivered, false), (stored, false), (number, false), (_time, false)) =
            (next()?, next()?, next()?, next()?)
        else {
            return None;
        };
        let (pending, _) = next()?;
        Some(Self { delivered: u32::try_from(delivered).ok()?, stored, number, pending })
    }
}

/// Where the numbers begin.
fn numbers_begin(reply: &str) -> Option<usize> {
    const ROOT: &str = "$JS.ACK.";
    let rest = reply.strip_prefix(ROOT)?.as_bytes();
    let dots = || rest.iter().enumerate().filter(|(_, byte)| **byte == b'.').map(|(at, _)| at);
    // Seven parts, or with domain and account nine and perhaps one more.
    let before = match dots().count() {
        6 => 1,
        8 | 9 => 3,
        _ => return None,
    };
    Some(ROOT.len() + dots().nth(before)? + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(delivered: u32, stored: u64, number: u64, pending: u64) -> Option<Sent> {
        Some(Sent { delivered, stored, number, pending })
    }

    #[test]
    fn both_forms_of_an_ack_subject_are_read() {
        assert_eq!(Sent::parse("$JS.ACK.S.c.2.7.9.1700000000000000000.3"), sent(2, 7, 9, 3));
        assert_eq!(Sent::parse("$JS.ACK._.hash.S.c.2.7.9.1700000000000000000.3"), sent(2, 7, 9, 3));
        assert_eq!(Sent::parse("$JS.ACK.hub.hash.S.c.1.5.6.17.3.token"), sent(1, 5, 6, 3));
        for bad in ["", "$JS.ACK.S.c.x.7.9.1.3", "_INBOX.a.b", "$JS.ACK.S.c"] {
            assert_eq!(Sent::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn where_the_numbers_begin_is_learned_once() {
        let mut from = 0;
        for (reply, expected) in [
            ("$JS.ACK.S.c.2.7.9.17.3", sent(2, 7, 9, 3)),
            ("$JS.ACK.S.c.1.8.10.17.2", sent(1, 8, 10, 2)),
            ("$JS.ACK._.hash.S.c.2.7.9.17.3", sent(2, 7, 9, 3)),
            ("$JS.ACK.S.c.99999999999.8.10.17.2", None),
            ("$JS.ACK.S.c.1.8.10.17", None),
            ("$JS.ACK.S.c.1.8.10.17.", None),
            ("", None),
            ("$JS.ACK.longer.c.1.8.10.17.2", sent(1, 8, 10, 2)),
        ] {
            assert_eq!(Sent::parse_at(reply, &mut from), expected, "{reply}");
        }
    }
}
