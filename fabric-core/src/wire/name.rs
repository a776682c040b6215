//! The names that have a meaning on the wire.

/// What one pair carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Name<'a> {
    /// A field with a fixed name.
    Known(Known),
    /// A CloudEvents extension for which there is no field: its name alone.
    Extension(&'a str),
    /// A header of the user's.
    Header(&'a str),
}

macro_rules! known {
    ($($(#[doc = $doc:literal])+ $name:ident $dashed:literal $underscored:literal;)+) => {
        /// A field whose name on the wire is fixed. As a number it is an index below
        /// [`COUNT`](Self::COUNT), for tables of names in a client's own type.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum Known {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Known {
            /// Every one, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();
            pub(super) const DASHED: [&'static str; Self::COUNT] = [$($dashed),+];
            pub(super) const UNDERSCORED: [&'static str; Self::COUNT] = [$($underscored),+];
        }
    };
}

known! {
    /// The version of CloudEvents.
    SpecVersion "ce-specversion" "ce_specversion";
    /// The event's id.
    Id "ce-id" "ce_id";
    /// Who published it.
    Source "ce-source" "ce_source";
    /// What kind of event it is.
    Type "ce-type" "ce_type";
    /// When it happened.
    Time "ce-time" "ce_time";
    /// What it is about; read and not written, since the topic says it.
    Subject "ce-subject" "ce_subject";
    /// The media type of the payload, where the style has it among the attributes or as a header.
    ContentType "content-type" "content-type";
    /// What orders it among others.
    Key "ce-partitionkey" "ce_partitionkey";
    /// The conversation it belongs to.
    CorrelationId "ce-correlationid" "ce_correlationid";
    /// The event that caused it.
    CausationId "ce-causationid" "ce_causationid";
    /// When it is not worth delivering any more.
    ExpiryTime "ce-expirytime" "ce_expirytime";
    /// How urgent it is.
    Priority "ce-priority" "ce_priority";
    /// The version of the payload's shape.
    EventVersion "ce-eventversion" "ce_eventversion";
    /// The trace of its origin.
    OriginTrace "ce-traceparent" "ce_traceparent";
    /// The vendors' state of the trace of its origin.
    OriginState "ce-tracestate" "ce_tracestate";
    /// The trace of this hop.
    TraceParent "traceparent" "traceparent";
    /// The vendors' state of the trace of this hop.
    TraceState "tracestate" "tracestate";
    /// The version of Fabric's own pairs; absent: 1.
    Version "fabric-v" "fabric-v";
    /// Which try the event is on.
    Attempt "fabric-attempt" "fabric-attempt";
    /// When a delayed event is due.
    Due "fabric-due" "fabric-due";
    /// The one group that the event is for.
    To "fabric-to" "fabric-to";
    /// The event's topic, where the broker's name for it is another.
    Topic "fabric-topic" "fabric-topic";
    /// The publisher's sequence.
    Sequence "fabric-seq" "fabric-seq";
    /// The group whose dead letter it is.
    DeadGroup "fabric-dl-group" "fabric-dl-group";
    /// Why it is a dead letter.
    DeadReason "fabric-dl-reason" "fabric-dl-reason";
    /// The error and its causes.
    DeadError "fabric-dl-error" "fabric-dl-error";
    /// How often it was tried.
    DeadAttempts "fabric-dl-attempts" "fabric-dl-attempts";
    /// When the last try was received.
    DeadFirst "fabric-dl-first" "fabric-dl-first";
    /// When it became a dead letter.
    DeadLast "fabric-dl-last" "fabric-dl-last";
    /// Where it had been published.
    DeadTopic "fabric-dl-topic" "fabric-dl-topic";
    /// Where it had been stored.
    DeadPosition "fabric-dl-position" "fabric-dl-position";
    /// How often it was sent back to its group.
    DeadRedriven "fabric-dl-redriven" "fabric-dl-redriven";
}

impl Known {
    /// Whether the value is that of a CloudEvents attribute, which some styles escape.
    pub(super) const fn is_attribute(self) -> bool {
        (self as usize) <= Self::OriginState as usize
    }
}
