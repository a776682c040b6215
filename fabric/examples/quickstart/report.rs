//! What the quickstart prints: sections on the way, a table at the end.

use std::collections::BTreeMap;
use std::fmt;

use fabric::{Ability, Fabric};

/// Prints a heading.
pub(crate) fn section(title: impl fmt::Display) {
    println!("\n{title}");
}

/// What is checked, in the order of the table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    Published,
    Seen,
    Handled,
    TakenOver,
    Rejected,
    ReplayedByTime,
    ReplayedByPlace,
}

impl Step {
    const fn what(self) -> &'static str {
        match self {
            Self::Published => "published and confirmed",
            Self::Seen => "seen by the plain subscriber",
            Self::Handled => "strong ones handled by the group",
            Self::TakenOver => "taken over from the crashed member",
            Self::Rejected => "dead letters, with the reason",
            Self::ReplayedByTime => "replayed from the time of half way",
            Self::ReplayedByPlace => "replayed from the places of half way",
        }
    }

    /// What a backend has to be able to do for it.
    const fn needs(self) -> &'static [Ability] {
        match self {
            Self::Published => &[],
            Self::Seen => &[Ability::FanOut],
            Self::Handled | Self::TakenOver => &[Ability::Groups],
            Self::Rejected => &[Ability::Groups, Ability::DeadLetters],
            Self::ReplayedByTime => &[Ability::Replay, Ability::StartTime],
            Self::ReplayedByPlace => &[Ability::Replay, Ability::StartPosition],
        }
    }
}

/// What was expected, beside what was seen.
#[derive(Default)]
pub(crate) struct Report(BTreeMap<Step, Row>);

enum Row {
    Checked { expected: usize, seen: usize, missed: usize },
    Unsupported { why: String },
}

impl Report {
    /// Whether this stack can do what a step needs; if not, the table says so.
    pub(crate) fn can(&mut self, step: Step, fabric: &Fabric) -> bool {
        let (capabilities, name) = (fabric.capabilities(), &fabric.info().name);
        let missing = |ability: &Ability| capabilities.demand(*ability, name).err();
        let Some(error) = step.needs().iter().find_map(missing) else { return true };
        self.0.insert(step, Row::Unsupported { why: error.message().to_owned() });
        false
    }

    /// Notes how many of something were expected and seen.
    pub(crate) fn check(&mut self, step: Step, expected: usize, seen: usize) {
        self.check_with_missed(step, expected, seen, 0);
    }

    /// As `check`, where the backend says that it lost some before they were read.
    pub(crate) fn check_with_missed(
        &mut self,
        step: Step,
        expected: usize,
        seen: usize,
        missed: usize,
    ) {
        self.0.insert(step, Row::Checked { expected, seen, missed });
    }

    pub(crate) fn is_as_expected(&self) -> bool {
        self.0.values().all(Row::is_as_expected)
    }

    pub(crate) fn print(&self) {
        let width = self.0.keys().map(|step| step.what().len()).max().unwrap_or(0);
        println!("\n  {:width$}   expected    seen", "");
        for (step, row) in &self.0 {
            println!("  {:width$}   {row}", step.what());
        }
        let unsupported =
            self.0.values().filter(|row| matches!(row, Row::Unsupported { .. })).count();
        let verdict =
            if self.is_as_expected() { "All is as expected" } else { "Something differs" };
        match unsupported {
            0 => println!("\n{verdict}."),
            n => println!("\n{verdict}; {n} of {} steps are unsupported here.", self.0.len()),
        }
    }
}

impl Row {
    const fn is_as_expected(&self) -> bool {
        match self {
            Self::Checked { expected, seen, missed } => *expected == *seen + *missed,
            Self::Unsupported { .. } => true,
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported { why } => write!(f, "       –       –  unsupported: {why}"),
            Self::Checked { expected, seen, missed } => {
                let mark = if self.is_as_expected() { '✓' } else { '✗' };
                write!(f, "{expected:>8}  {seen:>6}  {mark}")?;
                match missed {
                    0 => Ok(()),
                    missed => write!(f, "  and {missed} told as missed"),
                }
            }
        }
    }
}
