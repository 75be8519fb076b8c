//! Sequences of packets, changes and time, played through several dataplanes that must do the same: those that keep
//! verdict and rewrite of a session between packets, and one that computes them again for every packet.
//!
//! ```text
//!   bytes ─▶ read ─▶ events ─┬─▶ side with cache ────┬─▶ same frames, counters, sessions; nothing lost
//!                            ├─▶ captured now and then ┤      what is captured is what is counted
//!                            └─▶ side without cache ─┘        what is logged of connections, too
//! ```
//!
//! The fuzz target `sequences` and its corpus play what [`read`] makes of bytes; property tests make up their own
//! events.

mod logged;
pub mod messages;
pub mod network;
pub mod packets;
mod play;
mod read;
pub mod sides;
mod watched;

pub use play::{Reach, play};
pub use read::{Sequence, read};
