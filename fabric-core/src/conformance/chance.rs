//! Chance that can be had again.

use fastrand::Rng;

use super::failure::Verdict;
use crate::testing::{SEED_VARIABLE, seed};

/// What is drawn from a seed that a failure names.
pub(super) struct Chance {
    seed: u64,
    pub(super) rng: Rng,
}

/// From the seed that the environment names, else from a new one.
pub(super) fn chance() -> Chance {
    let seed = seed();
    Chance { seed, rng: Rng::with_seed(seed) }
}

impl Chance {
    /// The outcome, with the seed where it is a failure.
    pub(super) fn judge(&self, outcome: Verdict) -> Verdict {
        let seed = self.seed;
        outcome.map_err(|failure| {
            failure.after(format_args!("with the seed {seed} ({SEED_VARIABLE}={seed} repeats it)"))
        })
    }
}
