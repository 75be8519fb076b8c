//! The lab: every pod a network namespace whose `eth0` is a TAP of the network, and `outside`, the world
//! beyond the uplinks.
//!
//! ```text
//!   spec ──▶ bring_up ──▶ LabNet ──▶ TAPs to be attached to the network
//!              │              └──▶ responder (answers on containerPorts)
//!            state under /run/supernet/NAME: read by exec and down
//! ```
//!
//! Names are answered in the lab itself, as a cluster does ([`dns`]). A running lab takes requests on a socket in its folder ([`live`]): other objects, and how it is. [`selftest`] tries
//! it out against what is predicted of it.
//!
//! One process, the supervisor, holds a lab: its namespaces, TAPs, responder and the network itself. It ends
//! on SIGINT, SIGTERM or SIGHUP and leaves nothing behind. What a `kill -9` leaves, the next `up` or `down` of
//! the same name removes.

mod command;
mod dns;
mod error;
mod from_network;
mod interface;
mod live;
mod net;
mod netns;
mod responder;
mod rootless;
mod selftest;
mod spec;
mod state;
mod supervise;
#[cfg(test)]
mod tests;

pub(crate) use command::run;
pub(crate) use supervise::Signals;
