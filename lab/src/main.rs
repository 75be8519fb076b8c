//! The `supernet` command.

mod cli;

fn main() {
    let _ = <cli::Cli as clap::Parser>::parse();
}
