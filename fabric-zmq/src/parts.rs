//! One message at a time, in places that are used again and again.

use bytes::Bytes;
use zmq::Socket;

use crate::sys::Part;

/// The most frames that a message of ours has.
const MOST: usize = 3;

/// Up to which size a payload is copied rather than shared with libzmq's buffer.
pub(crate) const COPIED: usize = 2048;

/// One message, as it came.
pub(crate) struct Parts {
    parts: [Part; MOST],
    count: usize,
}

impl Parts {
    pub(crate) fn new() -> Self {
        Self { parts: [(); MOST].map(|()| Part::new()), count: 0 }
    }

    /// Takes the next message of a socket, if there is one now.
    pub(crate) fn receive(&mut self, socket: &mut Socket) -> bool {
        self.count = 0;
        loop {
            // What has more frames than any of ours is told by their number alone.
            let part = &mut self.parts[self.count.min(MOST - 1)];
            if part.receive(socket).is_err() {
                return false;
            }
            self.count += 1;
            if !part.has_more() {
                return true;
            }
        }
    }

    /// How many frames it has.
    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    /// The first frame.
    pub(crate) fn topic(&self) -> &[u8] {
        self.parts[0].bytes()
    }

    /// The second of three frames: the header blocks.
    pub(crate) fn blocks(&self) -> &[u8] {
        self.parts[1].bytes()
    }

    /// The last frame.
    pub(crate) fn payload(&self) -> &[u8] {
        self.last().bytes()
    }

    /// The last frame, and the two before it.
    pub(crate) fn split(&mut self) -> (&[u8], &[u8], &mut Part) {
        let [topic, second, third] = &mut self.parts;
        match self.count {
            ..=2 => (topic.bytes(), &[], second),
            _ => (topic.bytes(), second.bytes(), third),
        }
    }

    /// How many bytes all frames have.
    pub(crate) fn len(&self) -> usize {
        self.parts[..self.count.min(MOST)].iter().map(Part::len).sum()
    }

    /// Sends it as it came, and has none afterwards.
    pub(crate) fn send(&mut self, socket: &mut Socket) -> zmq::Result<()> {
        let count = std::mem::take(&mut self.count).min(MOST);
        let mut parts = self.parts[..count].iter_mut().zip(1..);
        parts.try_for_each(|(part, number)| part.send(socket, number < count))
    }

    /// Sends a copy of it.
    pub(crate) fn send_copy(&self, socket: &Socket) -> zmq::Result<()> {
        let count = self.count.min(MOST);
        let mut parts = self.parts[..count].iter().zip(1..);
        parts.try_for_each(|(part, number)| {
            let more = if number < count { zmq::SNDMORE } else { 0 };
            socket.send(part.bytes(), zmq::DONTWAIT | more)
        })
    }

    fn last(&self) -> &Part {
        &self.parts[self.count.clamp(1, MOST) - 1]
    }
}

/// The bytes of a frame; large ones are not copied, but taken.
pub(crate) fn taken(part: &mut Part) -> Bytes {
    match part.len() {
        0..=COPIED => Bytes::copy_from_slice(part.bytes()),
        _ => Bytes::from_owner(std::mem::replace(part, Part::new())),
    }
}

#[cfg(test)]
mod tests {
    use zmq::{Context, SNDMORE, SocketType};

    use super::*;

    #[test]
    fn a_message_is_taken_as_it_came_and_sent_on() {
        let context = Context::new();
        let [one, mut other] = [(), ()].map(|()| context.socket(SocketType::PAIR).unwrap());
        one.bind("inproc://parts").unwrap();
        other.connect("inproc://parts").unwrap();
        let mut parts = Parts::new();
        assert!(!parts.receive(&mut other));
        let long = vec![7; 2 * COPIED];
        let table: [&[&[u8]]; 5] = [
            &[b"topic"],
            &[b"topic", b"payload"],
            &[b"topic", b"blocks", b"payload"],
            &[b"topic", &long, &long],
            &[b"topic", b"a", b"b", b"c", b"d"],
        ];
        for frames in table {
            for (n, frame) in (1..).zip(frames) {
                one.send(*frame, if n < frames.len() { SNDMORE } else { 0 }).unwrap();
            }
            assert!(parts.receive(&mut other));
            assert_eq!((parts.count(), parts.topic()), (frames.len(), &b"topic"[..]));
            if frames.len() > 3 {
                continue;
            }
            assert_eq!(parts.payload(), *frames.last().unwrap());
            assert_eq!(parts.len(), frames.iter().map(|it| it.len()).sum::<usize>());
            parts.send_copy(&other).unwrap();
            assert_eq!(one.recv_multipart(0).unwrap(), frames);
            parts.send(&mut other).unwrap();
            assert_eq!(one.recv_multipart(0).unwrap(), frames);
            assert!(!parts.receive(&mut other));
        }
    }

    #[test]
    fn a_payload_is_taken_whole() {
        let context = Context::new();
        let [one, mut other] = [(), ()].map(|()| context.socket(SocketType::PAIR).unwrap());
        one.bind("inproc://taken").unwrap();
        other.connect("inproc://taken").unwrap();
        let mut parts = Parts::new();
        for size in [0, 1, COPIED, COPIED + 1, 1 << 20] {
            let payload: Vec<u8> = (0..size).map(|n| n as u8).collect();
            one.send("topic", SNDMORE).unwrap();
            one.send(&payload, 0).unwrap();
            assert!(parts.receive(&mut other));
            assert_eq!(taken(parts.split().2), payload);
        }
    }
}
