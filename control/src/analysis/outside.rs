//! The addresses beyond the uplinks, cut into pieces that one network, or several, treat alike throughout.
//!
//! Whatever a network knows of an address it does not have itself it knows by the longest range that holds it: its
//! firewall identity, its route, whose it is. So the ranges of all these tables together form a tree, and a piece
//! is a range without the ranges below it: one address of it speaks for all. Nothing is sampled.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use supernet_dataplane::{
    snapshot::{PortRole, Snapshot},
    stage::{router, tier0},
};

/// Addresses that stand for their piece, where they lie in it (documentation ranges, RFC 5737 and RFC 3849).
const PREFERRED: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0x10)),
];

/// A range without the ranges below it.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) range: IpNet,
    /// The position of the range around it.
    pub(super) around: Option<usize>,
    /// An address of it; `None`: those below leave nothing.
    pub(super) address: Option<IpAddr>,
}

/// Where the address space has to be cut for a network.
pub(super) fn cuts(snapshot: &Snapshot) -> BTreeSet<IpNet> {
    let tier0 = &snapshot.tier0;
    let mut cuts: BTreeSet<IpNet> = martians().collect();
    cuts.extend(snapshot.identities.ranges.iter().map(|(range, _)| range));
    cuts.extend(snapshot.owned.iter().map(|(range, ())| range));
    cuts.extend(tier0.routes.iter().map(|(range, _)| range));
    cuts.extend(tier0.connected.iter().map(|(range, _)| range));
    let uplinks = snapshot.ports.iter().flatten().flat_map(|port| match &port.role {
        PortRole::Uplink(uplink) => uplink.addresses.as_slice(),
        PortRole::Endpoint(_) => &[],
    });
    let single = snapshot
        .endpoints
        .keys()
        .chain(snapshot.servers.addresses.keys())
        .chain(snapshot.egress.keys())
        .copied()
        .chain(uplinks.map(IpNet::addr));
    // Within our own ranges nothing is outside, however it is cut.
    cuts.extend(single.filter(|a| snapshot.owned.get(*a).is_none()).map(IpNet::from));
    cuts
}

/// Cuts both families' address space. Pieces are in order of family and address, a range before those below it.
pub(super) fn pieces(cuts: impl IntoIterator<Item = IpNet>) -> Vec<Piece> {
    let all = [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
    let ranges: BTreeSet<IpNet> = cuts.into_iter().map(|cut| cut.trunc()).chain(all).collect();
    let mut pieces: Vec<Piece> = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    let mut below: Vec<Vec<IpNet>> = Vec::new();
    for range in ranges {
        while open.last().is_some_and(|at| !pieces[*at].range.contains(&range)) {
            open.pop();
        }
        let around = open.last().copied();
        if let Some(around) = around {
            below[around].push(range);
        }
        open.push(pieces.len());
        pieces.push(Piece { range, around, address: None });
        below.push(Vec::new());
    }
    for (piece, below) in pieces.iter_mut().zip(&below) {
        piece.address = address_in(piece.range, below);
    }
    pieces
}

/// An address of a range that is in none of these, which are below it, apart, and in order.
fn address_in(range: IpNet, below: &[IpNet]) -> Option<IpAddr> {
    let free = |a: &IpAddr| range.contains(a) && !below.iter().any(|net| net.contains(a));
    let mut handsome = PREFERRED.into_iter().chain(after(range.network()));
    if let Some(address) = handsome.find(free) {
        return Some(address);
    }
    let mut next = Some(range.network());
    for net in below {
        match next {
            Some(address) if net.contains(&address) => next = after(net.broadcast()),
            _ => break,
        }
    }
    next.filter(|address| range.contains(address))
}

fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(a) => a.to_bits().checked_add(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(a) => a.to_bits().checked_add(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}

/// Whether packets may come from an address outside and be sent there.
pub(super) fn is_outside(snapshot: &Snapshot, address: IpAddr) -> bool {
    tier0::reverse_path(snapshot, address).is_ok() && router::not_ours(snapshot, address).is_ok()
}

/// The ranges that [`router::is_martian`] tells apart.
fn martians() -> impl Iterator<Item = IpNet> {
    let v4 = [
        ([0, 0, 0, 0], 8),
        ([127, 0, 0, 0], 8),
        ([169, 254, 0, 0], 16),
        ([224, 0, 0, 0], 4),
        ([240, 0, 0, 0], 4),
    ];
    let v6 = [
        (Ipv6Addr::UNSPECIFIED, 128),
        (Ipv6Addr::LOCALHOST, 128),
        (Ipv4Addr::UNSPECIFIED.to_ipv6_mapped(), 96),
        (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
        (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    ];
    let v4 = v4.into_iter().map(|(net, len)| IpNet::V4(Ipv4Net::new_assert(net.into(), len)));
    v4.chain(v6.into_iter().map(|(net, len)| IpNet::V6(Ipv6Net::new_assert(net, len))))
}

/// Pieces as ranges, each with the ranges below it that are left out; a piece is `Some(whether it is meant)`, or `None`
/// where that makes no difference.
pub(super) fn describe(pieces: &[Piece], meant: &[Option<bool>]) -> Vec<(IpNet, Vec<IpNet>)> {
    let mut terms: Vec<(IpNet, Vec<IpNet>)> = Vec::new();
    // What holds of each piece, and the term that it belongs to.
    let mut holds: Vec<(bool, Option<usize>)> = Vec::with_capacity(pieces.len());
    for (piece, meant) in pieces.iter().zip(meant) {
        let around = piece.around.map_or((false, None), |at| holds[at]);
        let here = match (around, meant) {
            (_, None) => around,
            ((true, _), Some(true)) | ((false, _), Some(false)) => around,
            ((false, _), Some(true)) => {
                terms.push((piece.range, Vec::new()));
                (true, Some(terms.len() - 1))
            }
            ((true, term), Some(false)) => {
                if let Some(term) = term {
                    terms[term].1.push(piece.range);
                }
                (false, None)
            }
        };
        holds.push(here);
    }
    terms
}

/// A range; a single address without its length.
pub(super) fn name_of(range: &IpNet) -> String {
    if range.prefix_len() == range.max_prefix_len() { range.addr().to_string() } else { range.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn every_address_is_in_one_piece_and_one_of_it_speaks_for_it() {
        let cuts =
            ["10.0.0.0/8", "10.0.0.0/9", "10.128.0.0/9", "10.0.0.0/24", "10.0.0.0/25", "255.255.255.255/32"];
        let pieces = pieces(cuts.map(net));
        let of = |range: &str| pieces.iter().find(|p| p.range == net(range)).unwrap();
        assert_eq!(of("10.0.0.0/8").address, None, "its halves leave nothing");
        assert_eq!(of("10.0.0.0/24").address, Some("10.0.0.128".parse().unwrap()));
        assert_eq!(of("0.0.0.0/0").address, Some("203.0.113.10".parse().unwrap()));
        assert_eq!(of("255.255.255.255/32").address, Some("255.255.255.255".parse().unwrap()));
        for piece in &pieces {
            let longest = |a: IpAddr| {
                pieces.iter().filter(|p| p.range.contains(&a)).max_by_key(|p| p.range.prefix_len())
            };
            if let Some(address) = piece.address {
                assert_eq!(longest(address).unwrap().range, piece.range);
            }
        }
    }

    #[test]
    fn the_router_agrees_on_what_is_martian_throughout_every_piece() {
        for piece in pieces(martians()) {
            let ends = [piece.range.network(), piece.range.broadcast()];
            if martians().any(|net| net == piece.range) {
                assert!(ends.into_iter().all(router::is_martian), "{}", piece.range);
            } else if let Some(address) = piece.address {
                assert!(!router::is_martian(address), "{address}");
            }
        }
    }

    #[test]
    fn pieces_are_described_from_the_widest_range_on() {
        let pieces = pieces(["10.0.0.0/8", "10.1.0.0/16", "10.1.1.0/24", "10.2.0.7/32", "fd00::/8"].map(net));
        let words = |meant: &[(&str, Option<bool>)]| {
            let meant: Vec<Option<bool>> = pieces
                .iter()
                .map(|p| meant.iter().find(|(r, _)| net(r) == p.range).map_or(Some(false), |(_, m)| *m))
                .collect();
            let words = |(range, except): (IpNet, Vec<IpNet>)| {
                let except: String = except.iter().map(|net| format!(" but {}", name_of(net))).collect();
                name_of(&range) + &except
            };
            describe(&pieces, &meant).into_iter().map(words).collect::<Vec<_>>()
        };
        let yes = Some(true);
        assert_eq!(words(&[("10.0.0.0/8", yes)]), ["10.0.0.0/8 but 10.1.0.0/16 but 10.2.0.7"]);
        assert_eq!(
            words(&[("10.0.0.0/8", yes), ("10.1.0.0/16", None), ("10.1.1.0/24", yes), ("10.2.0.7/32", yes)]),
            ["10.0.0.0/8"],
            "what makes no difference is not told"
        );
        assert_eq!(
            words(&[("10.0.0.0/8", yes), ("10.1.1.0/24", yes), ("10.2.0.7/32", None)]),
            ["10.0.0.0/8 but 10.1.0.0/16", "10.1.1.0/24"]
        );
        assert_eq!(words(&[("10.2.0.7/32", yes)]), ["10.2.0.7"]);
    }
}
