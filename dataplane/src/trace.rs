//! A walk that commits nothing: what would happen to a packet, stage by stage.

use crate::{
    rewrite::Tuple,
    snapshot::Snapshot,
    stage::{self, Event, First, Observer, Path, Source, Stop},
};

/// The way of a synthetic packet.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// The packet as it came in.
    pub first: First,
    /// What the stages did, in order, with the packet's tuple after each.
    pub events: Vec<(Event, Tuple)>,
    /// The intent, or where it stopped.
    pub outcome: Result<Path, Stop>,
}

impl Trace {
    /// Walks a packet through the stages of a snapshot.
    pub fn of(snap: &Snapshot, first: First) -> Self {
        let mut seen = Seen(Vec::new());
        let outcome = stage::walk(snap, &first, None, &mut seen);
        Self { first, events: seen.0, outcome }
    }

    /// The tuple the destination sees. A translated source keeps its port here; commit would claim one.
    pub fn delivered_tuple(&self) -> Option<Tuple> {
        let path = self.outcome.as_ref().ok()?;
        let src = match path.source {
            Source::Keep => self.first.tuple.src,
            Source::Egress(address) | Source::Hairpin(address) => address,
        };
        Some(Tuple { src, dst: path.dst.0, dport: path.dst.1, ..self.first.tuple })
    }
}

struct Seen(Vec<(Event, Tuple)>);

impl Observer for Seen {
    fn see(&mut self, event: Event, tuple: &Tuple) {
        self.0.push((event, *tuple));
    }
}
