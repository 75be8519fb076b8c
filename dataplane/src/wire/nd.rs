//! IPv6 neighbor discovery: what the network reads, answers and asks (RFC 4861, RFC 4862).

use super::{ETHERNET, Mac, Packet, Proto, checksum, ethertype, put16};
use std::net::{IpAddr, Ipv6Addr};

/// A neighbor discovery message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message {
    /// "Which routers are there?"
    RouterSolicitation,
    /// "I am a router."
    RouterAdvertisement,
    /// "Who has `target`?"
    NeighborSolicitation {
        /// The address in question.
        target: Ipv6Addr,
    },
    /// "I have `target`."
    NeighborAdvertisement {
        /// The address in question.
        target: Ipv6Addr,
        /// The MAC it is at, if the message says so.
        mac: Option<Mac>,
    },
    /// "Use another first hop."
    Redirect,
}

/// Reads the ICMPv6 message of `packet`. `None` when it is no neighbor discovery, or not valid: hop limit
/// other than 255, wrong checksum, cut short, an option of length zero.
pub fn read(frame: &[u8], packet: &Packet) -> Option<Message> {
    let l4 = &frame[packet.l4()..usize::from(packet.end)];
    let valid = packet.proto == Proto::ICMPV6
        && packet.ttl == 255
        && packet.icmp.code == 0
        && checksum::transport(packet.src, packet.dst, Proto::ICMPV6, l4) == 0;
    if !valid {
        return None;
    }
    let target = || {
        let mut a = [0; 16];
        a.copy_from_slice(l4.get(8..24)?);
        Some(Ipv6Addr::from(a))
    };
    match packet.icmp.kind {
        133 => Some(Message::RouterSolicitation),
        134 => Some(Message::RouterAdvertisement),
        135 => Some(Message::NeighborSolicitation { target: target()? }),
        136 => Some(Message::NeighborAdvertisement { target: target()?, mac: option_mac(&l4[24..], 2)? }),
        137 => Some(Message::Redirect),
        _ => None,
    }
}

/// The link-layer address option of this kind; `None` when the options are malformed.
#[expect(clippy::option_option, reason = "outer: malformed; inner: absent")]
fn option_mac(mut options: &[u8], kind: u8) -> Option<Option<Mac>> {
    while let [k, len, ..] = *options {
        let len = usize::from(len) * 8;
        let option = options.get(..len).filter(|o| !o.is_empty())?;
        if k == kind {
            let mut mac = [0; 6];
            mac.copy_from_slice(option.get(2..8)?);
            return Some(Some(Mac(mac)));
        }
        options = &options[len..];
    }
    options.is_empty().then_some(None)
}

/// Bytes of the frame that [`advertisement`] and [`solicitation`] write.
pub const FRAME: usize = ETHERNET + 40 + 32;

/// Writes "`target` is at `mac`" into `out`, an answer to a solicitation from `to`.
pub fn advertisement(out: &mut [u8], target: (Mac, Ipv6Addr), to: (Mac, Ipv6Addr), router: bool) -> usize {
    let mut message = [0; 32];
    // Solicited unless the asker has no address yet; override.
    let flags = 0x20 | if router { 0x80 } else { 0 } | if to.1.is_unspecified() { 0 } else { 0x40 };
    message[0] = 136;
    message[4] = flags;
    message[8..24].copy_from_slice(&target.1.octets());
    message[24..26].copy_from_slice(&[2, 1]);
    message[26..32].copy_from_slice(&target.0.0);
    let all_nodes = (Mac([0x33, 0x33, 0, 0, 0, 1]), Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
    let to = if to.1.is_unspecified() { all_nodes } else { to };
    send(out, target, to, &mut message)
}

/// Writes "who has `target`?" into `out`.
pub fn solicitation(out: &mut [u8], from: (Mac, Ipv6Addr), target: Ipv6Addr) -> usize {
    let t = target.octets();
    let mut message = [0; 32];
    message[0] = 135;
    message[8..24].copy_from_slice(&t);
    message[24..26].copy_from_slice(&[1, 1]);
    message[26..32].copy_from_slice(&from.0.0);
    // The solicited-node multicast address (RFC 4291, 2.7.1).
    let group =
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(t[13]), u16::from_be_bytes([t[14], t[15]]));
    send(out, from, (Mac([0x33, 0x33, 0xff, t[13], t[14], t[15]]), group), &mut message)
}

/// Writes a router advertisement into `out`: a default router, no addresses to be formed, the MTU.
pub fn router_advertisement(
    out: &mut [u8],
    router: (Mac, Ipv6Addr),
    to: (Mac, Ipv6Addr),
    prefix: Option<ipnet::Ipv6Net>,
    mtu: u16,
) -> usize {
    let mut message = [0; 16 + 8 + 8 + 32];
    message[0] = 134;
    message[4] = 64;
    // Nothing repeats the advertisement, so it is to last: 18 hours, the most there is (RFC 8319), and for ever.
    message[6..8].fill(0xff);
    message[16..18].copy_from_slice(&[1, 1]);
    message[18..24].copy_from_slice(&router.0.0);
    message[24..26].copy_from_slice(&[5, 1]);
    message[28..32].copy_from_slice(&u32::from(mtu).to_be_bytes());
    let mut len = 32;
    if let Some(prefix) = prefix {
        let option = &mut message[32..64];
        // On link, not autonomous: addresses are static.
        option[..4].copy_from_slice(&[3, 4, prefix.prefix_len(), 0x80]);
        option[4..12].fill(0xff);
        option[16..32].copy_from_slice(&prefix.network().octets());
        len = 64;
    }
    let all_nodes = (Mac([0x33, 0x33, 0, 0, 0, 1]), Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
    send(out, router, if to.1.is_unspecified() { all_nodes } else { to }, &mut message[..len])
}

fn send(out: &mut [u8], from: (Mac, Ipv6Addr), to: (Mac, Ipv6Addr), message: &mut [u8]) -> usize {
    let sum = checksum::transport(IpAddr::V6(from.1), IpAddr::V6(to.1), Proto::ICMPV6, message);
    put16(message, 2, sum);
    out[..6].copy_from_slice(&to.0.0);
    out[6..12].copy_from_slice(&from.0.0);
    put16(out, 12, ethertype::IPV6);
    let ip = &mut out[ETHERNET..ETHERNET + 40];
    ip.fill(0);
    ip[0] = 0x60;
    put16(ip, 4, message.len() as u16);
    ip[6] = Proto::ICMPV6.0;
    ip[7] = 255;
    ip[8..24].copy_from_slice(&from.1.octets());
    ip[24..40].copy_from_slice(&to.1.octets());
    out[ETHERNET + 40..][..message.len()].copy_from_slice(message);
    ETHERNET + 40 + message.len()
}
