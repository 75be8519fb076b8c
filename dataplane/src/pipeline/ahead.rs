//! Looking ahead: what the next packets without an entry will need, worked out and asked for together, so that
//! opening a connection does not wait for memory step by step.
//!
//! Only what changes nothing that packets can tell is done ahead: parsing, a look-up, the stages. A packet's turn
//! comes in order, and what was worked out for it is checked then: the commit looks the key up again.

use super::{Family, Pipeline, admit, has_session, slow::opens};
use crate::{
    buf::Frame,
    flow::FlowKey,
    id::PortId,
    rewrite::Tuple,
    stage::{
        Stop,
        plan::{self, Plan},
    },
    state::State,
    verdict::DropReason,
    wire::{L3, Packet, Proto},
};
use arrayvec::ArrayVec;

/// Packets looked at ahead.
pub(super) const AHEAD: usize = 16;

/// A packet that the slow path will take.
pub(super) struct Prepared<'s> {
    /// Which frame of the batch it is.
    n: usize,
    port: PortId,
    pub(super) packet: Result<Packet, DropReason>,
    pub(super) asked: Asked<'s>,
    /// Of its key, if it has one.
    hash: Option<u64>,
    /// The look-up of the batch did not find it.
    absent: bool,
}

/// What the stages say of a packet, if it belonged to no session when it was looked at.
pub(super) enum Asked<'s> {
    Nothing,
    V4(Opening<'s, u32>),
    V6(Opening<'s, u128>),
}

/// What the stages say of a packet that belongs to no session.
pub(super) type Opening<'s, A> = Result<Plan<'s, A>, Stop>;

/// The packets that were looked at, in order.
#[derive(Default)]
pub(super) struct Ahead<'s> {
    prepared: ArrayVec<Prepared<'s>, AHEAD>,
    taken: usize,
}

impl<'s> Ahead<'s> {
    /// Whether nothing is known of frame `n` or later ones.
    pub(super) fn is_behind(&self, n: usize) -> bool {
        self.prepared.last().is_none_or(|last| last.n < n)
    }

    /// What is known of frame `n`. To be asked in order.
    pub(super) fn at(&mut self, n: usize) -> Option<&Prepared<'s>> {
        while self.prepared.get(self.taken).is_some_and(|p| p.n < n) {
            self.taken += 1;
        }
        self.prepared.get(self.taken).filter(|p| p.n == n)
    }
}

impl Pipeline {
    /// Looks at frames of the batch that the slow path will take: at most [`AHEAD`]. The last of each says
    /// whether the batch's look-up was in vain.
    #[inline(never)]
    pub(super) fn look_ahead<'a, 's>(
        &self,
        state: &'s State,
        ahead: &mut Ahead<'s>,
        frames: impl Iterator<Item = (usize, &'a Frame, PortId, bool)>,
    ) {
        *ahead = Ahead::default();
        for (n, frame, port, absent) in frames.take(AHEAD) {
            let packet = admit(&self.snapshot, port, frame);
            let hash = match &packet {
                Ok(p) if p.l3 == L3::V4 => self.ask_for_key::<u32>(state, p, port),
                Ok(p) if p.l3 == L3::V6 => self.ask_for_key::<u128>(state, p, port),
                _ => None,
            };
            ahead.prepared.push(Prepared { n, port, packet, asked: Asked::Nothing, hash, absent });
        }
        for prepared in &mut ahead.prepared {
            match &prepared.packet {
                Ok(p) if p.l3 == L3::V4 => self.open_ahead::<u32>(state, prepared),
                Ok(_) => self.open_ahead::<u128>(state, prepared),
                Err(_) => {}
            }
        }
        for prepared in &mut ahead.prepared {
            match &mut prepared.asked {
                Asked::Nothing => {}
                Asked::V4(opening) => ask_for_slots(state, opening),
                Asked::V6(opening) => ask_for_slots(state, opening),
            }
        }
    }

    /// The hash of a packet's key, whose tags are asked for.
    fn ask_for_key<A: Family>(&self, state: &State, packet: &Packet, port: PortId) -> Option<u64> {
        let key = FlowKey::<A>::of(packet, plan::scope(&self.snapshot, port))
            .filter(|_| has_session(packet) && !packet.is_fragment())?;
        Some(A::table(state).prefetch(&key))
    }

    /// Asks the stages about a packet that belongs to no session, and for the tags of the answers.
    fn open_ahead<'s, A: Family>(&self, state: &'s State, prepared: &mut Prepared<'s>) {
        let (Ok(packet), Some(hash)) = (&prepared.packet, prepared.hash) else { return };
        let Some(tuple) = Tuple::of(packet).to::<A>() else { return };
        // A SYN mostly belongs to nothing, and what was looked up in vain just now, too. If not, the commit finds
        // out.
        let syn = packet.proto == Proto::TCP && opens(packet);
        if !syn && !prepared.absent {
            let key = FlowKey::<A>::of(packet, plan::scope(&self.snapshot, prepared.port));
            if key.is_none_or(|key| A::table(state).find_hashed(&key, hash).is_some()) {
                return;
            }
        }
        prepared.asked = A::asked(self.ask_stages(state, (packet, tuple), prepared.port, hash));
    }
}

fn ask_for_slots<A: Family>(state: &State, opening: &mut Opening<'_, A>) {
    if let Ok(plan) = opening {
        plan.look_for_slots(A::table(state));
    }
}
