//! A sequence played from its first packet until nothing is left.

use super::{
    packets::Packet,
    read::{Sequence, read},
    sides::{Event, Sides},
};
use std::{collections::BTreeMap, ops::AddAssign};
use supernet_dataplane::{flowlog::EndReason, state::Config, verdict::DropReason, wire};

/// How deep sequences went, in packets.
#[derive(Debug, Default, Clone)]
pub struct Reach {
    /// That came in.
    pub received: u64,
    /// That went out.
    pub sent: u64,
    /// That the fast path sent on.
    pub hits: u64,
    /// Sessions that were there after an event and not before it.
    pub sessions: u64,
    /// Fragments that went out.
    pub fragments: u64,
    /// Fragments that waited for their first, most at one time of each sequence.
    pub held: u64,
    /// ICMP errors that went out and were not the network's own.
    pub related: u64,
    /// Made by the network itself.
    pub generated: u64,
    /// Dropped, by reason.
    pub drops: BTreeMap<DropReason, u64>,
    /// Ends of connections, by reason, of each side that is logged.
    pub ends: BTreeMap<EndReason, u64>,
    /// Connections that were not let in, and such that were denied later on, of each side that is logged.
    pub denied: [u64; 2],
}

impl AddAssign for Reach {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.sent += other.sent;
        self.hits += other.hits;
        self.sessions += other.sessions;
        self.fragments += other.fragments;
        self.held += other.held;
        self.related += other.related;
        self.generated += other.generated;
        for (reason, count) in other.drops {
            *self.drops.entry(reason).or_default() += count;
        }
        for (reason, count) in other.ends {
            *self.ends.entry(reason).or_default() += count;
        }
        self.denied.iter_mut().zip(other.denied).for_each(|(sum, count)| *sum += count);
    }
}

/// Plays what [`read`] makes of `input` on a side with cache, one that is captured now and then, and one without cache.
/// Of the latter two, connections are logged.
///
/// # Errors
/// What is not as it must be, after which event.
pub fn play(input: &[u8]) -> Result<Reach, String> {
    let Sequence { world, config, events } = read(input);
    let cached = Config { cache: true, ..config.clone() };
    let mut sides = Sides::new(world, [cached.clone(), cached, Config { cache: false, ..config }]);
    sides.watch(1);
    // The one that is captured, and the one without cache: the first is plain.
    (1..3).for_each(|side| sides.log(side));
    let mut reach = Reach::default();
    for (n, event) in events.iter().enumerate() {
        let before = sides.history.delivered.len();
        let (live, generated) = (live(&sides), generated(&sides));
        let checked = sides.happen(event).and_then(|()| check(&sides, event, before));
        checked.map_err(|what| format!("event {n}, {event:?}: {what}"))?;
        let own = self::generated(&sides) - generated;
        reach.sessions += self::live(&sides).saturating_sub(live);
        reach.see(&sides, &sides.history.delivered[before..], own);
    }
    sides.fall_silent().map_err(|what| format!("after silence: {what}"))?;
    reach.sum(&sides);
    Ok(reach)
}

/// Checks what came out, unless it went by an older snapshot.
fn check(sides: &Sides, event: &Event, before: usize) -> Result<(), String> {
    let sums = match event {
        Event::Batch(_, false) => return Ok(()),
        Event::Burst(packets) | Event::Batch(packets, true) | Event::Detach(packets, ..) => {
            packets.iter().all(Packet::is_sound)
        }
        _ => true,
    };
    sides.check_delivered(before, sums)
}

fn live(sides: &Sides) -> u64 {
    sides.all.first().map_or(0, |side| side.dataplane.state().sessions.live() as u64)
}

fn generated(sides: &Sides) -> u64 {
    sides.counters.iter().map(|c| c.generated).sum()
}

impl Reach {
    /// Looks at what an event has delivered, of which the network has made `own`.
    fn see(&mut self, sides: &Sides, delivered: &[(u32, Vec<u8>)], own: u64) {
        let packets: Vec<_> = delivered.iter().filter_map(|(_, frame)| wire::parse(frame).ok()).collect();
        self.fragments += packets.iter().filter(|packet| packet.is_fragment()).count() as u64;
        let errors = packets.iter().filter(|packet| packet.is_icmp_error()).count() as u64;
        self.related += errors.saturating_sub(own);
        let held = sides.all.first().map_or(0, |side| side.dataplane.state().fragments.held() as u64);
        self.held = self.held.max(held);
    }

    /// Takes over what was counted.
    fn sum(&mut self, sides: &Sides) {
        let Some(side) = sides.all.first() else { return };
        self.hits = side.hits();
        (self.ends, self.denied) = sides.logged();
        for counters in &sides.counters {
            self.received += counters.received;
            self.sent += counters.sent;
            self.generated += counters.generated;
            for (reason, count) in &counters.drops {
                *self.drops.entry(*reason).or_default() += count;
            }
        }
    }
}
