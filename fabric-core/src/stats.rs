//! Counts of what is rare and worth knowing, kept by every fabric.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident $bump:ident;)+) => {
        /// Counts since a fabric was made; see [`Fabric::stats`](crate::Fabric::stats).
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        #[non_exhaustive]
        pub struct StatsSnapshot { $($(#[doc = $doc])+ pub $name: u64,)+ }

        /// The live counters.
        #[derive(Debug, Default)]
        pub(crate) struct Stats { $($name: AtomicU64,)+ }

        impl Stats {
            $(pub(crate) fn $bump(&self, count: u64) {
                self.$name.fetch_add(count, Ordering::Relaxed);
            })+

            pub(crate) fn snapshot(&self) -> StatsSnapshot {
                StatsSnapshot { $($name: self.$name.load(Ordering::Relaxed),)+ }
            }
        }
    };
}

counters! {
    /// Deliveries dropped without a settlement; they come again.
    dropped_deliveries add_dropped;
    /// Settlements that came after the lease had moved.
    stale_settlements add_stale;
    /// Events that became dead letters.
    dead_letters add_dead_letters;
    /// Events that readers missed by retention or their own slowness.
    missed add_missed;
    /// Deliveries with an attempt number above one.
    redeliveries add_redeliveries;
}

impl Stats {
    pub(crate) fn dead_lettered(&self) {
        self.add_dead_letters(1);
    }
}
