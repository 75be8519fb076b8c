//! The `supernet` command.

mod cli;
#[cfg(test)]
mod fixture;
#[expect(dead_code, reason = "the commands are wired up by the next change")]
mod output;
#[cfg_attr(not(test), expect(dead_code, reason = "the commands are wired up by the next change"))]
mod plan;
#[cfg_attr(not(test), expect(dead_code, reason = "the commands are wired up by the next change"))]
mod reach;

fn main() {
    let _ = <cli::Cli as clap::Parser>::parse();
}
