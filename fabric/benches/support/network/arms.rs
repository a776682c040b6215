//! The arms of a comparison, and their rounds in turn.

use std::sync::Arc;

use super::Client;
use crate::support::{Pairs, Result};

/// One side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arm {
    Fabric,
    Raw,
    /// Fabric with `profile=raw`.
    Profile,
    Bare,
}

impl Arm {
    pub(crate) const ALL: [Self; 4] = [Self::Fabric, Self::Raw, Self::Profile, Self::Bare];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Fabric => "fabric",
            Self::Raw => "raw",
            Self::Profile => "profile",
            Self::Bare => "bare",
        }
    }

    pub(crate) fn named(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|arm| arm.name() == name);
        found.ok_or_else(|| format!("no such arm: {name}").into())
    }
}

/// The connected arms of one way to use the backend.
pub(crate) struct Arms {
    /// What the records call `fabric` beside `raw`, and `profile` beside `bare`.
    pub(crate) modes: [&'static str; 2],
    /// The least that `profile` may reach of `bare`.
    pub(crate) least_of_bare: f64,
    pub(crate) clients: Vec<(Arm, Arc<dyn Client>)>,
}

/// What each arm gave, round by round.
pub(crate) struct Rounds<T>(Vec<(Arm, Vec<T>)>);

impl<T: Clone> Rounds<T> {
    /// Runs a warm-up of all and then `rounds` rounds; who begins changes every round.
    pub(crate) fn run(
        arms: &Arms,
        rounds: usize,
        mut round: impl FnMut(&Arc<dyn Client>) -> Result<T>,
    ) -> Result<Self> {
        let count = arms.clients.len();
        let mut all: Vec<(Arm, Vec<T>)> =
            arms.clients.iter().map(|(arm, _)| (*arm, Vec::with_capacity(rounds))).collect();
        let mut run = |place: usize| -> Result<T> {
            let (arm, client) = &arms.clients[place];
            round(client).map_err(|failure| format!("the arm {}: {failure}", arm.name()).into())
        };
        for place in 0..count {
            run(place)?;
        }
        for number in 0..rounds {
            for step in 0..count {
                let place = (number + step) % count;
                all[place].1.push(run(place)?);
            }
        }
        Ok(Self(all))
    }

    /// Two arms beside each other, if both took part.
    pub(crate) fn pairs(&self, ours: Arm, theirs: Arm) -> Option<Pairs<T>> {
        let of = |arm| self.0.iter().find(|(found, _)| *found == arm).map(|(_, rounds)| rounds);
        Some(Pairs::of(of(ours)?, of(theirs)?))
    }
}
