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
//! Imports run one way: `id time <- buf <- wire <- table rewrite verdict <- flow <- snapshot <- stage
//! <- pipeline <- worker`; `port` uses only `buf` and `id`.

pub mod id;
pub mod time;
pub mod buf;
pub mod port;
pub mod wire;
pub mod verdict;
pub mod table;
pub mod snapshot;
