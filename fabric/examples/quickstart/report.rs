//! What the quickstart prints: sections on the way, a table at the end.

use std::fmt::Display;

use fabric::{Ability, Fabric};

/// Prints a heading.
pub(crate) fn section(title: impl Display) {
    println!("\n{title}");
}

/// What was expected, beside what was seen.
#[derive(Default)]
pub(crate) struct Report(Vec<Row>);

enum Row {
    Checked { what: &'static str, expected: usize, seen: usize, missed: usize },
    Unsupported { what: &'static str, why: String },
}

impl Report {
    /// Notes how many of something were expected and seen.
    pub(crate) fn check(&mut self, what: &'static str, expected: usize, seen: usize) {
        self.check_with_missed(what, expected, seen, 0);
    }

    /// As `check`, where the backend says that it lost some before they were read.
    pub(crate) fn check_with_missed(
        &mut self,
        what: &'static str,
        expected: usize,
        seen: usize,
        missed: usize,
    ) {
        self.0.push(Row::Checked { what, expected, seen, missed });
    }

    /// Whether this stack can do what a step needs; if not, the table says so.
    pub(crate) fn can(
        &mut self,
        what: &'static str,
        fabric: &Fabric,
        needed: impl IntoIterator<Item = Ability>,
    ) -> bool {
        let (capabilities, name) = (fabric.capabilities(), &fabric.info().name);
        let missing =
            needed.into_iter().find_map(|ability| capabilities.demand(ability, name).err());
        let can = missing.is_none();
        if let Some(error) = missing {
            self.0.push(Row::Unsupported { what, why: error.message().to_owned() });
        }
        can
    }

    pub(crate) fn is_as_expected(&self) -> bool {
        self.0.iter().all(Row::is_as_expected)
    }

    pub(crate) fn print(&self) {
        let width = self.0.iter().map(|row| row.what().len()).max().unwrap_or(0);
        println!("\n  {:width$}   expected    seen", "");
        for row in &self.0 {
            match row {
                Row::Checked { what, expected, seen, missed } => {
                    let mark = if row.is_as_expected() { '✓' } else { '✗' };
                    let missed = match missed {
                        0 => String::new(),
                        missed => format!("  and {missed} told as missed"),
                    };
                    println!("  {what:width$}   {expected:>8}  {seen:>6}  {mark}{missed}");
                }
                Row::Unsupported { what, why } => {
                    println!("  {what:width$}          –       –  unsupported: {why}");
                }
            }
        }
        let verdict = if self.is_as_expected() { "All as expected." } else { "Something differs." };
        println!("\n{verdict}");
    }
}

impl Row {
    const fn what(&self) -> &'static str {
        match self {
            Self::Checked { what, .. } | Self::Unsupported { what, .. } => what,
        }
    }

    const fn is_as_expected(&self) -> bool {
        match self {
            Self::Checked { expected, seen, missed, .. } => *expected == *seen + *missed,
            Self::Unsupported { .. } => true,
        }
    }
}
