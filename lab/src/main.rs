//! The `supernet` command.

mod assert;
mod attach;
mod bench;
mod cli;
mod demo;
mod diff;
#[cfg(test)]
mod fixture;
mod input;
mod lab;
mod output;
mod picture;
mod plan;
mod policy;
mod reach;
mod trace;

use clap::Parser;
use cli::{Cli, Command, PolicyCommand};
use std::{error::Error, process::ExitCode};

/// Exit status of an error.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(status) => ExitCode::from(status),
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(FAILED)
        }
    }
}

/// Runs a command; the status it ends with.
fn run(command: Command) -> Result<u8, Box<dyn Error>> {
    match command {
        Command::Plan(args) => {
            args.check().unwrap_or_else(|e| e.exit());
            plan::run(&args)?;
            Ok(0)
        }
        Command::Reach(args) => {
            let (mut network, warnings) = input::network(&args.files)?;
            input::warn(&warnings);
            reach::print(&network.reach()?, args.output)?;
            Ok(0)
        }
        Command::Trace(args) => trace::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Assert(args) => assert::run(&args),
        Command::Policy(PolicyCommand::Lint(args)) => policy::lint(&args),
        Command::Demo => demo::run(),
        Command::Lab(command) => lab::run(&command),
        Command::Bench(args) => {
            args.check().unwrap_or_else(|e| e.exit());
            bench::run(&args)?;
            Ok(0)
        }
    }
}
