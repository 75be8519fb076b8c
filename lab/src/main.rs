//! The `supernet` command.

mod cli;
mod output;
mod plan;
mod reach;

fn main() {
    let _ = <cli::Cli as clap::Parser>::parse();
}
