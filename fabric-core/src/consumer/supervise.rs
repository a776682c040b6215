//! What watches over the workers of a consumer, and ends them.

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};

use super::busy::Busy;
use super::run::{Control, Engine, Phase};
use super::status::ConsumerEvent;
use crate::{Error, ErrorKind, Result};

/// How often the watch looks for handlers that block their thread.
const WATCH: Duration = Duration::from_secs(1);

/// Where a worker works, if one does.
#[derive(Default)]
struct Place {
    worker: Option<Id>,
    busy: Arc<Busy>,
    /// The poll that went on at the last look.
    seen: Option<(u64, usize)>,
}

impl Place {
    /// One that is free.
    fn free(places: &mut Vec<Self>) -> &mut Self {
        let free = places.iter().position(|place| place.worker.is_none());
        let index = free.unwrap_or_else(|| {
            places.push(Self::default());
            places.len() - 1
        });
        &mut places[index]
    }

    /// Its worker has ended.
    fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Keeps as many workers as there are to be, watches over them, and ends them.
pub(crate) async fn supervise<S: Send + Sync + 'static>(
    engine: Arc<Engine<S>>,
    mut control: watch::Receiver<Control>,
    done: watch::Sender<Option<Result<()>>>,
    drain_within: Duration,
) {
    let mut workers: JoinSet<()> = JoinSet::new();
    let mut places: Vec<Place> = Vec::new();
    let mut watch =
        tokio::time::interval(WATCH.min(engine.plan.ack_wait / 3).max(Duration::from_millis(1)));
    watch.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut looked = tokio::time::Instant::now();
    loop {
        let now = *control.borrow_and_update();
        if now.phase != Phase::Running {
            break;
        }
        while workers.len() < now.concurrency {
            let place = Place::free(&mut places);
            let (engine, control) = (Arc::clone(&engine), control.clone());
            let work = engine.work(Arc::clone(&place.busy), control);
            place.worker = Some(workers.spawn(work).id());
        }
        let changed = pin!(control.changed());
        let ended = pin!(workers.join_next_with_id());
        let tick = pin!(watch.tick());
        match select(changed, select(ended, tick)).await {
            Either::Left((Ok(()), _)) => {}
            Either::Left((Err(_), _)) => break,
            Either::Right((Either::Left((ended, _)), _)) => {
                let id = match ended {
                    Some(Ok((id, ()))) => Some(id),
                    Some(Err(died)) => {
                        engine.died(&died);
                        Some(died.id())
                    }
                    None => None,
                };
                places.iter_mut().filter(|place| place.worker == id).for_each(Place::clear);
                if engine.inbox.is_over() {
                    break;
                }
            }
            Either::Right((Either::Right(_), _)) => {
                engine.extend_waiting().await;
                if looked.elapsed() >= WATCH {
                    looked = tokio::time::Instant::now();
                    watch_for_blocked(&engine, &mut places);
                }
            }
        }
    }
    engine.shared.draining.store(true, Ordering::Release);
    engine.events.send(ConsumerEvent::Draining);
    let forced = control.borrow().phase == Phase::Stopping || control.has_changed().is_err();
    let left = if forced {
        workers.len()
    } else {
        drain(&engine, &mut workers, &mut control, drain_within).await
    };
    workers.shutdown().await;
    drop(engine.inbox.take());
    let result = match engine.ended.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(error) => Err(error),
        None if left > 0 && !forced => Err(Error::new(
            ErrorKind::Timeout,
            format!(
                "{left} handlers did not finish within {drain_within:?}; their events come again"
            ),
        )),
        None => Ok(()),
    };
    engine.events.send(ConsumerEvent::Stopped);
    done.send_replace(Some(result));
}

/// Lets workers finish; how many did not.
async fn drain<S: Send + Sync + 'static>(
    engine: &Engine<S>,
    workers: &mut JoinSet<()>,
    control: &mut watch::Receiver<Control>,
    within: Duration,
) -> usize {
    let deadline = tokio::time::Instant::now() + within;
    // What was not handed out goes to the other members at once.
    if let Some(subscription) = engine.inbox.take()
        && let Err(error) = subscription.close().await
    {
        engine.events.send(ConsumerEvent::Trouble { error });
    }
    loop {
        if workers.is_empty() {
            return 0;
        }
        let over = {
            let late = pin!(tokio::time::sleep_until(deadline));
            let changed = pin!(control.wait_for(|control| control.phase == Phase::Stopping));
            let ended = pin!(workers.join_next());
            matches!(select(ended, select(late, changed)).await, Either::Right(_))
        };
        if over {
            return workers.len();
        }
    }
}

/// Warns of handlers that have been in one poll since the last look.
fn watch_for_blocked<S: Send + Sync + 'static>(engine: &Engine<S>, places: &mut [Place]) {
    for place in places {
        let poll = place.busy.poll();
        if let Some((_, route)) = poll
            && poll == place.seen
        {
            let handler = engine.name_of(route);
            engine.counters.blocked.fetch_add(1, Ordering::Relaxed);
            engine.events.send(ConsumerEvent::Blocked { handler });
            tracing::warn!(
                handler,
                "a handler blocks its thread; move the work to `spawn_blocking`"
            );
        }
        place.seen = poll;
    }
}
