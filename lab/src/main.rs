//! The `supernet` command.

mod cli;
#[cfg(test)]
mod fixture;
#[allow(dead_code, reason = "the commands that print are wired up next")]
mod output;
#[allow(dead_code, reason = "the commands that print are wired up next")]
mod plan;
#[allow(dead_code, reason = "the commands that print are wired up next")]
mod reach;

fn main() {
    let _ = <cli::Cli as clap::Parser>::parse();
}
