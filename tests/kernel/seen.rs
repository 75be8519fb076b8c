//! What can be seen in frames, in words that can be compared.
//!
//! Left out is what no two networks need have in common: MACs, identifications, how a packet was cut into fragments,
//! as long as they make it up, and whether an ICMP error may be: Supernet's are atomic (RFC 6864), Linux numbers them.

use std::{collections::BTreeMap, net::IpAddr};
use supernet_dataplane::wire::{Proto, checksum, ethertype};
use supernet_testkit::fragments;

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// Names of fields, and what is in them, in the order of the packet.
pub(crate) type Fields = Vec<(String, String)>;

/// What came out, in order of ports, with the fragments of a packet put together.
pub(crate) fn all(frames: &[(u32, Vec<u8>)]) -> Vec<(u32, Fields)> {
    let mut whole = Vec::new();
    let mut pieces: BTreeMap<(u32, Vec<u8>), Vec<Vec<u8>>> = BTreeMap::new();
    for (port, frame) in frames {
        match packet_of(frame) {
            Some(packet) => pieces.entry((*port, packet)).or_default().push(frame.clone()),
            None => whole.push((*port, frame.clone())),
        }
    }
    for ((port, _), pieces) in pieces {
        match join(&pieces) {
            Some(joined) => whole.push((port, joined)),
            None => whole.extend(pieces.into_iter().map(|piece| (port, piece))),
        }
    }
    whole.sort_by_key(|(port, _)| *port);
    whole.iter().map(|(port, frame)| (*port, fields(&frame[ETHERNET..]))).collect()
}

/// What the fragments of a packet have in common; `None` if this is none.
fn packet_of(frame: &[u8]) -> Option<Vec<u8>> {
    let ip = &frame[ETHERNET..];
    if frame[12..14] == ethertype::IPV4.to_be_bytes() {
        (be16(ip, 6) & 0x3fff != 0).then(|| [&ip[4..6], &ip[12..20]].concat())
    } else {
        (ip[6] == 44).then(|| [&ip[44..48], &ip[8..40]].concat())
    }
}

/// The packet that fragments make up; `None` if they don't. Options are those of the first fragment, and behind them
/// those that the others have.
fn join(pieces: &[Vec<u8>]) -> Option<Vec<u8>> {
    let options = |frame: &[u8]| {
        let is_v4 = frame[12..14] == ethertype::IPV4.to_be_bytes();
        let header = if is_v4 { usize::from(frame[ETHERNET] & 15) * 4 } else { 20 };
        frame[ETHERNET + 20..ETHERNET + header].to_vec()
    };
    let is_first = |piece: &&Vec<u8>| be16(&piece[ETHERNET..], 6) & 0x1fff == 0;
    let of_first = pieces.iter().find(is_first).map(|piece| options(piece)).unwrap_or_default();
    let of_others =
        pieces.iter().find(|piece| !is_first(piece)).map(|piece| options(piece)).unwrap_or_default();
    let bare: Vec<Vec<u8>> = pieces
        .iter()
        .map(|piece| {
            let mut bare = piece.clone();
            let len = options(piece).len();
            bare.drain(ETHERNET + 20..ETHERNET + 20 + len);
            if len > 0 {
                let total = be16(&bare, 16) - len as u16;
                bare[ETHERNET] = 0x45;
                bare[16..18].copy_from_slice(&total.to_be_bytes());
            }
            bare
        })
        .collect();
    let mut joined = fragments::join(&bare)?;
    let all = [of_first, of_others].concat();
    if !all.is_empty() {
        let total = be16(&joined, 16) + all.len() as u16;
        joined.splice(ETHERNET + 20..ETHERNET + 20, all.iter().copied());
        joined[16..18].copy_from_slice(&total.to_be_bytes());
        joined[ETHERNET] += (all.len() / 4) as u8;
        joined[24..26].fill(0);
        let sum = checksum::of(&joined[ETHERNET..ETHERNET + 20 + all.len()]);
        joined[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    Some(joined)
}

/// The fields of an IP packet, and of what an ICMP error quotes.
fn fields(ip: &[u8]) -> Fields {
    let mut out = Fields::new();
    describe(ip, "", &mut out);
    out
}

fn describe(ip: &[u8], of: &str, out: &mut Fields) {
    let mut see = |name: &str, value: String| out.push((format!("{of}{name}"), value));
    let (src, dst, proto, header, end);
    if ip[0] >> 4 == 4 {
        header = usize::from(ip[0] & 15) * 4;
        end = usize::from(be16(ip, 2));
        (src, dst) = (v4(&ip[12..]), v4(&ip[16..]));
        proto = Proto(ip[9]);
        see("tos", ip[1].to_string());
        see("ttl", ip[8].to_string());
        let varies = of.is_empty() && proto == Proto::ICMP && is_error(proto, &ip[header..]);
        if !varies {
            see("don't fragment", (ip[6] & 0x40 != 0).to_string());
        }
        if be16(ip, 6) & 0x3fff != 0 {
            see("fragment", format!("{:#06x}", be16(ip, 6)));
        }
        see("header checksum", right(checksum::of(&ip[..header]) == 0));
        see("options", hex(&ip[20..header]));
    } else {
        see("tos", (be16(ip, 0) >> 4 & 0xff).to_string());
        see("ttl", ip[7].to_string());
        end = 40 + usize::from(be16(ip, 4));
        (src, dst) = (v6(&ip[8..]), v6(&ip[24..]));
        if ip[6] == 44 {
            see("fragment", format!("{:#06x}", be16(ip, 42)));
            (header, proto) = (48, Proto(ip[40]));
        } else {
            (header, proto) = (40, Proto(ip[6]));
        }
    }
    see("src", src.to_string());
    see("dst", dst.to_string());
    see("protocol", proto.0.to_string());
    see("length", end.to_string());
    let body = &ip[header..end.min(ip.len())];
    if !of.is_empty() {
        // Cut anywhere, so a checksum is no sum: it has to be the one that was sent, like all of it.
        see("bytes quoted", body.len().to_string());
        return see("content", hex(body));
    }
    let sum = || right(checksum::transport(src, dst, proto, body) == 0);
    match proto {
        Proto::TCP => {
            see("ports", format!("{} {}", be16(body, 0), be16(body, 2)));
            see("numbers", format!("{} {}", hex(&body[4..8]), hex(&body[8..12])));
            see("flags", format!("{:#010b}", body[13]));
            see("window", be16(body, 14).to_string());
            see("checksum", sum());
            see("content", hex(&body[20..]));
        }
        Proto::UDP => {
            see("ports", format!("{} {}", be16(body, 0), be16(body, 2)));
            see("checksum", if be16(body, 6) == 0 { "none".to_owned() } else { sum() });
            see("content", hex(&body[8..]));
        }
        Proto::ICMP | Proto::ICMPV6 => {
            see("type", format!("{} {}", body[0], body[1]));
            see("word", hex(&body[4..8]));
            see("checksum", sum());
            if is_error(proto, body) && body.len() >= 28 {
                describe(&body[8..], "quoted ", out);
            } else {
                see("content", hex(&body[8..]));
            }
        }
        _ => see("content", hex(body)),
    }
}

fn is_error(proto: Proto, message: &[u8]) -> bool {
    if proto == Proto::ICMP { [3, 4, 5, 11, 12].contains(&message[0]) } else { message[0] < 128 }
}

fn right(is_right: bool) -> String {
    (if is_right { "right" } else { "wrong" }).to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn v4(bytes: &[u8]) -> IpAddr {
    IpAddr::from(*bytes.first_chunk::<4>().unwrap())
}

fn v6(bytes: &[u8]) -> IpAddr {
    IpAddr::from(*bytes.first_chunk::<16>().unwrap())
}
