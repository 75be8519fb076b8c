//! Plan: a path in numbers, with all that a commit would otherwise have to look for.
//!
//! A plan changes nothing that packets can tell: it asks which port answers will probably come to, and for the
//! memory that the session's entries will probably be in. Next hops and tallies it meets for the first time get
//! their numbers.

use super::{First, Next, Path, Source};
use crate::{
    counters::TallyKey,
    flow::{FlowKey, FlowTable, Meta, Scope, SessionId, Spot},
    id::{Generation, IdentityId, NeighborId, PortId, ServerId},
    rewrite::{Rewrite, Tuple},
    snapshot::Snapshot,
    state::{Neighbors, State},
    table::ports::PortPool,
    wire::{Address, AnyAddress},
};

/// Where packets go, as a number that an entry has room for: next hops beyond uplinks come first, then ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Adjacency {
    /// To a workload's port.
    Port(PortId),
    /// To a next hop beyond an uplink.
    NextHop(NeighborId),
}

impl Adjacency {
    /// As a number of 24 bits.
    pub fn number(self) -> u32 {
        match self {
            Self::Port(port) => port.0 + Neighbors::MAX as u32,
            Self::NextHop(id) => id.0,
        }
    }

    /// What a number stands for.
    pub fn of(number: u32) -> Self {
        match number.checked_sub(Neighbors::MAX as u32) {
            Some(port) => Self::Port(PortId(port)),
            None => Self::NextHop(NeighborId(number)),
        }
    }
}

/// How both directions of a connection go, whatever its addresses are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Course {
    /// Where packets come in, and where answers do.
    pub scopes: (Scope, Scope),
    /// Where packets go, and where answers do: [`Adjacency`]s.
    pub adjacencies: (u32, u32),
    /// What is taken off the TTL.
    pub hops: u8,
    /// MACs are kept.
    pub switched: bool,
    /// What packets are counted under.
    pub tally: u32,
}

/// What an entry is found by and how it rewrites packets.
pub type Edit<A> = (FlowKey<A>, Rewrite<A>);

impl Course {
    /// The course of a path that begins at `ingress`; `None` when there are too many next hops.
    pub fn of<A>(state: &State, snap: &Snapshot, ingress: PortId, path: &Path<A>) -> Option<Self> {
        let adjacency = |next: &Next| match next {
            Next::Port(port) => Some(Adjacency::Port(*port).number()),
            Next::Neighbor(neighbor) => Some(Adjacency::NextHop(state.neighbors.intern(neighbor)?).number()),
        };
        Some(Self {
            scopes: (scope(snap, ingress), scope(snap, path.out.port())),
            adjacencies: (adjacency(&path.out)?, adjacency(&path.back)?),
            hops: path.hops,
            switched: path.switched,
            tally: state.tallies.intern(TallyKey {
                egress_rule: path.egress_rule,
                ingress_rule: path.ingress_rule,
                server: path.server,
            }),
        })
    }

    /// What the two entries of a connection do, forward and reverse; `None` if it is of another family.
    pub fn edits<A: Address, B: AnyAddress>(
        &self,
        original: &Tuple<B>,
        reply: &Tuple<B>,
    ) -> Option<(Edit<A>, Edit<A>)> {
        let forward = (
            FlowKey::forward(original, self.scopes.0)?,
            Rewrite::new(original, &reply.reversed(), self.hops)?,
        );
        let reverse =
            (FlowKey::reverse(reply, self.scopes.1)?, Rewrite::new(reply, &original.reversed(), self.hops)?);
        Some((forward, reverse))
    }

    /// What else its entries say, forward and reverse, if it is `opening` or not.
    pub fn metas(&self, generation: Generation, session: SessionId, opening: bool) -> (Meta, Meta) {
        let meta = |adjacency, forward| {
            let Self { hops, switched, tally, .. } = *self;
            let opening = opening && forward;
            Meta { adjacency, hops, switched, denied: false, opening, forward, generation, session, tally }
        };
        (meta(self.adjacencies.0, true), meta(self.adjacencies.1, false))
    }
}

/// A connection that may be committed.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'s, A> {
    /// The port its first packet came in by.
    pub ingress: PortId,
    /// The first packet's tuple.
    pub original: Tuple<A>,
    /// The source that the destination will probably see.
    pub source: (A, u16),
    /// The ports of the source, if it is an egress address.
    pub pool: Option<&'s PortPool>,
    /// The destination: of a virtual server, the member.
    pub dst: (A, u16),
    /// How it goes.
    pub course: Course,
    /// The virtual server it was balanced by.
    pub server: Option<ServerId>,
    /// Firewall identities of destination and source.
    pub identities: (IdentityId, IdentityId),
    /// The hash of its first packet's tuple.
    pub hash: u64,
    /// Where the entry of its first packet's key goes, and that of the key that answers will probably have.
    pub spots: (Spot, Spot),
}

impl<'s, A: Address> Plan<'s, A> {
    /// The plan for a path, and asks for the tags of its answers' key. `key_hash` is the hash of its first
    /// packet's key. `None` when there are too many next hops.
    pub fn new(
        table: &FlowTable<A>,
        state: &'s State,
        snap: &Snapshot,
        first: &First<A>,
        path: &Path<A>,
        key_hash: u64,
    ) -> Option<Self> {
        let course = Course::of(state, snap, first.ingress, path)?;
        let original = first.tuple;
        let (source, pool) = match path.source {
            Source::Keep => ((original.src, original.sport), None),
            Source::Hairpin(address) => ((address, original.sport), None),
            Source::Egress(address) => {
                let pool = state.nat.pool(address, original.proto);
                ((address, pool.likely(original.sport)), Some(pool))
            }
        };
        let answers = FlowKey::reverse(&reply(source, path.dst, &original), course.scopes.1);
        Some(Self {
            ingress: first.ingress,
            original,
            source,
            pool,
            dst: path.dst,
            course,
            server: path.server,
            identities: path.identities,
            hash: first.hash,
            spots: (key_hash.into(), answers.map_or(0, |key| table.prefetch(&key)).into()),
        })
    }

    /// Looks for the slots that a commit will probably take, and asks for them.
    pub fn look_for_slots(&mut self, table: &FlowTable<A>) {
        for spot in [&mut self.spots.0, &mut self.spots.1] {
            *spot = table.look_for_slot(spot.hash());
        }
    }
}

/// The tuple that answers to `original` will have.
pub fn reply<A: Copy>((src, sport): (A, u16), (dst, dport): (A, u16), original: &Tuple<A>) -> Tuple<A> {
    Tuple { src: dst, dst: src, sport: dport, dport: sport, proto: original.proto }
}

/// The scope of packets that come in by a port.
pub fn scope(snap: &Snapshot, port: PortId) -> Scope {
    if snap.row(port).is_uplink { Scope::UPLINKS } else { Scope::port(port) }
}
