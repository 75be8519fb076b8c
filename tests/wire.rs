//! The wire: the parser against two others, headers edited in place against checksums computed anew, and what
//! the network writes itself read by another stack.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "wire/answers.rs"]
mod answers;
#[path = "wire/frames.rs"]
mod frames;
#[path = "wire/parse.rs"]
mod parse;
#[path = "wire/rewrite.rs"]
mod rewrite;
#[path = "wire/scan.rs"]
mod scan;
