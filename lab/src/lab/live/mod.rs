//! A lab that is looked at and changed while it runs.
//!
//! ```text
//!   lab apply|delete|status ── one line of JSON ──▶ /run/supernet/NAME/socket ── serve (main thread)
//!                           ◀── one line of JSON ──                                  │
//!                                        change: draft ─ refusal ─ prepare ─ attach ─ commit ─ finish
//!                                        status: counters, samples, sessions
//! ```
//!
//! [`wire`] is what is said, [`socket`] listens, [`client`] asks, [`network`] answers. The supervisor's main thread
//! does all of that, one request at a time; packets run on threads of their own and notice nothing of it. A [`capture`]
//! and who reads [`flows`] alone go on after their answer, on threads of their own ([`streams`]).
//!
//! What always holds: a change is checked and compiled as a whole before anything is made for it, and either all
//! of it happens or nothing; and nothing a client sends or fails to send ends the lab or keeps others waiting long.

mod capture;
pub(super) mod change;
pub(super) mod client;
pub(super) mod command;
mod deletion;
mod error;
mod flows;
pub(super) mod network;
mod refusal;
mod rules;
pub(super) mod socket;
pub(super) mod status;
mod streams;
pub(super) mod target;
mod watch;
pub(super) mod wire;

pub(super) use capture::client::run as pcap;
pub(super) use flows::client::run as flows;
