//! Bugs on purpose, behind a switch for tests: each must be caught by a case of the suite.

macro_rules! bugs {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// A bug that the memory broker can be given, to show that the suite catches it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[cfg_attr(
            not(feature = "seeded-bugs"),
            allow(dead_code, unreachable_pub, reason = "only tests switch bugs on")
        )]
        #[non_exhaustive]
        pub enum Bug { $($(#[doc = $doc])+ $name,)+ }

        #[cfg(feature = "seeded-bugs")]
        impl Bug {
            /// Every one of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];
        }
    };
}

bugs! {
    /// A nacked event never comes again.
    DropNack,
    /// Every member of a group gets every event.
    CopyWithinGroup,
    /// An ack is forgotten when the lease ends.
    AckLost,
    /// A lease never ends.
    LeaseNeverEnds,
    /// A lease ends after half its time.
    LeaseEndsEarly,
    /// `progress` does nothing.
    ProgressIgnored,
    /// Every delivery is attempt one.
    AttemptNotCounted,
    /// A delayed nack returns at once.
    NackIgnoresDelay,
    /// A settlement after the lease moved is `Ok`.
    StaleAckAccepted,
    /// Two neighbours in a topic change places.
    Reorder,
    /// What a leaving member had not handed out is lost.
    LoseOnLeave,
    /// `Start::New` misses the first event.
    NewSkipsFirst,
    /// A replay misses its last event.
    ReplayMissesLast,
    /// `#` and `*` in a group's patterns are not told apart.
    PatternTooWide,
    /// The same id within the window is stored again.
    DedupIgnored,
    /// A delayed event is delivered at once.
    DelayIgnored,
    /// Urgent events wait in line.
    PriorityIgnored,
    /// Events that a group has not settled are evicted without a word.
    EvictUnsettled,
    /// Dropped events are not reported.
    LagNotReported,
    /// Positions are one too high.
    WrongPosition,
    /// A group is joined whatever its definition.
    MismatchAccepted,
    /// A request that nobody answers runs into its timeout.
    NoRespondersSilent,
    /// A topic that is new to a reader begins with its second event.
    NewTopicSkipsFirst,
    /// An expected last position is not checked.
    ExpectLastIgnored,
    /// Redefining a group drops what the removed patterns had queued.
    RedefineDropsBacklog,
    /// The prefetch bound is not kept.
    PrefetchIgnored,
    /// An event sent to one group reaches all of them.
    InboxLeaks,
    /// A publish after close is accepted.
    PublishAfterClose,
    /// A restart of a group's members begins at new.
    GroupForgetsPlace,
}
