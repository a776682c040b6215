//! The numbers of names: fixed for ever, whatever the order of the names elsewhere.

use crate::wire::Known;

macro_rules! codes {
    ($($number:literal $name:ident;)+) => {
        /// The number that stands for a name.
        pub(super) const fn of(known: Known) -> u8 {
            match known { $(Known::$name => $number,)+ }
        }

        /// The name that a number stands for.
        pub(super) const fn read(number: u8) -> Option<Known> {
            match number { $($number => Some(Known::$name),)+ _ => None }
        }
    };
}

codes! {
    2 SpecVersion;
    3 Id;
    4 Source;
    5 Type;
    6 Time;
    7 Subject;
    8 ContentType;
    9 Key;
    10 CorrelationId;
    11 CausationId;
    12 ExpiryTime;
    13 Priority;
    14 EventVersion;
    15 OriginTrace;
    16 OriginState;
    17 TraceParent;
    18 TraceState;
    19 Version;
    20 Attempt;
    21 Due;
    22 To;
    23 Topic;
    24 Sequence;
    25 DeadGroup;
    26 DeadReason;
    27 DeadError;
    28 DeadAttempts;
    29 DeadFirst;
    30 DeadLast;
    31 DeadTopic;
    32 DeadPosition;
    33 DeadRedriven;
}
