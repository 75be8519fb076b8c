//! The connections of a running lab, as `supernet lab flows` tells of them.
//!
//! ```text
//!   workers ── rings ──▶ History (one thread): the last of them ──▶ serve (a thread each) ── lines of JSON ──▶ client: lines
//!                  └── no room: missed                    └── a reader that lags behind is told what it missed
//! ```
//!
//! A lab logs from its first packet on, so that what happened can be asked for afterwards. There is one log for all who
//! ask: however many they are, and however slowly they read, workers write once, and memory is bounded. What is kept are
//! numbers; names are put to them when somebody reads, and only of what the reader asked for.

pub(super) mod client;
pub(super) mod history;
pub(super) mod serve;
mod words;

use serde::{Deserialize, Serialize};
use supernet::Flow;

/// One thing that is said on the connection, a line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Item {
    /// What happened.
    Flow(Box<Flow>),
    /// The last one.
    End(End),
}

/// Why nothing more is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct End {
    /// The lab ends; else that was all, or there is enough.
    lab_ends: bool,
}
