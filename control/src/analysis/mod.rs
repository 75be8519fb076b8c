//! Answers about a network, as values: what it is ([`plan`]), who reaches whom ([`reach`]),
//! what happens to a packet ([`trace`]), and what is drawn of it ([`topology`]).
//!
//! Answers are computed from the compiled snapshot, never by a second reading of the model's rules, so they say
//! what packets will meet. They serialise with camelCase names; programs may rely on the fields documented here.

pub mod explain;
mod fold;
pub mod lint;
mod open;
pub mod plan;
pub mod reach;
mod sections;
mod text;
pub mod topology;
pub mod trace;

#[cfg(test)]
mod tests;
