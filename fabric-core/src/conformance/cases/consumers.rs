//! O, L, M: what the consumer runtime makes of a backend.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::order::send_by_key;
use crate::capabilities::Ability;
use crate::conformance::actors::Reader;
use crate::conformance::failure::{Failure, Verdict, ensure, ensure_eq};
use crate::conformance::history::{History, Op, Record, Stage};
use crate::conformance::tamper::{Harm, Tamper};
use crate::conformance::trial::Trial;
use crate::consumer::{
    Consumer, ConsumerBuilder, ConsumerEvent, ConsumerState, Context, HandlerError, HandlerResult,
    KillSwitch, Retry,
};
use crate::error::ErrorKind;
use crate::event::Event;
use crate::fabric::Fabric;
use crate::group::Group;
use crate::topic::Topic;

/// A wait between tries that a consumer spends holding the event.
const SHORT: Duration = Duration::from_millis(20);

/// What the handlers of one group do, written down and counted.
#[derive(Clone)]
struct Work(Arc<Shared>);

struct Shared {
    history: History,
    audience: Arc<str>,
    begun: watch::Sender<usize>,
    done: watch::Sender<usize>,
    running: watch::Sender<usize>,
    most: AtomicUsize,
    /// Lets this many handlers go on.
    gate: Semaphore,
    /// Begins and ends by value, in order.
    lines: Mutex<Vec<(&'static str, String)>>,
}

impl Work {
    fn new(t: &Trial, group: &Group) -> Self {
        Self(Arc::new(Shared {
            history: t.history().clone(),
            audience: group.as_str().into(),
            begun: watch::Sender::new(0),
            done: watch::Sender::new(0),
            running: watch::Sender::new(0),
            most: AtomicUsize::new(0),
            gate: Semaphore::new(0),
            lines: Mutex::default(),
        }))
    }

    /// A handler begins on an event; it runs until the answer is dropped.
    fn begin(&self, event: &Event) -> Running {
        let value: Arc<str> =
            event.text().map_or_else(|_| event.id().to_string(), Into::into).into();
        let actor = Arc::clone(&self.0.audience);
        let record = Record::new(&actor, Op::Receive, Stage::Ok, &value, event.topic());
        self.0.history.add(Record {
            audience: Some(actor),
            key: event.key().map(Arc::from),
            ..record
        });
        self.line("begun", &value);
        self.0.begun.send_modify(|count| *count += 1);
        self.0.running.send_modify(|count| *count += 1);
        self.0.most.fetch_max(*self.0.running.borrow(), Ordering::SeqCst);
        Running(self.clone())
    }

    /// The event was handled.
    fn end(&self, event: &Event) {
        self.line("done", &event.text().unwrap_or_default());
        self.0.done.send_modify(|count| *count += 1);
    }

    fn line(&self, what: &'static str, value: &str) {
        let mut lines = self.0.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push((what, value.to_owned()));
    }

    /// Waits for leave to go on.
    async fn gate(&self) {
        if let Ok(permit) = self.0.gate.acquire().await {
            permit.forget();
        }
    }

    fn begun(&self) -> usize {
        *self.0.begun.borrow()
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Waits until a count is what it has to be.
async fn until(
    t: &Trial,
    what: &'static str,
    count: &watch::Sender<usize>,
    wanted: impl Fn(usize) -> bool + Send + Sync,
) -> Verdict {
    let mut count = count.subscribe();
    let reached = async { count.wait_for(|count| wanted(*count)).await.is_ok() };
    ensure!(t.within(what, reached).await?, "nobody counts any more");
    Ok(())
}

struct Running(Work);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.0.running.send_modify(|count| *count -= 1);
    }
}

fn consumer(fabric: &Fabric, group: &Group, work: &Work) -> ConsumerBuilder<Work> {
    fabric.consumer(group).state(work.clone())
}

/// What a case that is over leaves behind.
async fn drained(t: &Trial, consumer: Consumer) -> Verdict {
    Ok(t.within("a drain", consumer.drain()).await??)
}

/// What another member of `group` still gets.
async fn next_member(t: &Trial, topic: &Topic, group: &Group) -> Verdict<Reader> {
    Ok(t.reader(t.fabric().subscribe(topic).group(group).await?, "next", "next"))
}

/// A reader of the dead letters of `group`.
async fn letters(t: &Trial, group: &Group) -> Verdict<Reader> {
    let subscription = t.fabric().subscribe(Topic::dead_letters(group)).await?;
    Ok(t.reader(subscription, "letters", "letters"))
}

/// O2a: at any concurrency handlers see each key in order, one event after the other, and different
/// keys side by side.
pub async fn handlers_keep_the_order_of_each_key(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("keys"), t.group("g"));
    let work = Work::new(t, &group);
    let busy: Arc<Mutex<HashSet<String>>> = Arc::default();
    let twice = Arc::new(AtomicUsize::new(0));
    let (keys, overlaps) = (Arc::clone(&busy), Arc::clone(&twice));
    let consumer = consumer(t.fabric(), &group, &work)
        .on_pattern(topic.as_str(), async move |event: Event, cx: Context<Work>| {
            let _running = cx.state().begin(&event);
            let key = event.key().unwrap_or_default().to_owned();
            if !keys.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone()) {
                overlaps.fetch_add(1, Ordering::SeqCst);
            }
            tokio::time::sleep(Duration::from_millis(fastrand::u64(1..4))).await;
            keys.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            cx.state().end(&event);
            Ok(())
        })
        .concurrency(8)
        .ordered_by_key()
        // Within any lease: not every backend can extend one.
        .retry(Retry::fixed(SHORT).forever())
        .start()
        .await?;
    send_by_key(t, &topic).await?;
    until(t, "the last of 400 events", &work.0.done, |done| done >= 400).await?;
    drained(t, consumer).await?;
    ensure_eq!(twice.load(Ordering::SeqCst), 0, "how often two events of one key ran at once");
    let most = work.0.most.load(Ordering::SeqCst);
    ensure!((2..=8).contains(&most), "{most} handlers ran at once, of at most 8");
    t.check(&group).exactly()?.keys_in_order().map(drop)
}

/// O3: an event that fails holds back its own key alone, until it is handled.
pub async fn a_failed_event_holds_back_its_own_key_alone(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("held"), t.group("g"));
    let work = Work::new(t, &group);
    let consumer = consumer(t.fabric(), &group, &work)
        .on_pattern(topic.as_str(), async |event: Event, cx: Context<Work>| {
            let _running = cx.state().begin(&event);
            // The second event of the key `a` fails until the whole of `b` is done, and twice.
            let others = cx.state().lines();
            let done =
                others.iter().filter(|(what, value)| *what == "done" && value.contains("|b|"));
            if event.text()?.ends_with("|a|1") && (done.count() < 5 || cx.attempt() < 3) {
                return Err(HandlerError::transient("not yet"));
            }
            cx.state().end(&event);
            Ok(())
        })
        .concurrency(4)
        .ordered_by_key()
        .retry(Retry::fixed(SHORT).forever())
        .start()
        .await?;
    for key in ["a", "b"] {
        let mut publisher = t.publisher(t.fabric(), key);
        for _ in 0..5 {
            let draft = publisher.draft(&topic).key(key);
            publisher.publish(draft).await?;
        }
    }
    until(t, "the last of ten events", &work.0.done, |done| done >= 10).await?;
    drained(t, consumer).await?;
    let lines = work.lines();
    let of_a = |what: &str| -> Vec<&str> {
        let lines = lines.iter().filter(|(line, value)| *line == what && value.contains("|a|"));
        lines.filter_map(|(_, value)| value.rsplit('|').next()).collect()
    };
    ensure_eq!(of_a("done"), ["0", "1", "2", "3", "4"], "the order in which `a` was handled");
    let begun = of_a("begun");
    ensure!(
        begun.is_sorted() && begun.iter().filter(|n| **n == "1").count() >= 3,
        "an event of `a` was begun before the one that failed was handled: {begun:?}"
    );
    t.check(&group).nothing_lost()?.nothing_unexpected().map(drop)
}

/// O2d: where keys are ordered across members, handlers of several consumers keep their order.
pub async fn handlers_of_several_members_keep_the_order_of_each_key(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("keys"), t.group("g"));
    let work = Work::new(t, &group);
    let mut consumers = Vec::new();
    for _ in 0..3 {
        let member = consumer(t.fabric(), &group, &work)
            .on_pattern(topic.as_str(), async |event: Event, cx: Context<Work>| {
                let _running = cx.state().begin(&event);
                tokio::time::sleep(Duration::from_millis(fastrand::u64(1..4))).await;
                cx.state().end(&event);
                Ok(())
            })
            .concurrency(4)
            .ordered_by_key();
        consumers.push(member.start().await?);
    }
    send_by_key(t, &topic).await?;
    until(t, "the last of 400 events", &work.0.done, |done| done >= 400).await?;
    for consumer in consumers {
        drained(t, consumer).await?;
    }
    t.check(&group).nothing_lost()?.nothing_unexpected()?.keys_in_order().map(drop)
}

/// L2: a drain takes no new events and lets running handlers finish, with what they publish and
/// their acks; the rest is another member's.
pub async fn a_drain_finishes_what_runs_and_nothing_else(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("drained"), t.group("g"));
    let (own, returned) = (t.topic("own"), t.topic("returned"));
    let outputs = t.group("outputs");
    let to_outputs = t.fabric().subscribe([own.as_str(), returned.as_str()]).group(&outputs);
    let mut outputs = t.reader(to_outputs.await?, "outputs", "outputs");
    let work = Work::new(t, &group);
    let consumer = consumer(t.fabric(), &group, &work)
        .on_pattern(topic.as_str(), async move |event: Event, cx: Context<Work>| {
            let _running = cx.state().begin(&event);
            cx.state().gate().await;
            let draining = if cx.draining() { "draining" } else { "running" };
            cx.fabric().publish(Event::to(&own).text(draining)).await?;
            cx.state().end(&event);
            Ok(Event::to(&returned).text("returned"))
        })
        .concurrency(8)
        .drain_within(t.timing().patience)
        .start()
        .await?;
    t.publisher(t.fabric(), "p").send_many(&topic, 20).await?;
    until(t, "eight handlers at work", &work.0.running, |running| running == 8).await?;
    let mut events = consumer.events();
    let drain = tokio::spawn(consumer.drain());
    while !matches!(
        t.within("draining", events.next()).await?,
        Some(ConsumerEvent::Draining) | None
    ) {}
    work.0.gate.add_permits(100);
    t.within("a drain", drain).await?.map_err(|_| Failure::new("the drain panicked"))??;
    ensure_eq!(work.begun(), 8, "handlers that were begun");
    let mut said = Vec::new();
    for delivery in outputs.take(16).await? {
        said.push(delivery.text()?.into_owned());
        outputs.ack(delivery).await?;
    }
    said.sort_unstable();
    ensure_eq!(said, [["draining"; 8], ["returned"; 8]].concat(), "what the handlers published");
    let mut next = next_member(t, &topic, &group).await?;
    let mut left = BTreeSet::new();
    for delivery in next.take(12).await? {
        left.insert(delivery.text()?.into_owned());
        next.ack(delivery).await?;
    }
    next.quiet().await?;
    let done: BTreeSet<String> = work.lines().into_iter().map(|(_, value)| value).collect();
    ensure!(left.is_disjoint(&done) && left.len() == 12, "some of {done:?} came again: {left:?}");
    Ok(())
}

/// L3: a drain that runs out of time cancels its handlers; their events are neither acked nor
/// rejected nor failed, and all come again.
pub async fn a_forced_stop_settles_nothing(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("forced"), t.group("g"));
    let work = Work::new(t, &group);
    let consumer = consumer(t.fabric(), &group, &work)
        .on_pattern(topic.as_str(), async |event: Event, cx: Context<Work>| {
            let _running = cx.state().begin(&event);
            std::future::pending::<HandlerResult>().await
        })
        .concurrency(8)
        .ack_wait(t.ack_wait())
        .drain_within(Duration::from_millis(200))
        .start()
        .await?;
    t.publisher(t.fabric(), "p").send_many(&topic, 8).await?;
    until(t, "eight handlers at work", &work.0.running, |running| running == 8).await?;
    let mut events = consumer.events();
    let ended = t.within("a drain", consumer.drain()).await?;
    ensure_eq!(ended.map_err(|error| error.kind()), Err(ErrorKind::Timeout), "how it ended");
    ensure_eq!(*work.0.running.borrow(), 0, "handlers that go on");
    while let Some(event) = t.within("the end of the consumer", events.next()).await? {
        let failed = matches!(event, ConsumerEvent::HandlerFailed { .. });
        ensure!(!failed, "a handler that was stopped counts as failed: {event:?}");
    }
    let join = t.fabric().subscribe(&topic).group(&group).await?;
    let mut next = t.reader(join, &group, "next");
    next.ack_many(8).await?;
    next.quiet().await?;
    t.check(&group).nothing_lost()?.nothing_unexpected()?;
    let counts = [Ability::DeadLetters, Ability::GroupDefine, Ability::GroupInfo];
    if counts.into_iter().all(|ability| t.can(ability)) {
        ensure_eq!(t.fabric().dead_letters(&group).count().await?, 0, "dead letters");
    }
    Ok(())
}

/// L5b: as many handlers run as the consumer is set to, also where that changes, and no more events
/// are held than the prefetch allows.
pub async fn concurrency_changes_while_a_consumer_runs(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("bounds"), t.group("g"));
    let work = Work::new(t, &group);
    let consumer = consumer(t.fabric(), &group, &work)
        .on_pattern(topic.as_str(), async |event: Event, cx: Context<Work>| {
            let _running = cx.state().begin(&event);
            cx.state().gate().await;
            cx.state().end(&event);
            Ok(())
        })
        .concurrency(4)
        .prefetch(16)
        .start()
        .await?;
    t.publisher(t.fabric(), "p").send_many(&topic, 200).await?;
    until(t, "four handlers", &work.0.running, |running| running == 4).await?;
    if t.can(Ability::GroupInfo) {
        let held = t.fabric().groups()?.info(&group).await?.pending();
        ensure!(held <= 16, "{held} events are held, of at most 16");
    }
    ensure_eq!(work.0.most.load(Ordering::SeqCst), 4, "the most handlers at once");
    consumer.set_concurrency(8)?;
    until(t, "eight handlers", &work.0.running, |running| running == 8).await?;
    consumer.set_concurrency(2)?;
    // Those that run go on; no new one begins before fewer than two are left.
    work.0.gate.add_permits(6);
    until(t, "six handlers' ends", &work.0.done, |done| done == 6).await?;
    until(t, "two handlers", &work.0.running, |running| running == 2).await?;
    ensure_eq!(work.begun(), 8, "handlers that were begun");
    work.0.most.store(0, Ordering::SeqCst);
    work.0.gate.add_permits(30);
    until(t, "thirty more", &work.0.done, |done| done == 36).await?;
    let most = work.0.most.load(Ordering::SeqCst);
    ensure!(most <= 2, "{most} handlers ran at once after it was set to 2");
    consumer.set_concurrency(16)?;
    work.0.gate.add_permits(1000);
    until(t, "the last of 200 events", &work.0.done, |done| done == 200).await?;
    drained(t, consumer).await?;
    t.check(&group).exactly().map(drop)
}

/// M1: each try has a time limit of its own, a panic is caught, the waits follow the policy, and the
/// event is acked in the end.
pub async fn tries_are_bounded_caught_and_made_again(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("tries"), t.group("g"));
    let work = Work::new(t, &group);
    let tries: Arc<Mutex<Vec<(u32, Instant)>>> = Arc::default();
    let seen = Arc::clone(&tries);
    let millis = Duration::from_millis;
    let consumer = consumer(t.fabric(), &group, &work)
        .on_pattern(topic.as_str(), move |event: Event, cx: Context<Work>| {
            let seen = Arc::clone(&seen);
            async move {
                let _running = cx.state().begin(&event);
                if event.text()?.ends_with("|0") {
                    let now = (cx.attempt(), Instant::now());
                    seen.lock().unwrap_or_else(PoisonError::into_inner).push(now);
                    match cx.attempt() {
                        1 => std::future::pending::<HandlerResult>().await?,
                        // A panic that no hook prints.
                        2 => std::panic::resume_unwind(Box::new("on purpose, by the case")),
                        3 => return Err(HandlerError::transient("on purpose, by the case")),
                        _ => {}
                    }
                }
                cx.state().end(&event);
                Ok(())
            }
        })
        .timeout(millis(50))
        .retry(Retry::exponential(millis(100)).without_jitter())
        .start()
        .await?;
    t.publisher(t.fabric(), "p").send_many(&topic, 2).await?;
    until(t, "both events", &work.0.done, |done| done == 2).await?;
    let status = consumer.status();
    drained(t, consumer).await?;
    ensure_eq!((status.failed, status.dead_letters), (3, 0), "failed tries and dead letters");
    let tries = tries.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let attempts: Vec<u32> = tries.iter().map(|(attempt, _)| *attempt).collect();
    ensure_eq!(attempts, [1, 2, 3, 4], "the tries");
    for (n, least) in [(1, millis(150)), (2, millis(200)), (3, millis(400))] {
        let took = tries[n].1 - tries[n - 1].1;
        ensure!(took >= least, "try {} came {took:?} after the one before, not {least:?}", n + 1);
        let exact = !t.timing().exact || took <= least + t.timing().slack;
        ensure!(exact, "try {} came {took:?} after the one before, not {least:?}", n + 1);
    }
    next_member(t, &topic, &group).await?.quiet().await
}

fn is_letter(event: &Event) -> bool {
    event.dead_letter().is_some() && event.topic().is_reserved()
}

/// A consumer that wants nothing of what it gets.
async fn picky(
    t: &Trial,
    fabric: &Fabric,
    topic: &Topic,
    group: &Group,
    work: &Work,
) -> Verdict<Consumer> {
    let consumer = consumer(fabric, group, work)
        .on_pattern(topic.as_str(), async |event: Event, cx: Context<Work>| {
            let _running = cx.state().begin(&event);
            Err::<(), _>(HandlerError::permanent("on purpose, by the case"))
        })
        .ack_wait(t.ack_wait());
    Ok(consumer.start().await?)
}

/// M2a: an event whose dead letter cannot be kept stays with its group, until it can.
pub async fn an_event_stays_until_its_dead_letter_is_kept(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("buried"), t.group("g"));
    let mut letters = letters(t, &group).await?;
    let tamper = Tamper::new(Harm::Refuse, is_letter);
    let (work, fabric) = (Work::new(t, &group), t.another().await?.layer(tamper.clone())?);
    let consumer = picky(t, &fabric, &topic, &group, &work).await?;
    t.publisher(t.fabric(), "p").send(&topic).await?;
    // It comes again, since it was not settled.
    tamper.hits(t, 2).await?;
    letters.quiet().await?;
    tamper.heal();
    let letter = letters.next().await?;
    let error = letter.dead_letter().map(|letter| letter.error.clone()).unwrap_or_default();
    ensure!(error.contains("on purpose"), "the text of the dead letter: {error}");
    drained(t, consumer).await?;
    next_member(t, &topic, &group).await?.quiet_for(2 * t.ack_wait()).await?;
    letters.quiet().await
}

/// M2b: a consumer that dies between the keeping of a dead letter and its settlement leaves at least
/// one, and an event that somebody buries again.
pub async fn a_death_between_letter_and_ack_loses_neither(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("between"), t.group("g"));
    let mut letters = letters(t, &group).await?;
    let tamper = Tamper::new(Harm::Hold, is_letter);
    let (work, fabric) = (Work::new(t, &group), t.another().await?.layer(tamper.clone())?);
    let dying = picky(t, &fabric, &topic, &group, &work).await?;
    t.publisher(t.fabric(), "p").send(&topic).await?;
    tamper.hits(t, 1).await?;
    drop(letters.next().await?);
    t.within("a stop", dying.stop()).await??;
    let consumer = picky(t, t.fabric(), &topic, &group, &work).await?;
    until(t, "the second try", &work.0.begun, |begun| begun == 2).await?;
    drained(t, consumer).await?;
    let again = letters.drain().await?;
    let most = usize::from(!t.can(Ability::Dedup));
    ensure!(again <= most, "{again} more dead letters came, of at most {most}");
    next_member(t, &topic, &group).await?.quiet_for(2 * t.ack_wait()).await
}

fn is_second(event: &Event) -> bool {
    event.topic().as_str().ends_with(".second")
}

/// A consumer that fails on `|0` for good and else returns an output to each of two topics.
async fn productive(t: &Trial, fabric: &Fabric, group: &Group, work: &Work) -> Verdict<Consumer> {
    let (first, second) = (t.topic("out.first"), t.topic("out.second"));
    let consumer = consumer(fabric, group, work)
        .on_pattern(t.topic("in").as_str(), async move |event: Event, cx: Context<Work>| {
            let _running = cx.state().begin(&event);
            let text = event.text()?.into_owned();
            if text.ends_with("|0") {
                return Err(HandlerError::transient("on purpose, by the case"));
            }
            cx.state().end(&event);
            Ok([first, second].map(|topic| Event::to(&topic).text(&*text)).to_vec())
        })
        .retry(Retry::fixed(SHORT).forever());
    let consumer = if t.can(Ability::Lease) { consumer.ack_wait(t.ack_wait()) } else { consumer };
    Ok(consumer.start().await?)
}

/// M3a: a handler that fails publishes nothing; where one of several outputs fails the input is tried
/// again, until all are kept.
pub async fn all_outputs_are_kept_or_the_input_is_tried_again(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("in"), t.group("g"));
    let readers = t.group("readers");
    let outputs = t.fabric().subscribe(t.pattern("out.*")).group(&readers).await?;
    let mut outputs = t.reader(outputs, "readers", "reader");
    let work = Work::new(t, &group);
    let tamper = Tamper::new(Harm::Refuse, is_second);
    let fabric = t.another().await?.layer(tamper.clone())?;
    let consumer = productive(t, &fabric, &group, &work).await?;
    consumer.set_concurrency(2)?;
    t.publisher(t.fabric(), "p").send_many(&topic, 2).await?;
    tamper.hits(t, 2).await?;
    ensure_eq!(consumer.status().handled, 0, "inputs that were settled without all their outputs");
    tamper.heal();
    let mut seen = BTreeSet::new();
    // In any order: they are two topics.
    while seen.len() < 2 {
        let output = outputs.next().await?;
        ensure!(!output.text()?.ends_with("|0"), "a handler that failed published an output");
        seen.insert(output.topic().to_string());
        outputs.ack(output).await?;
    }
    t.within("a stop", consumer.stop()).await?.map_err(Failure::from)
}

/// M3b: an input is not acked before its outputs are confirmed: a consumer that dies in between
/// leaves it to the next.
pub async fn outputs_are_confirmed_before_the_input_is_acked(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("in"), t.group("g"));
    let work = Work::new(t, &group);
    let tamper = Tamper::new(Harm::Hold, is_second);
    let fabric = t.another().await?.layer(tamper.clone())?;
    let consumer = productive(t, &fabric, &group, &work).await?;
    let mut publisher = t.publisher(t.fabric(), "p");
    // The number that fails for good is not sent.
    let _ = publisher.draft(&topic);
    publisher.send(&topic).await?;
    tamper.hits(t, 1).await?;
    ensure_eq!(consumer.status().handled, 0, "inputs that were settled before their outputs");
    t.within("a stop", consumer.stop()).await??;
    let mut next = next_member(t, &topic, &group).await?;
    next.ack_many(1).await?;
    next.quiet().await
}

/// M4: a kill switch that trips begins no new try before its pause is over, kills no event, and one
/// event that succeeds closes it.
pub async fn a_kill_switch_pauses_and_a_probe_closes_it(t: &Trial) -> Verdict {
    let (topic, group) = (t.topic("switch"), t.group("g"));
    let (pause, down) = (Duration::from_secs(1), Arc::new(AtomicUsize::new(1)));
    let work = Work::new(t, &group);
    let tries: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let (state, seen) = (Arc::clone(&down), Arc::clone(&tries));
    let consumer = consumer(t.fabric(), &group, &work)
        .on_pattern(topic.as_str(), move |event: Event, cx: Context<Work>| {
            let (state, seen) = (Arc::clone(&state), Arc::clone(&seen));
            async move {
                let _running = cx.state().begin(&event);
                seen.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
                if state.load(Ordering::SeqCst) == 1 {
                    return Err(HandlerError::transient("on purpose, by the case"));
                }
                cx.state().end(&event);
                Ok(())
            }
        })
        .concurrency(2)
        .retry(Retry::fixed(SHORT).max_attempts(20))
        .kill_switch(KillSwitch::new().after(10).ratio(0.5).pause(pause))
        .start()
        .await?;
    let mut events = consumer.events();
    t.publisher(t.fabric(), "p").send_many(&topic, 20).await?;
    next_of(t, &mut events, |event| matches!(event, ConsumerEvent::Tripped)).await?;
    ensure_eq!(consumer.status().state, ConsumerState::Tripped, "its state");
    // A try that was under way when it tripped ends; from then on nothing is begun.
    until(t, "the end of what runs", &work.0.running, |running| running == 0).await?;
    let tripped = tries.lock().unwrap_or_else(PoisonError::into_inner).clone();
    ensure!(tripped.len() >= 10, "it tripped after {} tries", tripped.len());
    down.store(0, Ordering::SeqCst);
    next_of(t, &mut events, |event| matches!(event, ConsumerEvent::Closed)).await?;
    until(t, "the last of 20 events", &work.0.done, |done| done == 20).await?;
    let probe = tries.lock().unwrap_or_else(PoisonError::into_inner)[tripped.len()];
    let began = tripped[9];
    ensure!(probe - began >= pause, "a probe came {:?} after it tripped", probe - began);
    let status = consumer.status();
    ensure_eq!((status.state, status.dead_letters), (ConsumerState::Running, 0), "its end");
    drained(t, consumer).await?;
    t.check(&group).nothing_lost()?.nothing_unexpected().map(drop)
}

/// Waits for something that happens to a consumer.
async fn next_of(
    t: &Trial,
    events: &mut crate::consumer::ConsumerEvents,
    wanted: impl Fn(&ConsumerEvent) -> bool,
) -> Verdict {
    loop {
        match t.within("what happens to a consumer", events.next()).await? {
            Some(event) if wanted(&event) => return Ok(()),
            Some(_) => {}
            None => return Err(Failure::new("the consumer ended")),
        }
    }
}
