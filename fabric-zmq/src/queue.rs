//! What waits for one subscription: bounded, and honest about what it dropped.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use fabric_core::{
    Chunk, Error, ErrorKind, Event, MAX_CHUNK, NoticeKind, NoticeSender, Patterns, Result, Source,
    Timestamp, Topic,
};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::track::Tick;

/// A tick at which nobody reads yet.
const NOT_YET: Tick = Tick::MAX;

/// What is dropped where a queue is at its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drops {
    Oldest,
    Newest,
}

/// How much a queue holds, and what it drops beyond.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
    pub(crate) drops: Drops,
}

/// Readers that are woken when this is dropped: once for all that came in one turn, and not while
/// anything is locked.
#[derive(Debug, Default)]
pub(crate) struct Wakes(SmallVec<[Waker; 8]>);

impl Drop for Wakes {
    fn drop(&mut self) {
        self.0.drain(..).for_each(Waker::wake);
    }
}

/// The queue of one subscription.
pub(crate) struct Queue {
    pub(crate) patterns: Patterns,
    bound: Bound,
    /// What this client had sent itself before it asked for this: that is not new.
    skip: HashMap<Topic, u64, RandomState>,
    since: AtomicU64,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    items: VecDeque<Item>,
    bytes: usize,
    /// Lost behind the last item.
    lost: u64,
    ended: bool,
    waker: Option<Waker>,
}

struct Item {
    /// Lost before this one.
    lost: u64,
    event: Result<Event>,
    fault: Option<Error>,
    size: usize,
}

impl Queue {
    pub(crate) fn new(patterns: Patterns, bound: Bound, skip: Vec<(Topic, u64)>) -> Self {
        let since = AtomicU64::new(NOT_YET);
        let skip = skip.into_iter().collect();
        Self { patterns, bound, skip, since, waiting: Mutex::default() }
    }

    /// Whether this client's own event was sent before it asked for this.
    pub(crate) fn skips(&self, topic: &Topic, sequence: u64) -> bool {
        !self.skip.is_empty() && self.skip.get(topic).is_some_and(|last| sequence <= *last)
    }

    /// It reads from here on.
    pub(crate) fn begin(&self, now: Tick) {
        self.since.store(now, Ordering::Release);
    }

    /// Whether it read before `tick` already.
    pub(crate) fn reads_since(&self, tick: Tick) -> bool {
        self.since.load(Ordering::Acquire) <= tick
    }

    /// Puts an event in; says whether another had to go.
    pub(crate) fn push(&self, event: Event, fault: Option<Error>, wakes: &mut Wakes) -> bool {
        let size = event.size_in_memory();
        self.put(Item { lost: 0, event: Ok(event), fault, size }, wakes)
    }

    /// Puts in that something came which is no event.
    pub(crate) fn push_error(&self, error: Error, wakes: &mut Wakes) -> bool {
        self.put(Item { lost: 0, event: Err(error), fault: None, size: 256 }, wakes)
    }

    /// As many are lost here.
    pub(crate) fn lose(&self, count: u64, wakes: &mut Wakes) {
        self.with(wakes, |waiting| waiting.lost += count);
    }

    /// Nothing more comes.
    pub(crate) fn end(&self) {
        self.with(&mut Wakes::default(), |waiting| waiting.ended = true);
    }

    fn put(&self, mut item: Item, wakes: &mut Wakes) -> bool {
        self.with(wakes, |waiting| {
            let mut dropped = false;
            let full = |waiting: &Waiting| {
                waiting.items.len() >= self.bound.events
                    || (waiting.bytes + item.size > self.bound.bytes && !waiting.items.is_empty())
            };
            while full(waiting) {
                dropped = true;
                if self.bound.drops == Drops::Newest {
                    waiting.lost += 1;
                    return dropped;
                }
                let Some(oldest) = waiting.items.pop_front() else { break };
                waiting.bytes -= oldest.size;
                match waiting.items.front_mut() {
                    Some(front) => front.lost += oldest.lost + 1,
                    None => waiting.lost += oldest.lost + 1,
                }
            }
            item.lost = std::mem::take(&mut waiting.lost);
            waiting.bytes += item.size;
            waiting.items.push_back(item);
            dropped
        })
    }

    fn with<T>(&self, wakes: &mut Wakes, change: impl FnOnce(&mut Waiting) -> T) -> T {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        wakes.0.extend(waiting.waker.take());
        change(&mut waiting)
    }

    /// The next chunk or error.
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Arc<Chunk>>>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(front) = waiting.items.front_mut() {
            if front.lost > 0 {
                return Poll::Ready(Some(Err(Error::lagged(std::mem::take(&mut front.lost)))));
            }
            if front.event.is_err()
                && let Some(Item { event: Err(error), size, .. }) = waiting.items.pop_front()
            {
                waiting.bytes -= size;
                return Poll::Ready(Some(Err(error)));
            }
            return Poll::Ready(Some(Ok(waiting.chunk())));
        }
        if waiting.lost > 0 {
            return Poll::Ready(Some(Err(Error::lagged(std::mem::take(&mut waiting.lost)))));
        }
        if waiting.ended {
            return Poll::Ready(None);
        }
        match &mut waiting.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Waiting {
    /// The events up to the next loss or error, as many as fit in a chunk.
    fn chunk(&mut self) -> Arc<Chunk> {
        let mut events = Vec::with_capacity(self.items.len().min(MAX_CHUNK));
        let mut faults = Vec::new();
        while events.len() < MAX_CHUNK
            && self.items.front().is_some_and(|item| item.lost == 0 && item.event.is_ok())
        {
            let Some(Item { event: Ok(event), fault, size, .. }) = self.items.pop_front() else {
                break;
            };
            self.bytes -= size;
            faults.extend(fault.map(|fault| (events.len(), fault)));
            events.push(event);
        }
        let len = events.len();
        let chunk = Chunk::new(Arc::new(events), 0, len, Timestamp::now());
        Arc::new(faults.into_iter().fold(chunk, |chunk, (n, fault)| chunk.with_fault(n, fault)))
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("patterns", &self.patterns).finish_non_exhaustive()
    }
}

/// Reads one queue; leaves when it is dropped.
pub(crate) struct Reading<F: FnMut() + Send + 'static> {
    pub(crate) queue: Arc<Queue>,
    pub(crate) notices: NoticeSender,
    pub(crate) leave: F,
}

impl<F: FnMut() + Send + 'static> Source for Reading<F> {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Arc<Chunk>>>> {
        let next = self.queue.poll(cx);
        if let Poll::Ready(Some(Err(error))) = &next
            && error.kind() == ErrorKind::Lagged
        {
            let missed = error.missed().unwrap_or(0);
            self.notices.send(NoticeKind::Lagging { group: None, missed });
        }
        next
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        (self.leave)();
        Poll::Ready(Ok(()))
    }
}

impl<F: FnMut() + Send + 'static> Drop for Reading<F> {
    fn drop(&mut self) {
        (self.leave)();
    }
}

#[cfg(test)]
mod tests {
    use fabric_core::IntoPatterns as _;

    use super::*;

    fn queue(events: usize, drops: Drops) -> Queue {
        let bound = Bound { events, bytes: 1 << 20, drops };
        Queue::new("#".into_patterns().unwrap(), bound, Vec::new())
    }

    fn event(n: usize) -> Event {
        Event::to("a").text(n.to_string()).build().unwrap()
    }

    /// What is read now: texts, and `-n` for n lost.
    fn read(queue: &Queue) -> Vec<String> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut list = Vec::new();
        while let Poll::Ready(Some(next)) = queue.poll(&mut cx) {
            match next {
                Ok(chunk) => {
                    list.extend(chunk.events().iter().map(|it| it.text().unwrap().into_owned()));
                }
                Err(error) => list.push(format!("-{}", error.missed().unwrap_or(0))),
            }
        }
        list
    }

    #[test]
    fn the_oldest_go_and_the_reader_is_told_first() {
        let queue = queue(2, Drops::Oldest);
        for n in 0..5 {
            assert_eq!(queue.push(event(n), None, &mut Wakes::default()), n >= 2);
        }
        assert_eq!(read(&queue), ["-3", "3", "4"]);
        let mut wakes = Wakes::default();
        queue.lose(4, &mut wakes);
        queue.push(event(9), None, &mut wakes);
        assert_eq!(read(&queue), ["-4", "9"]);
    }

    #[test]
    fn the_newest_go_and_the_reader_is_told_where() {
        let queue = queue(2, Drops::Newest);
        for n in 0..5 {
            queue.push(event(n), None, &mut Wakes::default());
        }
        assert_eq!(read(&queue), ["0", "1", "-3"]);
    }

    #[test]
    fn a_loss_stands_where_it_happened() {
        let queue = queue(100, Drops::Oldest);
        let mut wakes = Wakes::default();
        queue.push(event(1), None, &mut wakes);
        queue.lose(2, &mut wakes);
        queue.push(event(2), None, &mut wakes);
        queue.push_error(Error::new(ErrorKind::Codec, "no event"), &mut wakes);
        queue.push(event(3), None, &mut wakes);
        queue.lose(1, &mut wakes);
        queue.end();
        assert_eq!(read(&queue), ["1", "-2", "2", "-0", "3", "-1"]);
    }

    #[test]
    fn bytes_are_bounded_too() {
        let bound = Bound { events: 1000, bytes: 10_000, drops: Drops::Oldest };
        let queue = Queue::new("#".into_patterns().unwrap(), bound, Vec::new());
        for _ in 0..100 {
            queue.push(
                Event::to("a").bytes(vec![0; 1000]).build().unwrap(),
                None,
                &mut Wakes::default(),
            );
        }
        let waiting = queue.waiting.lock().unwrap();
        assert!(waiting.bytes <= 10_000 && waiting.items.len() < 10);
    }
}
