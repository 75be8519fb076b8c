//! Sessions: what is remembered of a connection, and how it is found.
//!
//! ```text
//!   key (scope + 5-tuple) ──▶ FlowTable ──▶ entry: rewrite, output, generation, counters   (one a direction)
//!                                            │
//!                                            └──▶ Record: binding, verdict, state          (one a connection)
//! ```
//!
//! Any worker may handle any packet. Readers of the table take no lock; whoever adds a connection locks the
//! stripes of its two keys in a fixed order, so one of two racing workers wins and the other finds the
//! winner's entry. A slot is reused only after every worker passed a batch boundary ([`Epochs`]).

mod conntrack;
mod epochs;
mod fragments;
mod half_open;
mod key;
mod quota;
mod session;
mod table;
mod window;

pub use conntrack::{Direction, State, Timeouts, Track};
pub use epochs::Epochs;
pub use fragments::{FragmentLimits, Fragments, Offered, PacketKey, Ports, Waiting};
pub use half_open::{End as HalfOpenEnd, Ends as HalfOpenEnds, HalfOpen, HalfOpenLimits, Opened, Opener};
pub use key::{FlowKey, Scope};
pub use quota::{ConnectionLimits, Payer, QuotaClaim, QuotaUsage, Quotas};
pub use session::{Binding, Bound, Denial, Judgement, Place, Record, Session, SessionId, Sessions};
pub use table::{
    ABSENT, EntryId, FlowTable, Found, Meta, NOWHERE, Open, OpenV4, OpenV6, Passed, Spot, Taken, Tick, Usage,
};
pub use window::Windows;
