//! The fast path against the stages: dataplanes with one seed see the same frames, snapshots and time. Some keep
//! verdict and rewrite of a session between packets, one for every kind of instructions this processor has; the
//! last computes them again for every packet. Nobody outside may be able to tell which is which.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of a test")]

mod edges;
mod strategies;

use proptest::{collection::vec, prelude::*};
use std::ops::RangeInclusive;
use strategies::*;
use supernet_dataplane::{flow::HalfOpenLimits, state::Config, vector::Isa};
use supernet_testkit::sequence::{
    network::{Change, World},
    sides::Sides,
};

/// Fewer than the flows that are tried, so that the table is full at times.
const SESSIONS: usize = 12;
/// Fewer than the connections that are translated, so that they run out, and not all that are wanted.
const NAT_PORTS: RangeInclusive<u16> = 4001..=4003;
const FRAMES: usize = 400;

fn config() -> Config {
    // Sides number their sessions differently, so a ring may take one for another on one of them.
    let half_open = HalfOpenLimits { per_port: 0, total: Some(0) };
    Config {
        sessions: SESSIONS,
        frames: FRAMES,
        seed: 7,
        nat_ports: NAT_PORTS,
        half_open,
        ..Config::default()
    }
}

/// A side for every kind of instructions, and one that keeps nothing.
fn sides(world: World, config: &Config) -> Sides {
    let cached = Isa::ALL.into_iter().filter(|isa| isa.is_available());
    let configs = cached.map(|isa| Config { isa: Some(isa), cache: true, ..config.clone() });
    let plain = Config { isa: Some(Isa::Portable), cache: false, ..config.clone() };
    Sides::new(world, configs.chain([plain]))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, max_shrink_iters: 10_000, ..ProptestConfig::default() })]

    #[test]
    fn the_fast_path_equals_the_stages(world in world(), events in vec(event(), 1..80)) {
        let mut sides = sides(world, &config());
        for event in &events {
            sides.happen(event).map_err(TestCaseError::fail)?;
        }
        sides.fall_silent().map_err(TestCaseError::fail)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 1000, ..ProptestConfig::default() })]

    /// Two workers get every packet at once, as by two uplinks, and race for the connections it opens, judges and
    /// ends. Packets come whole: of fragments, the second copy overlaps, and which is that is up to them. Nothing is scarce, and nothing is translated: which of two gets the last place, or the port that
    /// was wanted, is up to them. So is what they count of one direction at once.
    #[test]
    fn racing_workers_equal_the_stages(
        world in world(),
        events in vec(prop_oneof![8 => packet().prop_map(|packet| Ok(packet.whole())), 1 => change().prop_map(Err)], 1..60),
    ) {
        let world = World { snat: [false; 2], ..world };
        let mut sides = sides(world, &Config { sessions: 1000, ..config() });
        for event in &events {
            match event {
                Ok(packet) => {
                    let frames = sides.build(std::slice::from_ref(packet));
                    sides
                        .compare_but(false, |side, now| side.race(&frames, now))
                        .map_err(TestCaseError::fail)?;
                }
                Err(Change::Snat(_)) => {}
                Err(change) => {
                    sides.world.apply(change);
                    sides.publish();
                }
            }
        }
        sides.fall_silent().map_err(TestCaseError::fail)?;
    }
}
