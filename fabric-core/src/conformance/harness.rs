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
use crate::topic::Topic;

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
            Self::TopicBound => "a bound on topics that can be reached",
            Self::DedupWindow => "a deduplication window that can be waited for",
        })
    }
}

/// Starts, stops, kills and pauses the broker. Each call resolves when it is done.
pub trait BrokerCtl: Send + Sync {
    /// Stops it in good order.
    fn stop(&self) -> BoxFuture<'_, Result<()>>;
    /// Kills it without warning.
    fn kill(&self) -> BoxFuture<'_, Result<()>>;
    /// Starts it with the data it had, at the address it had.
    fn start(&self) -> BoxFuture<'_, Result<()>>;
    /// Lets it hang.
    fn pause(&self) -> BoxFuture<'_, Result<()>>;
    /// Lets it go on.
    fn resume(&self) -> BoxFuture<'_, Result<()>>;
}

/// A way through the link between a client and the broker that can be broken.
pub trait FaultCtl: Send + Sync {
    /// A new client whose link goes through here.
    fn open(&self) -> BoxFuture<'_, Result<Fabric>>;
    /// Resets every connection; new ones are let through.
    fn reset(&self) -> BoxFuture<'_, Result<()>>;
    /// Lets nothing through from now on, without closing anything.
    fn swallow(&self) -> BoxFuture<'_, Result<()>>;
    /// Lets everything through again.
    fn heal(&self) -> BoxFuture<'_, Result<()>>;
}

/// What a child process consumes: `ack` events of `topic` are settled, the others are held.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ChildJob {
    /// What it reads.
    pub topic: Topic,
    /// As a member of which group.
    pub group: Group,
    /// The group's lease.
    pub ack_wait: Duration,
    /// How many it takes.
    pub take: usize,
    /// How many of those it acks, before it says that it is ready.
    pub ack: usize,
}

impl ChildJob {
    /// A job.
    #[must_use]
    pub const fn new(
        topic: Topic,
        group: Group,
        ack_wait: Duration,
        take: usize,
        ack: usize,
    ) -> Self {
        Self { topic, group, ack_wait, take, ack }
    }
}

/// Runs consumers in processes of their own.
pub trait ChildCtl: Send + Sync {
    /// Starts one; resolves with the payloads that it has acked once it holds what is left.
    fn start<'a>(&'a self, job: &'a ChildJob) -> BoxFuture<'a, Result<Box<dyn Child>>>;
}

/// A consumer in a process of its own.
pub trait Child: Send + Sync {
    /// The payloads it has acked.
    fn acked(&self) -> Vec<String>;
    /// Kills it without warning.
    fn kill(self: Box<Self>) -> BoxFuture<'static, Result<()>>;
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

    fn without(&self, case: &Case) -> Option<&'static str> {
        Harness::without(self, case)
    }
}
