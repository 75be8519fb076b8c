//! ARP for IPv4 over Ethernet (RFC 826).

use super::{ETHERNET, Mac, be16, be32, ethertype, put16};
use std::net::Ipv4Addr;

/// Bytes of an ARP packet, without Ethernet header.
pub const LEN: usize = 28;

/// An ARP packet that [`super::parse`] found to be one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arp {
    /// A request, or a reply.
    pub request: bool,
    /// Who sent it.
    pub sender_mac: Mac,
    /// The sender's address; unspecified in a probe (RFC 5227).
    pub sender: Ipv4Addr,
    /// The address in question.
    pub target: Ipv4Addr,
}

impl Arp {
    /// Reads the packet at `at`, which must hold [`LEN`] bytes.
    pub fn read(frame: &[u8], at: usize) -> Self {
        let b = &frame[at..at + LEN];
        Self {
            request: be16(b, 6) == 1,
            sender_mac: Mac([b[8], b[9], b[10], b[11], b[12], b[13]]),
            sender: Ipv4Addr::from_bits(be32(b, 14)),
            target: Ipv4Addr::from_bits(be32(b, 24)),
        }
    }
}

/// Turns the request in `frame` into the answer "`Arp::target` is at `mac`". The length stays.
pub fn reply_in_place(frame: &mut [u8], request: &Arp, mac: Mac) {
    write(frame, 2, (mac, request.target), (request.sender_mac, request.sender), request.sender_mac);
}

/// Bytes of a frame written by [`request`], padded to Ethernet's minimum.
pub const FRAME: usize = 60;

/// Writes a request into `frame`, [`FRAME`] bytes: who has `target`? Tell `sender`.
pub fn request(frame: &mut [u8], sender: (Mac, Ipv4Addr), target: Ipv4Addr) {
    frame.fill(0);
    write(frame, 1, sender, (Mac([0; 6]), target), Mac::BROADCAST);
}

fn write(frame: &mut [u8], op: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr), to: Mac) {
    frame[..6].copy_from_slice(&to.0);
    frame[6..12].copy_from_slice(&sender.0.0);
    put16(frame, 12, ethertype::ARP);
    let b = &mut frame[ETHERNET..ETHERNET + LEN];
    b[..6].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
    put16(b, 6, op);
    b[8..14].copy_from_slice(&sender.0.0);
    b[14..18].copy_from_slice(&sender.1.octets());
    b[18..24].copy_from_slice(&target.0.0);
    b[24..28].copy_from_slice(&target.1.octets());
}
