//! Answers about a network, as values: what it is ([`plan`]), who reaches whom ([`reach`]),
//! what changes between two of them ([`diff`]),
//! whether it is as somebody said it should be ([`assert`](mod@assert)), what happens to a packet ([`trace`]), and what is drawn of it
//! ([`topology`]).
//!
//! Answers are computed from the compiled snapshot, never by a second reading of the model's rules, so they say
//! what packets will meet. They serialise with camelCase names; programs may rely on the fields documented here.

pub mod assert;
pub mod diff;
mod ends;
pub mod explain;
mod fold;
mod judge;
pub mod lint;
mod open;
mod outside;
pub mod plan;
pub mod reach;
mod sections;
mod text;
pub mod topology;
pub mod trace;
mod view;

pub use view::View;

#[cfg(test)]
mod brute;
#[cfg(test)]
mod tests;
