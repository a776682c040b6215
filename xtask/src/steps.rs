//! A run in named steps, each timed, with a summary at the end.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Runs every step also after a failure, so that one run shows all there is to mend.
#[derive(Debug)]
pub(crate) struct Steps {
    started: Instant,
    done: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    name: String,
    time: Duration,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    Ok,
    Failed(String),
    NotRun(String),
}

impl Steps {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), done: Vec::new() }
    }

    /// Runs one step; returns whether it went well.
    pub(crate) fn run(&mut self, name: &str, step: impl FnOnce() -> Result<()>) -> bool {
        println!("\n=== {name}");
        let started = Instant::now();
        let outcome = match step() {
            Ok(()) => Outcome::Ok,
            Err(error) => {
                eprintln!("=== {name} failed: {error}");
                Outcome::Failed(error.to_string())
            }
        };
        let ok = matches!(outcome, Outcome::Ok);
        self.done.push(Step { name: name.to_owned(), time: started.elapsed(), outcome });
        ok
    }

    /// Notes in the summary a step that was left out, and why.
    pub(crate) fn not_run(&mut self, name: &str, reason: &str) {
        let outcome = Outcome::NotRun(reason.to_owned());
        self.done.push(Step { name: name.to_owned(), time: Duration::ZERO, outcome });
    }

    /// Prints the summary; an error if any step failed.
    pub(crate) fn finish(&self) -> Result<()> {
        print!("\n{}", self.summary());
        println!("total {:.1} s", self.started.elapsed().as_secs_f64());
        match self.done.iter().filter(|step| matches!(step.outcome, Outcome::Failed(_))).count() {
            0 => Ok(()),
            failed => Err(Error::new(format!("{failed} of {} steps failed", self.done.len()))),
        }
    }

    fn summary(&self) -> String {
        let width = self.done.iter().map(|step| step.name.len()).max().unwrap_or(0);
        let mut text = String::from("=== summary\n");
        for Step { name, time, outcome } in &self.done {
            let seconds = time.as_secs_f64();
            let (word, why) = match outcome {
                Outcome::Ok => ("ok", String::new()),
                Outcome::Failed(why) => ("FAILED", first_line(why)),
                Outcome::NotRun(why) => ("not run", first_line(why)),
            };
            // Writing to a `String` cannot fail.
            let _ = writeln!(text, "{name:width$}  {word:7} {seconds:7.1} s{why}");
        }
        text
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().map_or_else(String::new, |line| format!("  {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_every_step_and_its_outcome() {
        let mut steps = Steps::new();
        assert!(steps.run("good", || Ok(())));
        assert!(!steps.run("bad one", || Err(Error::new("broken\nin detail"))));
        steps.not_run("extra", "not installed");
        let summary = steps.summary();
        let lines: Vec<&str> = summary.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[1].starts_with("good     ok "), "{summary}");
        assert!(lines[2].starts_with("bad one  FAILED "), "{summary}");
        assert!(lines[2].ends_with("  broken"), "{summary}");
        assert!(lines[3].contains("not run") && lines[3].ends_with("not installed"), "{summary}");
        assert_eq!(steps.finish(), Err(Error::new("1 of 3 steps failed")));
    }
}
