//! The `supernet` command.

mod cli;
#[allow(dead_code, unused_imports)]
mod lab;
mod output;
mod plan;
mod reach;

fn main() {
    let _ = <cli::Cli as clap::Parser>::parse();
}
