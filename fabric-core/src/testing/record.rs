//! What happened to one event, as it happened.

use std::fmt;
use std::time::Duration;

use crate::Error;
use crate::event::Event;
use crate::group::Group;

/// One thing that happened to one event.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Step {
    /// How long after the recorder was made, by tokio's clock.
    pub at: Duration,
    /// What happened.
    pub what: What,
    /// To which event.
    pub event: Event,
    /// To which group it was delivered or sent, or whose dead letter it is.
    pub group: Option<Group>,
    /// How often the broker had handed it out by then; 0 before it did.
    pub attempt: u32,
}

/// What can happen to an event.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum What {
    /// It was published, and is kept.
    Published,
    /// Its publish failed.
    NotPublished(Error),
    /// It was sent to one group alone, as redriven letters are.
    Sent,
    /// It became a dead letter.
    Died,
    /// It was handed out.
    Delivered,
    /// A handler began to work on it.
    Tried,
    /// The handler failed, with this error.
    Failed(String),
    /// The handler was given up: it took too long, its lease ended, or its consumer stopped.
    GivenUp,
    /// Its group is done with it.
    Acked,
    /// It was given back, with this error.
    Nacked(Option<String>),
    /// Its group does not want it.
    Rejected,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Published => f.write_str("published"),
            Self::NotPublished(error) => write!(f, "not published: {error}"),
            Self::Sent => f.write_str("sent"),
            Self::Died => f.write_str("a dead letter"),
            Self::Delivered => f.write_str("delivered"),
            Self::Tried => f.write_str("tried"),
            Self::Failed(error) => write!(f, "failed: {error}"),
            Self::GivenUp => f.write_str("given up"),
            Self::Acked => f.write_str("acked"),
            Self::Nacked(None) => f.write_str("nacked"),
            Self::Nacked(Some(error)) => write!(f, "nacked: {error}"),
            Self::Rejected => f.write_str("rejected"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (event, seconds) = (&self.event, self.at.as_secs_f64());
        write!(f, "{seconds:>10.3} {} {} of {}", event.topic(), event.id(), event.event_type())?;
        if let Some(group) = &self.group {
            write!(f, " [{group}")?;
            if self.attempt > 0 {
                write!(f, ", attempt {}", self.attempt)?;
            }
            f.write_str("]")?;
        }
        write!(f, " {}", self.what)
    }
}
