//! Replay: what is kept as a finite stream, which ends where the history ended when it began.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use fabric_core::{
    Chunk, End, ErrorKind, MAX_CHUNK, Places, Position, ReplayBackend, ReplayOptions, Result,
    Source, Subscription, Timestamp, Topic,
};

use crate::backend::Nats;
use crate::group::Selection;
use crate::hub::Hub;
use crate::pull::{Arrived, Pull, Pulled};
use crate::read::{Decoder, Kept};
use crate::seen::Part as Lies;
use crate::wire::Messages;

impl ReplayBackend for Nats {
    async fn replay(&self, options: ReplayOptions) -> Result<Subscription> {
        let hub = self.open_hub()?;
        let epoch = hub.link.up_soon().await?;
        hub.check_places(&epoch, &options.start).await?;
        if let End::At(position) = &options.end {
            hub.check_place(&epoch, position).await?;
        }
        let mut parts = Vec::new();
        for filter in hub.layout.filters(&options.patterns, None)? {
            let name = &hub.layout.streams[filter.stream].name;
            let info = epoch.api.stream(name).await?;
            hub.set_life(filter.stream, info.incarnation());
            let end = info.state.last_seq;
            if end == 0 || info.state.messages == 0 {
                continue;
            }
            let pull = Pull::own(hub, &options.patterns, filter, &options.start).await?;
            parts.push(Part { pull, end });
        }
        parts.reverse();
        Ok(Subscription::from_source(History {
            hub: Arc::clone(hub),
            parts,
            decoder: Decoder::new(hub.config.profile),
            selection: Selection::new(options.patterns.clone(), Some(&options.start)),
            end: options.end,
            left: options.limit.unwrap_or(u64::MAX),
        }))
    }
}

/// What is read of one stream, up to the event that was its last when the replay began.
struct Part {
    pull: Pull,
    end: u64,
}

/// The source of a replay.
struct History {
    hub: Arc<Hub>,
    /// The next one comes last.
    parts: Vec<Part>,
    decoder: Decoder,
    selection: Selection,
    end: End,
    left: u64,
}

impl History {
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Arc<Chunk>>>> {
        loop {
            if let Err(error) = self.hub.check_open() {
                return Poll::Ready(Some(Err(error)));
            }
            let Some(part) = self.parts.last_mut() else { return Poll::Ready(None) };
            if self.left == 0 {
                self.parts.clear();
                continue;
            }
            if part.pull.is_read_up_to(part.end) {
                self.parts.pop();
                continue;
            }
            let mut events = Arrived::default();
            let room = self.hub.config.prefetch.max(MAX_CHUNK);
            match ready!(part.pull.poll(cx, room, MAX_CHUNK, &mut events)) {
                Pulled::Gone => part.pull.begin_anew(),
                Pulled::Trouble(error) => {
                    if error.kind() != ErrorKind::Lagged {
                        self.parts.clear();
                    }
                    return Poll::Ready(Some(Err(error)));
                }
                Pulled::Events => {
                    if let Some(chunk) = self.chunk(events) {
                        return Poll::Ready(Some(Ok(Arc::new(chunk))));
                    }
                }
            }
        }
    }

    fn chunk(&mut self, pulled: Arrived) -> Option<Chunk> {
        let part = self.parts.last()?;
        let (stream, end) = (part.pull.stream, part.end);
        let life = self.hub.life(stream);
        let received = Timestamp::now();
        let count = pulled.len();
        let (mut messages, mut events) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let (mut places, mut faults) = (Vec::with_capacity(count), Vec::new());
        for (message, sent) in pulled.messages.into_iter().zip(pulled.sents) {
            if sent.stored > end || self.left == 0 {
                break;
            }
            let seen = self.decoder.look(&self.hub.layout, &message.subject);
            if seen.part != Lies::Events || seen.fault.is_some() {
                continue;
            }
            let name = &self.hub.layout.streams[stream].name;
            let wanted = self.selection.wants(&seen.topic, name, life, sent.stored);
            let topic = seen.topic.clone();
            if !wanted || self.is_beyond(&topic, sent.stored, stored_at(&message)) {
                continue;
            }
            let kept = Kept { life, stored: sent.stored };
            let read = self.decoder.read(&self.hub.layout, &message, Some(kept), received);
            if let Some(fault) = read.fault {
                faults.push((events.len(), fault));
            }
            places.push(Position::new(read.event.topic().clone(), life, sent.stored.into()));
            events.push(read.event);
            messages.push(message);
            self.left -= 1;
        }
        if events.is_empty() {
            return None;
        }
        let len = events.len();
        let chunk = Chunk::new(Arc::new(events), 0, len, received)
            .with_places(Places::Each(places.into()))
            .with_handle(Arc::new(Messages(messages)));
        Some(faults.into_iter().fold(chunk, |chunk, (n, fault)| chunk.with_fault(n, fault)))
    }

    /// Whether an event lies behind the end that was asked for.
    fn is_beyond(&self, topic: &Topic, stored: u64, time: Option<Timestamp>) -> bool {
        match &self.end {
            End::Time(end) => time.is_some_and(|time| time >= *end),
            End::At(position) => position.topic == *topic && u128::from(stored) > position.offset,
            _ => false,
        }
    }
}

/// When an event was stored: the last but one part of where it would be acked.
fn stored_at(message: &async_nats::Message) -> Option<Timestamp> {
    let reply = message.reply.as_deref()?;
    let tokens: Vec<&str> = reply.split('.').collect();
    // `$JS.ACK.` and seven more, or with domain and account nine and perhaps a token.
    let at = if tokens.len() >= 11 { 9 } else { 7 };
    tokens.get(at)?.parse().ok().map(Timestamp::from_nanos)
}

impl Source for History {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Arc<Chunk>>>> {
        self.poll_part(cx)
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        self.parts.clear();
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("History").field("left", &self.left).finish_non_exhaustive()
    }
}
