//! Subscriptions: polling the broker, and a timer for what happens by itself.

use std::fmt;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use fabric_core::clock::Now;
use fabric_core::{
    Chunk, NoticeKind, ReplayOptions, Result, Settler, Source, SubscribeOptions, Subscription,
};
use tokio::time::{Sleep, sleep_until};

use crate::broker::{Member, MemberFlags, Polled};
use crate::client::Client;
use crate::settle::MemberSettler;

impl Client {
    pub(crate) fn open(self: &Arc<Self>, options: &SubscribeOptions) -> Result<Subscription> {
        self.check_open()?;
        let now = Now::read();
        if options.durable_group().is_none() {
            let index =
                self.instance.at(now, |broker, _| broker.subscribe(self.id, options, now))?;
            let client = Arc::clone(self);
            return Ok(Subscription::from_source(Reader {
                client,
                place: Some(Place::Plain(index)),
                timer: None,
            }));
        }
        let flags = Arc::new(MemberFlags::default());
        let (member, definition) = self.instance.at(now, |broker, wakers| {
            let group = broker.admit(options, now, wakers)?;
            let member = broker.join(group, self.id, options.prefetch, Arc::clone(&flags));
            let settler: Arc<dyn Settler> = Arc::new(MemberSettler {
                instance: Arc::downgrade(&self.instance),
                client: Arc::downgrade(self),
                member,
                flags,
            });
            broker.set_settler(member, settler);
            Ok::<_, fabric_core::Error>((member, broker.definition(group)))
        })?;
        let client = Arc::clone(self);
        let place = Some(Place::Member(member));
        let subscription = Subscription::from_source(Reader { client, place, timer: None });
        Ok(match definition {
            Some(definition) => subscription.with_definition(definition),
            None => subscription,
        })
    }

    pub(crate) fn open_replay(self: &Arc<Self>, options: &ReplayOptions) -> Result<Subscription> {
        self.check_open()?;
        let now = Now::read();
        let ranges = self.instance.at(now, |broker, _| {
            broker.ranges(&options.patterns, &options.start, &options.end, now)
        })?;
        Ok(Subscription::from_source(History {
            client: Arc::clone(self),
            ranges: ranges.into_iter(),
            current: None,
            left: options.limit.unwrap_or(u64::MAX),
        }))
    }
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Plain(usize),
    Member(Member),
}

/// The source of a live subscription or of a group's member.
struct Reader {
    client: Arc<Client>,
    place: Option<Place>,
    /// Rings when a lease or a delay ends. It is kept while it rings early enough.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Reader {
    fn leave(&mut self) {
        if let Some(place) = self.place.take() {
            self.client.instance.with(|broker, wakers| match place {
                Place::Plain(index) => broker.unsubscribe(index, wakers),
                Place::Member(member) => broker.leave(member, wakers),
            });
        }
    }
}

impl Source for Reader {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Arc<Chunk>>>> {
        loop {
            let Some(place) = self.place else { return Poll::Ready(None) };
            let now = Now::read();
            let (polled, next) = self.client.instance.at(now, |broker, wakers| {
                let polled = match place {
                    Place::Plain(index) => broker.poll_plain(index, now, cx.waker(), wakers),
                    Place::Member(member) => broker.poll_group(member, now, cx.waker(), wakers),
                };
                (polled, broker.next_event())
            });
            match polled {
                Polled::Chunk(chunk) => return Poll::Ready(Some(Ok(chunk))),
                Polled::Error(error) => {
                    let missed = error.missed().unwrap_or(0);
                    self.client.notices.send(NoticeKind::Lagging { group: None, missed });
                    return Poll::Ready(Some(Err(error)));
                }
                Polled::Gone(error) => {
                    self.place = None;
                    return Poll::Ready(Some(Err(error)));
                }
                Polled::End => {
                    self.leave();
                    return Poll::Ready(None);
                }
                Polled::Pending => {
                    let Some(next) = next else { return Poll::Pending };
                    let timer = match &mut self.timer {
                        Some(timer) if timer.deadline() <= next && !timer.is_elapsed() => timer,
                        timer => timer.insert(Box::pin(sleep_until(next))),
                    };
                    ready!(timer.as_mut().poll(cx));
                    self.timer = None;
                }
            }
        }
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        self.leave();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.leave();
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("place", &self.place).finish_non_exhaustive()
    }
}

/// The source of a replay: ranges of topics, one after the other.
#[derive(Debug)]
struct History {
    client: Arc<Client>,
    ranges: std::vec::IntoIter<(usize, u64, u64)>,
    current: Option<(usize, u64, u64)>,
    left: u64,
}

impl Source for History {
    fn poll_chunk(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Arc<Chunk>>>> {
        loop {
            if let Err(error) = self.client.check_open() {
                return Poll::Ready(Some(Err(error)));
            }
            let Some((topic, from, until)) = self.current.take().or_else(|| self.ranges.next())
            else {
                return Poll::Ready(None);
            };
            if from >= until {
                continue;
            }
            if self.left == 0 {
                return Poll::Ready(None);
            }
            let most = usize::try_from(self.left).unwrap_or(usize::MAX);
            let now = Now::read();
            let read = self
                .client
                .instance
                .at(now, |broker, _| broker.read(topic, from, until, most, now));
            if read.missed > 0 {
                self.current = Some((topic, from + read.missed, until));
                return Poll::Ready(Some(Err(fabric_core::Error::lagged(read.missed))));
            }
            self.current = Some((topic, read.next, until));
            if let Some(chunk) = read.chunk {
                self.left -= chunk.len() as u64;
                return Poll::Ready(Some(Ok(chunk)));
            }
        }
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }
}
