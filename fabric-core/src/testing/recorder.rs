//! The layer that writes down what happens.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::published::Published;
use super::record::{Step, What};
use crate::Result;
use crate::backend::{Backend, DynGroups, SharedBackend};
use crate::batch::{Batch, Confirms};
use crate::chunk::Chunk;
use crate::event::Event;
use crate::group::Group;
use crate::layer::Layer;
use crate::layers::way::{Way, groups_by_way};
use crate::options::SubscribeOptions;
use crate::pattern::Pattern;
use crate::subscription::{Source, Subscription};
use crate::topic::Topic;
use crate::typed::TypedEvent;
use crate::watch::{Asked, Place, Watch, Work};

/// How many steps are kept: those after them are not written down.
const MAX_STEPS: usize = 4_000_000;

/// Writes down what happens to the events that pass: for tests.
///
/// It belongs next to the backend, inside of faults, so that it knows what really arrived. Requests
/// and their answers are not written down. Clones share what is written.
///
/// ```
/// use fabric_core::testing::Recorder;
/// # fn example(fabric: fabric_core::Fabric) -> fabric_core::Result<()> {
/// let recorder = Recorder::new();
/// let fabric = fabric.layer(recorder.clone())?;
/// for step in recorder.steps() {
///     println!("{step}");
/// }
/// # Ok(()) }
/// ```
///
/// # Errors
/// Adding it never fails.
#[derive(Clone)]
#[must_use = "a layer does nothing before it is added"]
pub struct Recorder {
    shared: Arc<Shared>,
}

struct Shared {
    began: Instant,
    steps: Mutex<Vec<Step>>,
    changed: Notify,
}

impl Recorder {
    /// With nothing written yet.
    pub fn new() -> Self {
        let shared =
            Shared { began: Instant::now(), steps: Mutex::default(), changed: Notify::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Everything so far, in the order in which it happened: the first four million steps.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        self.shared.lock().clone()
    }

    /// How many steps there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.lock().len()
    }

    /// Whether nothing happened yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The last steps as text, one a line.
    #[must_use]
    pub fn tail(&self, steps: usize) -> String {
        let all = self.shared.lock();
        let skip = all.len().saturating_sub(steps);
        all.iter().skip(skip).map(|step| format!("{step}\n")).collect()
    }

    /// The events of type `T` that were published and kept.
    ///
    /// # Panics
    /// If one of them cannot be read as a `T`.
    #[track_caller]
    pub fn published<T: TypedEvent>(&self) -> Published<T> {
        let pattern = Pattern::new(T::PATTERN);
        let pattern = pattern.unwrap_or_else(|error| panic!("the pattern of a type: {error}"));
        let events = self.events(|event| pattern.matches(event.topic()));
        let read = |event: &Event| match (event.decode(), event.event_type() == T::TYPE) {
            (Ok(typed), true) => Some(typed),
            (Err(error), true) => panic!("{error:#}"),
            // One that says no type is of this one if it can be read as such.
            (read, false) => read.ok().filter(|_| event.is_of_no_type()),
        };
        Published::new(events.iter().filter_map(read).collect())
    }

    /// The events on topics that match `pattern` that were published and kept.
    ///
    /// # Panics
    /// If it is no pattern.
    #[must_use]
    #[track_caller]
    pub fn published_on(&self, pattern: impl AsRef<str>) -> Vec<Event> {
        let pattern = Pattern::new(pattern.as_ref()).unwrap_or_else(|error| panic!("{error}"));
        self.events(|event| pattern.matches(event.topic()))
    }

    /// Every dead letter that `group` ever had, redriven or purged since or not.
    ///
    /// # Panics
    /// If it is no group.
    #[must_use]
    #[track_caller]
    pub fn dead(&self, group: impl AsRef<str>) -> Vec<Event> {
        let topic = Topic::dead_letters(&group_of(group));
        let steps = self.shared.lock();
        let died = steps.iter().filter(|step| matches!(step.what, What::Died));
        died.filter(|step| *step.event.topic() == topic).map(|step| step.event.clone()).collect()
    }

    /// How often handlers of `group` tried the event `id`; where nobody said that a handler works
    /// on it, how often it was handed out.
    ///
    /// # Panics
    /// If it is no group.
    #[must_use]
    #[track_caller]
    pub fn attempts(&self, id: impl AsRef<str>, group: impl AsRef<str>) -> u32 {
        let (id, group) = (id.as_ref(), group_of(group));
        let steps = self.shared.lock();
        let (mut tried, mut delivered) = (0, 0);
        for step in steps.iter().filter(|step| step.group.as_ref() == Some(&group)) {
            match &step.what {
                What::Tried if step.event.id() == id => tried += 1,
                What::Delivered if step.event.id() == id => delivered += 1,
                _ => {}
            }
        }
        if tried > 0 { tried } else { delivered }
    }

    /// Resolves with the next step.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub fn changed(&self) -> impl Future<Output = ()> + Send + '_ {
        self.shared.changed.notified()
    }

    fn events(&self, wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
        let steps = self.shared.lock();
        let published = steps.iter().filter(|step| matches!(step.what, What::Published));
        published.map(|step| &step.event).filter(|event| wanted(event)).cloned().collect()
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("steps", &self.len()).finish()
    }
}

#[track_caller]
fn group_of(name: impl AsRef<str>) -> Group {
    Group::new(name).unwrap_or_else(|error| panic!("{error}"))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<Step>> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, steps: impl IntoIterator<Item = (What, Event, Option<Group>, u32)>) {
        let at = self.began.elapsed();
        let step = |(what, event, group, attempt)| Step { at, what, event, group, attempt };
        let mut all = self.lock();
        let room = MAX_STEPS - all.len().min(MAX_STEPS);
        all.extend(steps.into_iter().take(room).map(step));
        drop(all);
        self.changed.notify_waiters();
    }

    /// The deliveries of a chunk in `mask`, as steps of one kind.
    fn of_chunk(&self, chunk: &Chunk, mask: u64, what: &What) {
        let group = chunk.group().cloned();
        let here = |n: &usize| mask & 1 << n != 0 && !chunk.is_hidden(*n);
        self.write(
            (0..chunk.len()).filter(here).map(|n| {
                (what.clone(), chunk.events()[n].clone(), group.clone(), chunk.attempt(n))
            }),
        );
    }
}

impl Layer for Recorder {
    fn layer(&self, inner: SharedBackend) -> Result<SharedBackend> {
        Ok(Arc::new(Recorded { inner, shared: Arc::clone(&self.shared) }))
    }
}

#[derive(Debug)]
struct Recorded {
    inner: SharedBackend,
    shared: Arc<Shared>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("steps", &self.lock().len()).finish_non_exhaustive()
    }
}

/// A batch that was handed over and waits for its answer.
struct Handed {
    shared: Arc<Shared>,
    events: Vec<Event>,
    group: Option<Group>,
}

impl Handed {
    fn watch(self, confirms: Confirms) -> Confirms {
        confirms.map(move |outcomes| {
            self.shared.write(self.events.iter().enumerate().map(
                |(n, event)| match outcomes.get(n) {
                    Some(Err(error)) => self.step(event, What::NotPublished(error)),
                    _ => self.kept(event),
                },
            ));
            outcomes
        })
    }

    fn failed(&self, error: &crate::Error) {
        let failed = |event| self.step(event, What::NotPublished(error.clone()));
        self.shared.write(self.events.iter().map(failed));
    }

    fn kept(&self, event: &Event) -> (What, Event, Option<Group>, u32) {
        let letter = event.dead_letter().filter(|_| event.topic().is_reserved());
        match (letter, &self.group) {
            (Some(letter), _) => (What::Died, event.clone(), Some(letter.group.clone()), 0),
            (None, Some(_)) => self.step(event, What::Sent),
            (None, None) => self.step(event, What::Published),
        }
    }

    fn step(&self, event: &Event, what: What) -> (What, Event, Option<Group>, u32) {
        (what, event.clone(), self.group.clone(), 0)
    }
}

impl Recorded {
    fn hand(&self, batch: &Batch, group: Option<Group>) -> Handed {
        Handed { shared: Arc::clone(&self.shared), events: batch.events.to_vec(), group }
    }

    async fn send(&self, way: Way, batch: Batch) -> Result<Confirms> {
        let group = match &way {
            Way::Topics => None,
            Way::Group { group, .. } => Some(group.clone()),
        };
        let handed = self.hand(&batch, group);
        match way.submit(&self.inner, batch).await {
            Ok(confirms) => Ok(handed.watch(confirms)),
            Err(error) => {
                handed.failed(&error);
                Err(error)
            }
        }
    }
}

#[deny(clippy::missing_trait_methods)]
impl Backend for Recorded {
    crate::forward!(self.inner: info, capabilities, notices, replay, request_reply, admin, health,
        close);

    fn try_submit(&self, batch: Batch) -> Result<Confirms, Batch> {
        let handed = self.hand(&batch, None);
        self.inner.try_submit(batch).map(|confirms| handed.watch(confirms))
    }

    async fn submit(&self, batch: Batch) -> Result<Confirms> {
        self.send(Way::Topics, batch).await
    }

    async fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription> {
        let subscription = self.inner.subscribe(options).await?;
        let watch = Arc::new(Deliveries(Arc::clone(&self.shared)));
        Ok(subscription.map_source(|inner| RecordedSource { inner, watch }))
    }

    fn groups(&self) -> Option<&dyn DynGroups> {
        self.inner.groups().is_some().then_some(self)
    }
}

groups_by_way!(Recorded);

struct RecordedSource {
    inner: Box<dyn Source>,
    watch: Arc<Deliveries>,
}

impl Source for RecordedSource {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Arc<Chunk>>>> {
        let next = ready!(self.inner.poll_chunk(cx));
        Poll::Ready(next.map(|chunk| {
            chunk.map(|chunk| {
                let all = chunk.full_mask();
                self.watch.0.of_chunk(&chunk, all, &What::Delivered);
                Arc::new(Chunk::view(chunk, all).with_watch(Arc::clone(&self.watch) as _))
            })
        }))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.inner.poll_close(cx)
    }
}

struct Deliveries(Arc<Shared>);

impl Watch for Deliveries {
    fn after(&self, chunk: &Chunk, mask: u64, asked: Asked<'_>, _: Instant, result: &Result<()>) {
        if result.is_err() {
            return;
        }
        let what = match asked {
            Asked::Ack => What::Acked,
            Asked::Nack(nack) => What::Nacked(nack.error.clone()),
            Asked::Reject => What::Rejected,
        };
        self.0.of_chunk(chunk, mask, &what);
    }

    fn begin(&self, deliveries: &[Place<'_>]) -> Option<Box<dyn Work>> {
        let of = |(chunk, n): &Place<'_>| Tried {
            event: chunk.events()[*n].clone(),
            group: chunk.group().cloned(),
            attempt: chunk.attempt(*n),
        };
        let tried: Vec<Tried> = deliveries.iter().map(of).collect();
        let work = Working { shared: Arc::clone(&self.0), tried, ended: false };
        work.write(&What::Tried);
        Some(Box::new(work))
    }
}

struct Tried {
    event: Event,
    group: Option<Group>,
    attempt: u32,
}

/// A handler at work on deliveries.
struct Working {
    shared: Arc<Shared>,
    tried: Vec<Tried>,
    ended: bool,
}

impl Working {
    fn write(&self, what: &What) {
        let steps = self.tried.iter();
        self.shared.write(
            steps.map(|tried| {
                (what.clone(), tried.event.clone(), tried.group.clone(), tried.attempt)
            }),
        );
    }
}

impl Work for Working {
    fn end(mut self: Box<Self>, error: Option<&dyn fmt::Display>) {
        self.ended = true;
        if let Some(error) = error {
            self.write(&What::Failed(error.to_string()));
        }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        if !self.ended {
            self.write(&What::GivenUp);
        }
    }
}
