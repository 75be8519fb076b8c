//! What happens to a packet.
//!
//! This crate knows nothing of Kubernetes, files or clocks. Control compiles a [`snapshot::Snapshot`],
//! publishes it whole, and workers run frames through it:
//!
//! ```text
//!   Port ──receive──▶ parse ──▶ look up ──hit──▶ rewrite ──▶ Port
//!                                  │ miss
//!                                  ▼
//!        spoof guard ─ segment ─ DLB ─ DFW ─ router ─ SNAT ─ VIP ─ Tier-0 ─ DFW ─ commit
//! ```
//!
//! Imports run one way: `sync id time pages <- buf <- wire <- vector <- table rewrite verdict <- flow handover
//! <- snapshot <- state <- capture flowlog <- stage <- pipeline <- worker`; `port` uses only `buf`, `id`, `sync` and `verdict`.

pub mod buf;
pub mod capture;
pub mod counters;
pub mod flow;
pub mod flowlog;
mod handover;
pub mod id;
pub mod pages;
pub mod pipeline;
pub mod port;
pub mod rewrite;
pub mod snapshot;
pub mod stage;
pub mod staged;
pub mod state;
mod sync;
pub mod table;
pub mod time;
pub mod trace;
pub mod vector;
pub mod verdict;
pub mod wire;
pub mod worker;
