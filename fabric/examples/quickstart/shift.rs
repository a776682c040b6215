//! A group: three members share the strong quakes, one crashes, the others take over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fabric::{Ability, Delivery, Error, ErrorKind, Event, Fabric, Result, Subscription};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::quakes::{self, Quake};
use crate::report::{Report, Step, section};
use crate::{Run, WATCHDOG};

const MEMBERS: [&str; 3] = ["Ada", "Ben", "Cleo"];
/// How long an event may stay with a member that does not settle it.
const ACK_WAIT: Duration = Duration::from_secs(1);
/// Who has handled this many first crashes with the next ones in hand.
const CRASH_AFTER: usize = 10;
const CRASH_WITH: usize = 5;

/// A shift at work.
pub(crate) struct Shift {
    members: JoinSet<()>,
    news: mpsc::Receiver<News>,
    /// Whether records without a magnitude come along.
    with_unknown: bool,
}

/// What a member tells.
enum News {
    Handled {
        member: &'static str,
        id: String,
    },
    Rejected {
        id: String,
    },
    Crashed {
        member: &'static str,
        holding: Vec<String>,
    },
    /// Something went wrong, and the work goes on.
    Trouble {
        member: &'static str,
        error: Error,
    },
    Failed(Error),
}

pub(crate) async fn open(run: &Run, report: &mut Report) -> Result<Option<Shift>> {
    let with_unknown = report.can(Step::Rejected, &run.fabric);
    let able = [Step::Handled, Step::TakenOver].map(|step| report.can(step, &run.fabric));
    if able.contains(&false) {
        return Ok(None);
    }
    let mut patterns = quakes::strong();
    if with_unknown {
        patterns.push(format!("quake.*.{}", quakes::UNKNOWN));
    }
    let (tell, news) = mpsc::channel(16);
    let crashed = Arc::new(AtomicBool::new(false));
    let mut members = JoinSet::new();
    for name in MEMBERS {
        let work = join(&run.fabric, &run.group, &patterns).await?;
        let (tell, crashed) = (tell.clone(), Arc::clone(&crashed));
        members.spawn(async move {
            if let Err(error) = member(name, work, &tell, &crashed).await {
                let _ = tell.send(News::Failed(error)).await;
            }
        });
    }
    Ok(Some(Shift { members, news, with_unknown }))
}

/// Joins the group; the first who joins makes it.
async fn join(fabric: &Fabric, group: &str, patterns: &[String]) -> Result<Subscription> {
    let mut subscribe = fabric.subscribe(patterns).group(group);
    if fabric.capabilities().can(Ability::Lease) {
        subscribe = subscribe.ack_wait(ACK_WAIT);
    }
    if fabric.capabilities().can(Ability::Prefetch) {
        // Small portions, so that each gets some.
        subscribe = subscribe.prefetch(8);
    }
    subscribe.await
}

/// Handles what comes, until the fabric closes or it crashes.
async fn member(
    name: &'static str,
    mut work: Subscription,
    tell: &mpsc::Sender<News>,
    crashed: &AtomicBool,
) -> Result<()> {
    let mut handled = 0;
    while let Some(delivery) = work.recv().await {
        let delivery = match delivery {
            Ok(delivery) => delivery,
            Err(error) if error.kind() == ErrorKind::Closed => break,
            Err(error) => {
                let _ = tell.send(News::Trouble { member: name, error }).await;
                continue;
            }
        };
        let news = match handle(name, delivery).await {
            Ok(news) => news,
            // It comes again, to this member or another.
            Err(error) if error.kind() == ErrorKind::StaleAck => {
                News::Trouble { member: name, error }
            }
            Err(error) => return Err(error),
        };
        let _ = tell.send(news).await;
        handled += 1;
        if handled == CRASH_AFTER && !crashed.swap(true, Ordering::Relaxed) {
            return crash(name, work, tell).await;
        }
    }
    Ok(())
}

async fn handle(member: &'static str, delivery: Delivery) -> Result<News> {
    let quake: Quake = delivery.json()?;
    if quake.mag.is_none() {
        delivery.reject("no magnitude: nobody can say how strong it was").await?;
        return Ok(News::Rejected { id: quake.id });
    }
    delivery.ack().await?;
    Ok(News::Handled { member, id: quake.id })
}

/// Takes some more and is gone, with the deliveries in hand and nothing settled.
async fn crash(
    member: &'static str,
    mut work: Subscription,
    tell: &mpsc::Sender<News>,
) -> Result<()> {
    let Some(held) = work.recv_batch(CRASH_WITH, Duration::from_millis(100)).await else {
        return Ok(());
    };
    let held = held?;
    let holding = held.iter().map(|event| event.id().to_string()).collect();
    let _ = tell.send(News::Crashed { member, holding }).await;
    drop((held, work));
    Ok(())
}

impl Shift {
    pub(crate) async fn finish(mut self, run: &Run, report: &mut Report) -> Result<()> {
        let strong = run.records.iter().filter(|record| record.quake.is_strong()).count();
        let unknown = run.records.iter().filter(|record| record.quake.mag.is_none()).count();
        let unknown = if self.with_unknown { unknown } else { 0 };

        let mut log = Log::default();
        let waited = timeout(WATCHDOG, self.listen(&mut log, strong, unknown)).await;
        waited.unwrap_or(Ok(()))?;
        self.members.shutdown().await;
        log.print(run);

        let taken_over = log.held.iter().filter(|id| log.is_done(id)).count();
        report.check(Step::Handled, strong, log.handled.len());
        // Somebody does crash, with at least one in hand.
        report.check(Step::TakenOver, log.held.len().max(1), taken_over);
        if self.with_unknown {
            dead_letters(run, unknown, report).await?;
        }
        Ok(())
    }

    /// Listens until everything was dealt with.
    async fn listen(&mut self, log: &mut Log, strong: usize, unknown: usize) -> Result<()> {
        while log.handled.len() < strong || log.rejected.len() < unknown {
            let Some(news) = self.news.recv().await else { break };
            log.note(news)?;
        }
        Ok(())
    }
}

/// What the members told.
#[derive(Default)]
struct Log {
    /// Each event with who handled it last.
    handled: BTreeMap<String, &'static str>,
    rejected: BTreeSet<String>,
    crashed: Option<&'static str>,
    held: Vec<String>,
    trouble: Vec<(&'static str, Error)>,
}

impl Log {
    fn note(&mut self, news: News) -> Result<()> {
        match news {
            News::Handled { member, id } => {
                self.handled.insert(id, member);
            }
            News::Rejected { id } => {
                self.rejected.insert(id);
            }
            News::Crashed { member, holding } => {
                self.crashed = Some(member);
                self.held = holding;
            }
            News::Trouble { member, error } => self.trouble.push((member, error)),
            News::Failed(error) => return Err(error),
        }
        Ok(())
    }

    fn is_done(&self, id: &str) -> bool {
        self.handled.contains_key(id) || self.rejected.contains(id)
    }

    fn print(&self, run: &Run) {
        section(format_args!("The group {} shares the strong ones", run.group));
        for name in MEMBERS {
            let handled = self.handled.values().filter(|member| **member == name).count();
            let fate = match self.crashed {
                Some(crashed) if crashed == name => {
                    format!(", then crashed with {} more in hand", self.held.len())
                }
                _ => String::new(),
            };
            println!("  {name:<5} handled {handled:>3}{fate}");
        }
        for (member, error) in &self.trouble {
            println!("  {member:<5} went on after: {error}");
        }
        let takers: BTreeSet<&str> =
            self.held.iter().filter_map(|id| self.handled.get(id).copied()).collect();
        let takers: Vec<&str> = takers.into_iter().collect();
        println!("  what the crashed one held went to {}", takers.join(" and "));
    }
}

async fn dead_letters(run: &Run, expected: usize, report: &mut Report) -> Result<()> {
    let topic = format!("dlq.{}", run.group);
    section(format_args!("Dead letters in {topic}"));
    let mut ids = BTreeSet::new();
    for event in letters(run, &topic, expected).await? {
        let Some(letter) = event.dead_letter() else { continue };
        if ids.insert(event.id().to_string()) && ids.len() <= 3 {
            println!("  {} from {}: {}, {}", event.id(), letter.topic, letter.reason, letter.error);
        }
    }
    println!("  {} in all", ids.len());
    report.check(Step::Rejected, expected, ids.len());
    Ok(())
}

/// What lies there: read like any other topic, or, where nothing can be read twice, lent out.
async fn letters(run: &Run, topic: &str, expected: usize) -> Result<Vec<Event>> {
    if !run.fabric.capabilities().can(Ability::Replay) {
        return run.fabric.dead_letters(&run.group).list(2 * expected).await;
    }
    let mut kept = run.fabric.replay(topic).await?;
    let mut events = Vec::new();
    while let Some(event) = kept.recv().await {
        events.push(event?.event().clone());
    }
    Ok(events)
}

/// Leaves no group and no dead letters of this run on a broker that others use too.
pub(crate) async fn clear_away(run: &Run) {
    let capabilities = run.fabric.capabilities();
    if capabilities.can(Ability::DeadLetters)
        && let Err(error) = run.fabric.dead_letters(&run.group).purge().await
    {
        println!("\nThe dead letters of {} stay behind: {error}", run.group);
    }
    if capabilities.can(Ability::GroupDelete)
        && let Ok(groups) = run.fabric.groups()
        && let Err(error) = groups.delete(&run.group).await
    {
        println!("\nThe group {} stays behind: {error}", run.group);
    }
}
