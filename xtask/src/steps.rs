//! Steps that are run one after the other, timed, and summed up in a table.

use std::{
    io::Write,
    time::{Duration, Instant},
};

/// How a step ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Passed,
    /// Why.
    Failed(String),
    /// Why, and what to do.
    Skipped(String),
}

/// Steps that have been run.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    done: Vec<(&'static str, Outcome, Duration)>,
}

impl Steps {
    /// Runs a step under a heading of its own.
    pub(crate) fn run(&mut self, name: &'static str, step: impl FnOnce() -> Outcome) {
        println!("\n=== {name} ===");
        let start = Instant::now();
        let outcome = step();
        match &outcome {
            Outcome::Passed => {}
            Outcome::Failed(why) => println!("FAILED: {why}"),
            Outcome::Skipped(why) => println!("SKIPPED: {why}"),
        }
        let _ = std::io::stdout().flush();
        self.done.push((name, outcome, start.elapsed()));
    }

    /// Prints what there was. Whether nothing failed.
    pub(crate) fn sum_up(&self) -> bool {
        let width = self.done.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
        let (mut passed, mut failed, mut skipped) = (0, 0, 0);
        println!("\n=== summary ===");
        for (name, outcome, time) in &self.done {
            let word = match outcome {
                Outcome::Passed => {
                    passed += 1;
                    "passed"
                }
                Outcome::Failed(_) => {
                    failed += 1;
                    "FAILED"
                }
                Outcome::Skipped(_) => {
                    skipped += 1;
                    "skipped"
                }
            };
            println!("{name:width$}  {word:7}  {:>7.1} s", time.as_secs_f64());
        }
        let skipped = if skipped == 0 { String::new() } else { format!(", {skipped} skipped") };
        println!("\n{passed} passed, {failed} failed{skipped}");
        failed == 0
    }
}
