//! What a stack of backend and layers can do, as a level per ability.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::{Error, ErrorKind, Result};

/// How well an ability is supported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Support {
    /// Not at all: a call that needs it is refused.
    #[default]
    No,
    /// The broker does not tell; refused unless the user asserts it in the DSN.
    Unknown,
    /// Kept by the client: it holds while the client lives.
    Emulated,
    /// Kept by the broker.
    Native,
}

impl Support {
    /// Whether calls that need it are accepted.
    #[must_use]
    pub const fn is_claimed(self) -> bool {
        matches!(self, Self::Emulated | Self::Native)
    }

    /// One word: `no`, `unknown`, `emulated`, `native`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Unknown => "unknown",
            Self::Emulated => "emulated",
            Self::Native => "native",
        }
    }
}

impl fmt::Display for Support {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

macro_rules! abilities {
    ($($(#[doc = $doc:literal])+ $name:ident $text:literal;)+) => {
        /// One thing that a stack can or cannot do.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum Ability { $($(#[doc = $doc])+ $name,)+ }

        impl Ability {
            /// Every ability, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// What a refusal calls it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// One sentence on what it means.
            #[must_use]
            pub const fn describe(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

abilities! {
    /// Events are kept while no consumer is attached.
    Persist "keeping events while nobody listens";
    /// Confirmed events survive the death of the broker.
    Durable "surviving the broker's death";
    /// Every subscription without a group gets a copy of each event.
    FanOut "a copy for each subscription";
    /// Durable groups share events; each is settled or comes again.
    Groups "groups";
    /// Whoever is there shares events, at most once, with nothing to settle.
    LiveGroups "live groups";
    /// A delivery can be given back.
    Nack "nack";
    /// A delivery can be given back to come again after a delay.
    NackDelay "nack with a delay";
    /// An event whose holder does not settle it in time comes again.
    Lease "a lease on each delivery";
    /// A holder can ask for more time.
    Extend "extending a lease";
    /// Deliveries say how often the event was tried.
    Attempts "counting attempts";
    /// Rejected and exhausted events are kept as dead letters.
    DeadLetters "dead letters";
    /// A publish is answered when the event is kept.
    Confirm "confirmed publishing";
    /// An ack can wait for the broker's answer.
    AckConfirmed "confirmed acks";
    /// Events of one publisher and topic keep their order for one consumer.
    OrderTopic "order within a topic";
    /// Events of one key keep their order at any concurrency of one consumer.
    OrderKey "order within a key";
    /// Events of one key keep their order over all members of a group.
    OrderKeyAcrossMembers "order within a key across members";
    /// The same id within a window is stored once.
    Dedup "deduplication";
    /// A publish can demand that the topic's last event is the one at a position, or that there is none.
    ExpectLast "an expected last position";
    /// An event that nobody read in time is not delivered.
    Ttl "time to live";
    /// An event can be kept back until a moment.
    Delay "delayed delivery";
    /// More urgent events come first where a queue holds several.
    Priority "priorities";
    /// A publish can be marked as not needing durability.
    Transient "transient publishing";
    /// A subscription can begin with the oldest event that is kept.
    StartAll "starting at the oldest event";
    /// A subscription can begin with the newest event that is kept.
    StartLast "starting at the last event";
    /// A subscription can begin with the newest event of each topic.
    StartLastPerTopic "starting at the last event per topic";
    /// A subscription can begin at a time.
    StartTime "starting at a time";
    /// A subscription can begin at or after a position.
    StartPosition "starting at a position";
    /// What is kept can be read as a finite stream.
    Replay "replay";
    /// Requests are answered by responders.
    RequestReply "request and reply";
    /// A request that nobody can answer fails at once.
    NoResponders "telling that nobody answers";
    /// A subscription can bound what it holds unsettled.
    Prefetch "a prefetch bound";
    /// A full queue can make publishers wait.
    WhenFullBlock "waiting when full";
    /// A full queue can drop its oldest events, and say so.
    WhenFullDropOldest "dropping the oldest when full";
    /// A full queue can drop new events, and say so.
    WhenFullDropNewest "dropping the newest when full";
    /// A full queue can refuse new events.
    WhenFullFail "failing when full";
    /// A topic comes into being with its first event.
    AutoCreate "creating topics by use";
    /// A group can be made without joining it.
    GroupDefine "defining a group";
    /// A group's patterns can be changed without losing its place.
    GroupRedefine "redefining a group";
    /// A group's place can be moved.
    GroupReset "resetting a group";
    /// A group can be deleted.
    GroupDelete "deleting a group";
    /// Groups can be listed.
    GroupList "listing groups";
    /// A group's definition, members and lag can be asked for.
    GroupInfo "group information";
    /// An event can be sent to one group alone.
    GroupSend "sending to one group";
    /// Topics can be listed.
    TopicList "listing topics";
    /// A topic's length, size and counts can be asked for.
    TopicInfo "topic information";
    /// A topic can be emptied.
    Purge "purging a topic";
    /// A topic's oldest events can be dropped.
    Trim "trimming a topic";
}

/// How many abilities there are.
const COUNT: usize = Ability::ALL.len();

/// What one stack can do: a level per ability, and its limits.
///
/// ```
/// use fabric_core::{Ability, Capabilities, Support};
/// let caps = Capabilities::NONE.with(Ability::Replay, Support::Native);
/// assert!(caps.can(Ability::Replay) && !caps.can(Ability::Groups));
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    levels: [Support; COUNT],
    /// The largest payload in bytes; headers count where the broker counts them.
    pub max_payload: Option<usize>,
    /// The most bytes of header names and values together.
    pub max_headers: Option<usize>,
    /// How much earlier than asked a start by time may begin.
    pub time_granularity: Duration,
}

impl Capabilities {
    /// Nothing at all, and no limits.
    pub const NONE: Self = Self {
        levels: [Support::No; COUNT],
        max_payload: None,
        max_headers: None,
        time_granularity: Duration::ZERO,
    };

    /// Every ability at `level`, and no limits.
    #[must_use]
    pub const fn all(level: Support) -> Self {
        Self { levels: [level; COUNT], ..Self::NONE }
    }

    /// Sets one level.
    #[must_use]
    pub const fn with(mut self, ability: Ability, level: Support) -> Self {
        self.levels[ability as usize] = level;
        self
    }

    /// Sets several to one level.
    #[must_use]
    pub const fn with_all(mut self, abilities: &[Ability], level: Support) -> Self {
        let mut n = 0;
        while n < abilities.len() {
            self.levels[abilities[n] as usize] = level;
            n += 1;
        }
        self
    }

    /// Takes one away.
    #[must_use]
    pub const fn without(self, ability: Ability) -> Self {
        self.with(ability, Support::No)
    }

    /// Sets the largest payload in bytes.
    #[must_use]
    pub const fn with_max_payload(mut self, bytes: Option<usize>) -> Self {
        self.max_payload = bytes;
        self
    }

    /// Sets the most bytes of headers.
    #[must_use]
    pub const fn with_max_headers(mut self, bytes: Option<usize>) -> Self {
        self.max_headers = bytes;
        self
    }

    /// Sets how much earlier a start by time may begin.
    #[must_use]
    pub const fn with_time_granularity(mut self, granularity: Duration) -> Self {
        self.time_granularity = granularity;
        self
    }

    /// The level of one ability.
    #[must_use]
    pub const fn level(&self, ability: Ability) -> Support {
        self.levels[ability as usize]
    }

    /// Whether calls that need it are accepted.
    #[must_use]
    pub const fn can(&self, ability: Ability) -> bool {
        self.level(ability).is_claimed()
    }

    /// Every ability with its level.
    pub fn iter(&self) -> impl Iterator<Item = (Ability, Support)> + '_ {
        Ability::ALL.iter().map(|&ability| (ability, self.level(ability)))
    }

    /// Refuses unless `ability` is there.
    ///
    /// # Errors
    /// `Unsupported`, naming the ability and `backend`.
    pub fn demand(&self, ability: Ability, backend: &str) -> Result<()> {
        match self.level(ability) {
            Support::Native | Support::Emulated => Ok(()),
            Support::No => Err(Error::unsupported(ability.as_str(), backend).with("ability", ability)),
            Support::Unknown => Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "`{backend}` does not tell whether it can do {}; assert it in the DSN if it can",
                    ability.as_str()
                ),
            )
            .with_backend(backend)
            .with("ability", ability)),
        }
    }

    /// Refuses unless this can do at least what `least` can, within its limits.
    ///
    /// # Errors
    /// `Unsupported`, naming the first ability or limit that is missing and `backend`.
    pub fn satisfy(&self, least: &Self, backend: &str) -> Result<()> {
        for (ability, level) in least.iter() {
            if level > self.level(ability) && level != Support::Unknown {
                let have = self.level(ability);
                return Err(Error::unsupported(
                    format_args!("{} as {level} (it has: {have})", ability.as_str()),
                    backend,
                )
                .with("ability", ability));
            }
        }
        let limits = [
            ("payload", least.max_payload, self.max_payload),
            ("headers", least.max_headers, self.max_headers),
        ];
        for (what, need, have) in limits {
            if let (Some(need), Some(have)) = (need, have)
                && have < need
            {
                return Err(Error::unsupported(
                    format_args!("{what} of {need} bytes (its limit is {have})"),
                    backend,
                ));
            }
        }
        Ok(())
    }
}

impl fmt::Display for Ability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Debug for Capabilities {
    /// The abilities that are there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let claimed = self.iter().filter(|(_, level)| *level != Support::No);
        let mut out = f.debug_map();
        out.entries(claimed);
        out.entry(&"max_payload", &self.max_payload);
        out.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_ability_is_named_with_the_backend() {
        let caps = Capabilities::NONE.with(Ability::Groups, Support::Emulated);
        assert!(caps.demand(Ability::Groups, "zmq").is_ok());
        let error = caps.demand(Ability::Replay, "zmq").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.to_string(), "`zmq` cannot do replay (ability: Replay)");
        let unknown = caps.with(Ability::Durable, Support::Unknown);
        assert!(unknown.demand(Ability::Durable, "redis").is_err());
    }

    #[test]
    fn requirements_compare_levels_and_limits() {
        let caps = Capabilities::all(Support::Emulated).with_max_payload(Some(10));
        let least = Capabilities::NONE.with(Ability::Ttl, Support::Emulated);
        assert!(caps.satisfy(&least, "x").is_ok());
        assert!(caps.satisfy(&least.with(Ability::Ttl, Support::Native), "x").is_err());
        assert!(caps.satisfy(&least.with_max_payload(Some(11)), "x").is_err());
    }
}
