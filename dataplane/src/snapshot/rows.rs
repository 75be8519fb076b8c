//! What the fast path needs of a port, in one row: who may send there, where its frames go, and since when
//! sessions through it can be relied on.

use super::{GATEWAY_MAC, PortRole, Snapshot};
use crate::{
    id::{Generation, PortId, ServerId},
    table::lpm::Lpm,
    vector::Header,
    wire::Mac,
};
use std::net::IpAddr;

/// Where frames go next. Half a cache line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(align(32))]
pub struct Hop {
    /// Destination MAC, then the first two bytes of the source MAC, as they stand in a frame.
    pub macs: u64,
    /// The rest of the source MAC.
    pub src_mac_tail: u32,
    /// The port they leave by.
    pub port: PortId,
    /// When anything last changed that sessions by this way depend on.
    pub since: Generation,
    /// Largest IP packet; zero: nothing can go this way now.
    pub mtu: u16,
}

/// The 48 bits of a MAC in a word read from a frame.
pub const MAC_BITS: u64 = 0xffff_ffff_ffff;

impl Hop {
    /// No way.
    pub const NONE: Self =
        Self { macs: 0, src_mac_tail: 0, port: PortId(u32::MAX), since: Generation(u32::MAX), mtu: 0 };

    /// The way out by `port`, from one MAC to another.
    pub fn new(port: PortId, src: Mac, dst: Mac, mtu: u16, since: Generation) -> Self {
        let src = mac_word(src);
        Self { macs: mac_word(dst) | src << 48, src_mac_tail: (src >> 16) as u32, port, since, mtu }
    }

    /// The destination MAC, as [`mac_word`] has it.
    #[inline(always)]
    pub fn dst_mac(&self) -> u64 {
        self.macs & MAC_BITS
    }

    /// The source MAC, likewise.
    pub fn src_mac(&self) -> u64 {
        self.macs >> 48 | u64::from(self.src_mac_tail) << 16
    }

    /// Gives a frame its MACs.
    #[inline(always)]
    pub fn write_macs(&self, h: &mut Header, keep_source: bool) {
        if keep_source {
            h[..6].copy_from_slice(&self.macs.to_le_bytes()[..6]);
        } else {
            h[..8].copy_from_slice(&self.macs.to_le_bytes());
            h[8..12].copy_from_slice(&self.src_mac_tail.to_le_bytes());
        }
    }
}

/// A MAC as it stands in a frame, the first byte lowest.
pub const fn mac_word(mac: Mac) -> u64 {
    mac.to_u64().swap_bytes() >> 16
}

/// The MAC that a word is.
pub const fn mac_of(word: u64) -> Mac {
    Mac::from_u64((word << 16).swap_bytes())
}

/// A port, for the fast path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The destination MAC that frames from the port are sent to unless they stay in their segment: the gateway's,
    /// or that of an uplink itself. 16 bits up, as in [`Row::differences`].
    dst: u64,
    /// The source MAC of the workload, likewise.
    src: u64,
    /// All ones if it is the destination that frames must have, as from an uplink; zero if it is the source.
    checked: u64,
    /// Where keys of its packets say they came in.
    pub origin: u32,
    /// It is an uplink.
    pub is_uplink: bool,
    /// The way to the workload behind it. An uplink has next hops instead.
    pub hop: Hop,
}

impl Row {
    /// A port that is not there: no frame passes.
    pub const NONE: Self =
        Self { dst: u64::MAX, src: u64::MAX, checked: 0, origin: 0, is_uplink: false, hop: Hop::NONE };

    /// The row of a port with this MAC.
    fn new(mac: Mac, is_uplink: bool, origin: u32, hop: Hop) -> Self {
        let (mac, gateway) = (mac_word(mac) << 16, const { mac_word(GATEWAY_MAC) << 16 });
        let (dst, checked) = if is_uplink { (mac, u64::MAX) } else { (gateway, 0) };
        Self { dst, src: mac, checked, origin, is_uplink, hop }
    }

    /// Of a frame whose first eight bytes, and those from the sixth on, are these words: in what it differs from
    /// what it must have, and in what its destination differs from the gateway or uplink. Nothing is zero.
    #[inline(always)]
    pub fn differences(&self, first: u64, from_sixth: u64) -> (u64, u64) {
        // Sixteen bits up, so that what is not of the MAC is gone.
        let (dst, src) = ((first << 16) ^ self.dst, (from_sixth << 16) ^ self.src);
        ((dst ^ src) & self.checked ^ src, dst)
    }
}

impl Snapshot {
    /// The row of a port; [`Row::NONE`] if this snapshot has no such port.
    #[inline(always)]
    pub fn row(&self, port: PortId) -> &Row {
        self.rows.get(port.index()).unwrap_or(&Row::NONE)
    }

    /// When a virtual server, or where it is served, last changed. After every session if it is gone.
    pub fn server_since(&self, server: ServerId) -> Generation {
        let since = self.servers_since.get(server.index()).copied().unwrap_or_default();
        if since == Generation::default() { Generation(u32::MAX) } else { since }
    }

    /// Fills in what is computed from everything else. Parts have their generations already.
    pub(super) fn fill_rows(&mut self, before: &Self) {
        let now = self.generation;
        self.servers_since.clear();
        for server in self.servers.listening.values() {
            let at = server.id.index();
            if self.servers_since.len() <= at {
                self.servers_since.resize(at + 1, Generation::default());
            }
            let since = &mut self.servers_since[at];
            *since = server.since.max(*since);
        }
        let outside = self.outside_changed(before);
        let rows = self.ports.iter().zip(0..).map(|(port, at)| {
            let Some(port) = port else { return Row::NONE };
            let changed_now = port.since == now
                || match &port.role {
                    PortRole::Endpoint(endpoint) => {
                        let namespace = endpoint.namespace.and_then(|id| self.namespace(id));
                        namespace.is_some_and(|n| n.since == now)
                            || endpoint.addresses.iter().any(|a| self.address_changed(before, *a))
                    }
                    PortRole::Uplink(_) => outside,
                };
            let old = before.row(PortId(at)).hop.since;
            let since = if changed_now || old > now { now } else { old };
            let hop = match &port.role {
                PortRole::Endpoint(_) => Hop::new(port.id, GATEWAY_MAC, port.mac, port.mtu, since),
                PortRole::Uplink(_) => Hop { since, ..Hop::NONE },
            };
            let is_uplink = matches!(port.role, PortRole::Uplink(_));
            // Fits 24 bits; uplinks share one scope, which is zero.
            let origin = if is_uplink { 0 } else { (at + 1) << 8 };
            Row::new(port.mac, is_uplink, origin, hop)
        });
        self.rows = rows.collect();
    }

    /// Whether an address of a workload means something else than before.
    fn address_changed(&self, before: &Self, address: IpAddr) -> bool {
        self.endpoints.get(&address) != before.endpoints.get(&address)
            || self.identities.of(address) != before.identities.of(address)
            || self.egress.contains_key(&address) != before.egress.contains_key(&address)
    }

    /// Whether an address beyond the uplinks may mean something else than before.
    fn outside_changed(&self, before: &Self) -> bool {
        let now = self.generation;
        let uplinks = self.tier0.uplinks.iter().filter_map(|id| self.port(*id));
        // What lies in a range of ours, now as before, is nobody's outside whoever has it.
        let elsewhere = |address: &IpAddr| self.owned.get(*address).is_none();
        let differs = |a: &Self, b: &Self| {
            a.endpoints
                .iter()
                .any(|(address, port)| elsewhere(address) && b.endpoints.get(address) != Some(port))
                || a.identities
                    .exact
                    .iter()
                    .any(|(address, id)| elsewhere(address) && b.identities.exact.get(address) != Some(id))
                || a.egress.keys().any(|address| elsewhere(address) && !b.egress.contains_key(address))
        };
        self.tier0.since == now
            || uplinks.into_iter().any(|port| port.since == now)
            || !covers(&self.owned, &before.owned)
            || !covers(&before.owned, &self.owned)
            || self.identities.ranges != before.identities.ranges
            || differs(self, before)
            || differs(before, self)
    }
}

/// Whether every address of `ranges` is one of `all`: each range lies in one of them. A segment's block lies in
/// the ranges that blocks are taken from.
fn covers(all: &Lpm<()>, ranges: &Lpm<()>) -> bool {
    ranges.iter().all(|(range, ())| {
        // Mostly it is itself among them.
        let found = all.get_prefix(range.addr());
        found.is_some_and(|(other, ())| other.contains(&range))
            || all.iter().any(|(other, ())| other.contains(&range))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_tells_frames_that_belong() {
        let (own, other) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
        let broadcast = Mac([0xff; 6]);
        let differences = |row: &Row, dst: Mac, src: Mac| {
            let mut frame = [0xa5; 14];
            frame[..6].copy_from_slice(&dst.0);
            frame[6..12].copy_from_slice(&src.0);
            let word = |at: usize| u64::from_le_bytes(*frame[at..].first_chunk().unwrap());
            let (wrong, switched) = row.differences(word(0), word(6));
            (wrong != 0, switched != 0)
        };
        let workload = Row::new(own, false, 0, Hop::NONE);
        assert_eq!(differences(&workload, GATEWAY_MAC, own), (false, false));
        assert_eq!(differences(&workload, other, own), (false, true));
        assert!(differences(&workload, GATEWAY_MAC, other).0, "spoofed");
        let uplink = Row::new(own, true, 0, Hop::NONE);
        assert_eq!(differences(&uplink, own, other), (false, false));
        assert_eq!(differences(&uplink, own, own), (false, false));
        assert!(differences(&uplink, GATEWAY_MAC, own).0, "not for the uplink");
        for mac in [own, broadcast, Mac([0; 6])] {
            assert!(differences(&Row::NONE, mac, mac).0, "a port that is not there");
        }
    }

    #[test]
    fn macs_stand_as_in_a_frame() {
        let (src, dst) = (Mac([2, 0x50, 0x56, 1, 2, 3]), Mac([0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f]));
        let hop = Hop::new(PortId(1), src, dst, 1500, Generation(1));
        let mut frame = [0; 12];
        frame[..8].copy_from_slice(&hop.macs.to_le_bytes());
        frame[8..].copy_from_slice(&hop.src_mac_tail.to_le_bytes());
        assert_eq!((&frame[..6], &frame[6..]), (&dst.0[..], &src.0[..]));
        assert_eq!(hop.dst_mac(), mac_word(dst));
    }
}
