//! What a backend brings so that the suite can run on it.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use futures_core::future::BoxFuture;

use crate::Result;
use crate::conformance::Case;
use crate::fabric::Fabric;
use crate::group::Group;
use crate::id::EventId;
use crate::pattern::Pattern;

/// A backend under test: how to reach its broker, how patient to be, which tools there are.
///
/// Only [`open`](Self::open) has to be written. Everything else has a default that suits a broker
/// with nothing around it.
pub trait Harness: Send + Sync + 'static {
    /// A new client. All clients of one harness meet at the same broker.
    ///
    /// # Errors
    /// Whatever connecting brought.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind that a case could see.
    fn open(&self) -> impl Future<Output = Result<Fabric>> + Send;

    /// Told which case comes, before anything else is asked: a harness whose broker is shared with
    /// other cases starts one of its own for a case that has [`Tool::Broker`] or another tool that
    /// does harm.
    fn prepare(&mut self, case: &Case) {
        let _ = case;
    }

    /// A name that no other topic has, of one level: a case puts its topics below it.
    fn fresh_topic(&self) -> String {
        format!("ef-{}", EventId::generate())
    }

    /// A name that no other group has, of at most 40 bytes: a case puts a word of its own behind it.
    fn fresh_group(&self) -> String {
        format!("ef-{}", EventId::generate())
    }

    /// How long things take here.
    fn timing(&self) -> Timing {
        Timing::default()
    }

    /// How many events a topic keeps at most while a group has not settled them, if that is few
    /// enough for a case to fill it.
    fn topic_bound(&self) -> Option<usize> {
        None
    }

    /// For how long the same id is recognised, if that is short enough to wait for.
    fn dedup_window(&self) -> Option<Duration> {
        None
    }

    /// What starts and stops the broker.
    fn broker(&self) -> Option<&dyn BrokerCtl> {
        None
    }

    /// What stands between a client and the broker and can do harm.
    fn fault(&self) -> Option<&dyn FaultCtl> {
        None
    }

    /// What runs a consumer in a process of its own.
    fn children(&self) -> Option<&dyn ChildCtl> {
        None
    }

    /// What fills the disk on which the broker keeps its events.
    fn disk(&self) -> Option<&dyn DiskCtl> {
        None
    }

    /// What takes a client's rights.
    fn rights(&self) -> Option<&dyn RightsCtl> {
        None
    }

    /// Why a tool that `case` needs cannot exist here. It is asked only where the tool is missing;
    /// a case without its tool and without a reason fails.
    fn without(&self, case: &Case) -> Option<&'static str> {
        let _ = case;
        None
    }
}

/// How long things take at a broker. The suite never asserts more than lower bounds in real time;
/// these say how long to wait for something before giving up, and for nothing before being sure.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Timing {
    /// The lease that cases ask for. Default 1 s.
    pub ack_wait: Duration,
    /// How much later than asked something timed may happen. Default 500 ms.
    pub slack: Duration,
    /// How long nothing has to come before a case believes that nothing will. Default 500 ms.
    pub quiet: Duration,
    /// Within what a topic that comes into being reaches existing subscriptions. Default 1 s.
    pub discovery: Duration,
    /// How long a case waits for what has to come. Default 15 s.
    pub patience: Duration,
    /// How long an outage lasts that a client has to notice by itself, as when nothing comes through
    /// its link: well above the heartbeat of the clients that the harness opens. Default 3 s.
    pub outage: Duration,
    /// How many events the cases with faults publish. Default 2000.
    pub load: usize,
    /// How long one case may take. Default two minutes.
    pub watchdog: Duration,
    /// Whether upper bounds hold as they are, as on virtual time; else they are multiplied by ten.
    pub exact: bool,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            ack_wait: Duration::from_secs(1),
            slack: Duration::from_millis(500),
            quiet: Duration::from_millis(500),
            discovery: Duration::from_secs(1),
            patience: Duration::from_secs(15),
            outage: Duration::from_secs(3),
            load: 2000,
            watchdog: Duration::from_secs(120),
            exact: false,
        }
    }
}

macro_rules! setters {
    ($($(#[doc = $doc:literal])+ $setter:ident $field:ident: $type:ty;)+) => {
        impl Timing {
            $($(#[doc = $doc])+
            #[must_use]
            pub const fn $setter(mut self, $field: $type) -> Self {
                self.$field = $field;
                self
            })+
        }
    };
}

setters! {
    /// Sets the lease that cases ask for.
    with_ack_wait ack_wait: Duration;
    /// Sets how much later than asked something timed may happen.
    with_slack slack: Duration;
    /// Sets how long nothing has to come.
    with_quiet quiet: Duration;
    /// Sets within what a new topic is discovered.
    with_discovery discovery: Duration;
    /// Sets how long to wait for what has to come.
    with_patience patience: Duration;
    /// Sets how long an outage lasts.
    with_outage outage: Duration;
    /// Sets how many events the cases with faults publish.
    with_load load: usize;
    /// Sets how long one case may take.
    with_watchdog watchdog: Duration;
    /// Sets whether upper bounds hold as they are.
    with_exact exact: bool;
}

/// A tool of the harness that some cases need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Tool {
    /// [`Harness::broker`].
    Broker,
    /// [`Harness::fault`].
    Fault,
    /// [`Harness::children`].
    Children,
    /// [`Harness::disk`].
    Disk,
    /// [`Harness::rights`].
    Rights,
    /// [`Harness::topic_bound`].
    TopicBound,
    /// [`Harness::dedup_window`].
    DedupWindow,
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Broker => "control of the broker",
            Self::Fault => "a fault proxy",
            Self::Children => "child processes",
            Self::Disk => "a disk that can be filled",
            Self::Rights => "rights that can be revoked",
            Self::TopicBound => "a bound on topics that can be reached",
            Self::DedupWindow => "a deduplication window that can be waited for",
        })
    }
}

/// Starts, stops, kills and pauses the broker. Each call resolves when it is done.
///
/// Where several nodes are one broker, one node at a time goes down; which, is the tool's choice.
pub trait BrokerCtl: Send + Sync {
    /// How many nodes it has: one of several may end without the broker being gone.
    fn nodes(&self) -> usize {
        1
    }

    /// Stops it in good order.
    fn stop(&self) -> BoxFuture<'_, Result<()>>;
    /// Kills it without warning.
    fn kill(&self) -> BoxFuture<'_, Result<()>>;
    /// Starts it with the data it had, at the address it had. Nothing happens if it runs.
    fn start(&self) -> BoxFuture<'_, Result<()>>;
    /// Lets it hang.
    fn pause(&self) -> BoxFuture<'_, Result<()>>;
    /// Lets it go on.
    fn resume(&self) -> BoxFuture<'_, Result<()>>;
    /// Kills it and starts it, at the address it had, without anything that it knew.
    fn wipe(&self) -> BoxFuture<'_, Result<()>>;
}

/// A way through the link between a client and the broker that can be broken.
pub trait FaultCtl: Send + Sync {
    /// A new client whose link goes through here, and which has no way around.
    fn open(&self) -> BoxFuture<'_, Result<Fabric>>;
    /// Does harm, from now on until [`heal`](Self::heal) or, by its nature, once.
    fn inflict(&self, fault: Fault) -> BoxFuture<'_, Result<()>>;
    /// Lets everything through again, also what was held back.
    fn heal(&self) -> BoxFuture<'_, Result<()>>;
    /// What goes through.
    fn links(&self) -> Links;
}

/// What can happen to a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Every connection is reset, once; new ones are let through.
    Reset,
    /// Every connection is reset, and so is each new one.
    Refuse,
    /// Nothing gets through any more, and nothing is closed: what is sent waits.
    Swallow(Way),
    /// Everything takes longer.
    Slow {
        /// Each way.
        latency: Duration,
        /// At most so much more or less than that.
        jitter: Duration,
        /// Each way, on each connection.
        bytes_per_second: Option<u64>,
        /// In pieces of at most so many bytes.
        slice: Option<usize>,
    },
    /// Each connection that is open is reset after so many more bytes have got through, both ways
    /// together: most likely in the middle of something.
    CutAfter(u64),
}

/// In which direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Way {
    /// In both.
    Both,
    /// From the client to the broker.
    ToBroker,
    /// From the broker to the client.
    ToClient,
}

/// What goes through a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Links {
    /// How many connections are open.
    pub open: usize,
    /// How many there were, with those.
    pub opened: u64,
    /// How many bytes got through.
    pub bytes: u64,
}

impl Links {
    /// As counted.
    #[must_use]
    pub const fn new(open: usize, opened: u64, bytes: u64) -> Self {
        Self { open, opened, bytes }
    }
}

/// Fills the disk on which the broker keeps its events.
pub trait DiskCtl: Send + Sync {
    /// Leaves no room on it.
    fn fill(&self) -> BoxFuture<'_, Result<()>>;
    /// Makes the room again.
    fn free(&self) -> BoxFuture<'_, Result<()>>;
}

/// Takes a client's rights.
pub trait RightsCtl: Send + Sync {
    /// A new client whose rights can be taken, and whose link goes through [`Harness::fault`].
    fn open(&self) -> BoxFuture<'_, Result<Fabric>>;
    /// From now on it may do nothing: neither publish nor subscribe, and perhaps not connect.
    fn revoke(&self) -> BoxFuture<'_, Result<()>>;
    /// It may again.
    fn grant(&self) -> BoxFuture<'_, Result<()>>;
}

/// What a child process consumes: the first `ack` events are settled, the others are held.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ChildJob {
    /// What it reads.
    pub pattern: Pattern,
    /// As a member of which group.
    pub group: Group,
    /// The group's lease.
    pub ack_wait: Duration,
    /// How many it takes.
    pub take: usize,
    /// How many of those it acks, before it says that it is ready.
    pub ack: usize,
    /// The test that the case runs as, where it runs as one: `module::name`.
    pub test: Option<String>,
}

impl ChildJob {
    /// A job.
    #[must_use]
    pub fn new(
        pattern: impl Into<Pattern>,
        group: Group,
        ack_wait: Duration,
        take: usize,
        ack: usize,
    ) -> Self {
        Self { pattern: pattern.into(), group, ack_wait, take, ack, test: None }
    }

    /// A job without an end: it acks whatever it gets.
    #[must_use]
    pub fn endless(pattern: impl Into<Pattern>, group: Group, ack_wait: Duration) -> Self {
        Self::new(pattern, group, ack_wait, usize::MAX, usize::MAX)
    }

    /// Whether it has no end.
    #[must_use]
    pub const fn is_endless(&self) -> bool {
        self.take == usize::MAX
    }
}

/// Runs consumers in processes of their own.
pub trait ChildCtl: Send + Sync {
    /// Starts one; resolves once it holds what is left after its acks, or, if the job has no end,
    /// once it has subscribed.
    fn start<'a>(&'a self, job: &'a ChildJob) -> BoxFuture<'a, Result<Box<dyn Child>>>;
}

/// A consumer in a process of its own.
pub trait Child: Send + Sync {
    /// The ids of what it has received, in that order.
    fn received(&self) -> Vec<String>;
    /// The ids of what it has acked.
    fn acked(&self) -> Vec<String>;
    /// Kills it without warning; it is gone when this resolves, and nothing that it did is missing
    /// in what it has received and acked.
    fn kill(&mut self) -> BoxFuture<'_, Result<()>>;
}

/// [`Harness`] with boxed futures; implemented for every harness.
pub(crate) trait DynHarness: Send + Sync + 'static {
    fn open(&self) -> BoxFuture<'_, Result<Fabric>>;
    fn fresh_topic(&self) -> String;
    fn fresh_group(&self) -> String;
    fn timing(&self) -> Timing;
    fn topic_bound(&self) -> Option<usize>;
    fn dedup_window(&self) -> Option<Duration>;
    fn broker(&self) -> Option<&dyn BrokerCtl>;
    fn fault(&self) -> Option<&dyn FaultCtl>;
    fn children(&self) -> Option<&dyn ChildCtl>;
    fn disk(&self) -> Option<&dyn DiskCtl>;
    fn rights(&self) -> Option<&dyn RightsCtl>;
    fn without(&self, case: &Case) -> Option<&'static str>;
}

impl<H: Harness> DynHarness for H {
    fn open(&self) -> BoxFuture<'_, Result<Fabric>> {
        Box::pin(Harness::open(self))
    }

    fn fresh_topic(&self) -> String {
        Harness::fresh_topic(self)
    }

    fn fresh_group(&self) -> String {
        Harness::fresh_group(self)
    }

    fn timing(&self) -> Timing {
        Harness::timing(self)
    }

    fn topic_bound(&self) -> Option<usize> {
        Harness::topic_bound(self)
    }

    fn dedup_window(&self) -> Option<Duration> {
        Harness::dedup_window(self)
    }

    fn broker(&self) -> Option<&dyn BrokerCtl> {
        Harness::broker(self)
    }

    fn fault(&self) -> Option<&dyn FaultCtl> {
        Harness::fault(self)
    }

    fn children(&self) -> Option<&dyn ChildCtl> {
        Harness::children(self)
    }

    fn disk(&self) -> Option<&dyn DiskCtl> {
        Harness::disk(self)
    }

    fn rights(&self) -> Option<&dyn RightsCtl> {
        Harness::rights(self)
    }

    fn without(&self, case: &Case) -> Option<&'static str> {
        Harness::without(self, case)
    }
}
