//! ICMP errors about packets of sessions: they go back the way those came, as answers do, with the quoted packet
//! translated as well, so that its sender recognizes it.
//!
//! An error is judged as the session is, opens none and keeps none alive.

use super::{Arrival, Family, Output, Pipeline, fast::World};
use crate::{
    flow::{FlowKey, Found},
    rewrite::{
        Tuple,
        quote::{self, Quote},
    },
    snapshot::{Hop, PortRole},
    stage::{
        commit,
        judge::{self, Judged},
        log::Why,
        plan, spoof_guard, tier0,
    },
    verdict::DropReason,
    wire::Proto,
};

impl Pipeline {
    /// Finishes an ICMP error.
    #[inline(never)]
    pub(super) fn related<A: Family>(&self, world: &World, mut arrival: Arrival, out: &mut Output) {
        let translated = self.relate::<A>(world, &arrival);
        let (quote, found, way) = match translated {
            Ok(related) => related,
            Err(reason) => return self.drop_frame(arrival.port, reason, arrival.frame),
        };
        let Arrival { frame, packet, .. } = &mut arrival;
        let (rewrite, about) = (&found.rewrite, quote.tuple);
        let to = Tuple {
            src: rewrite.dst.ip(),
            dst: rewrite.src.ip(),
            proto: about.proto,
            sport: rewrite.dport,
            dport: rewrite.sport,
        };
        // Who the packet was for speaks under the name that its sender knows; routers on the way keep theirs.
        let src = if packet.src == about.dst { to.dst } else { packet.src };
        quote.translate(frame.bytes_mut(), packet, &to, (src, to.src), found.meta.hops);
        self.counters.related.add(1);
        self.forward(arrival, &found.meta, &way, out);
    }

    /// What an ICMP error is about: the quote, the entry by which answers to the quoted packet would go, and their
    /// way.
    fn relate<A: Family>(
        &self,
        world: &World,
        about: &Arrival,
    ) -> Result<(Quote, Found<A>, Hop), DropReason> {
        let Arrival { frame, packet, port } = about;
        let (state, snap) = (&*self.state, &*self.snapshot);
        match snap.port(*port).map(|p| &p.role) {
            Some(PortRole::Endpoint(from)) => spoof_guard::address(from, packet.src)?,
            _ => tier0::reverse_path(snap, packet.src)?,
        }
        if packet.is_fragment() {
            return Err(DropReason::Fragment);
        }
        if !quote::is_relayed(packet) {
            return Err(DropReason::IcmpUnhandled);
        }
        let quote = quote::read(frame.bytes(), packet)?;
        // It goes to who sent what it quotes.
        if quote.tuple.src != packet.dst {
            return Err(DropReason::IcmpUnrelated);
        }
        let key = answers_key::<A>(&quote, plan::scope(snap, *port)).ok_or(DropReason::IcmpUnrelated)?;
        let found = A::table(state).find(&key).ok_or(DropReason::IcmpUnrelated)?;
        let mut place = state.sessions.lock(found.meta.session);
        let is_of = |entries: (_, _)| entries.0 == found.entry || entries.1 == found.entry;
        let record = place.get().filter(|r| r.is_v4 == (A::LEN == 4) && is_of(r.entries));
        let mut record = record.ok_or(DropReason::IcmpUnrelated)?;
        if record.generation < snap.generation
            && judge::judge_again(state, snap, &mut place, &mut record, &self.logs) == Judged::Gone
        {
            // Both ends of TCP are told by its next packet, and only then is it forgotten.
            if quote.tuple.proto != Proto::TCP {
                commit::end(state, &mut place, &self.logs, Why::Gone);
            }
            return Err(DropReason::BindingGone);
        }
        let found = A::table(state).find(&key).unwrap_or(found);
        if let Some(denial) = record.denied {
            self.count_denied_again(found.meta.tally);
            return Err(denial.reason());
        }
        let way = self.resolve(&world.hops, found.meta.adjacency)?;
        // An error is not answered with another.
        if packet.ttl <= found.meta.hops {
            return Err(DropReason::TtlExceeded);
        }
        if packet.largest > way.mtu && !packet.may_cut {
            return Err(DropReason::TooBig);
        }
        if self.addressed(about, &way) { Ok((quote, found, way)) } else { Err(DropReason::UnknownMac) }
    }
}

/// The key of answers to a quoted packet, which come in where the error did.
fn answers_key<A: Family>(quote: &Quote, scope: crate::flow::Scope) -> Option<FlowKey<A>> {
    let answers = quote.tuple.reversed();
    // An echo request is answered by a reply, and a reply was asked for by a request.
    if quote.tuple.proto.is_icmp() && !quote.is_echo_reply {
        FlowKey::reverse(&answers, scope)
    } else {
        FlowKey::forward(&answers, scope)
    }
}
