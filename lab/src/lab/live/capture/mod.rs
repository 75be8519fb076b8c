//! The traffic of a running lab, as `supernet lab pcap` sees it.
//!
//! ```text
//!   workers ── Record ──▶ Capture ─▶ serve (a thread each) ── Items on the socket ──▶ client ─▶ sink: pcapng, lines
//!                 └── no room: missed                                                            └─▶ stderr: counts
//! ```
//!
//! A capture begins as any request does: one line there, one line back. From then on the connection is its own, with a
//! thread of its own, so that no other request waits for it; a reader that is too slow misses packets, and a worker
//! notices none of it. The lab names what the numbers of records mean ([`stream`]); what is written, and how, is the
//! client's matter ([`sink`]).

pub(super) mod client;
pub(super) mod serve;
mod sink;
mod stream;
mod summary;
pub(super) mod words;

pub(super) use stream::Interface;
