//! The two address families as machine words.

use std::{
    fmt,
    hash::Hash,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// An address of either family ([`IpAddr`]), or of one that is known when the program is compiled ([`Address`]):
/// then the stages keep it in a register or two, and ask for its family never.
pub trait AnyAddress: Copy + Eq + fmt::Debug {
    /// From an address, if it can be this.
    fn of(addr: IpAddr) -> Option<Self>;

    /// As an address.
    fn ip(self) -> IpAddr;

    /// As 128 bits, or the low 32 of them.
    fn bits(self) -> u128;
}

impl AnyAddress for IpAddr {
    fn of(addr: IpAddr) -> Option<Self> {
        Some(addr)
    }

    fn ip(self) -> IpAddr {
        self
    }

    fn bits(self) -> u128 {
        match self {
            Self::V4(a) => a.to_bits().into(),
            Self::V6(a) => a.to_bits(),
        }
    }
}

/// An address as an integer: `u32` for IPv4, `u128` for IPv6. Tables of the packet path are generic over it.
pub trait Address: AnyAddress + Hash + Send + Sync + 'static {
    /// Offset of the source address in the network header; the destination follows it.
    const AT: usize;
    /// Bytes of an address.
    const LEN: usize;

    /// From the low bits.
    fn from_bits(bits: u128) -> Self;

    /// The bytes in network order as words, the first byte lowest; an IPv4 address fills half of the first.
    fn wire(self) -> [u64; 2];

    /// From such words.
    fn from_wire(words: [u64; 2]) -> Self;

    /// Writes the address in network order; `out` holds [`Self::LEN`] bytes.
    fn put(self, out: &mut [u8]);
}

impl AnyAddress for u32 {
    fn of(addr: IpAddr) -> Option<Self> {
        match addr {
            IpAddr::V4(a) => Some(a.to_bits()),
            IpAddr::V6(_) => None,
        }
    }

    fn ip(self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(self))
    }

    fn bits(self) -> u128 {
        self.into()
    }
}

impl Address for u32 {
    const AT: usize = 12;
    const LEN: usize = 4;

    fn from_bits(bits: u128) -> Self {
        bits as Self
    }

    fn wire(self) -> [u64; 2] {
        [self.swap_bytes().into(), 0]
    }

    fn from_wire(words: [u64; 2]) -> Self {
        (words[0] as Self).swap_bytes()
    }

    fn put(self, out: &mut [u8]) {
        out.copy_from_slice(&self.to_be_bytes());
    }
}

impl AnyAddress for u128 {
    fn of(addr: IpAddr) -> Option<Self> {
        match addr {
            IpAddr::V4(_) => None,
            IpAddr::V6(a) => Some(a.to_bits()),
        }
    }

    fn ip(self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::from_bits(self))
    }

    fn bits(self) -> u128 {
        self
    }
}

impl Address for u128 {
    const AT: usize = 8;
    const LEN: usize = 16;

    fn from_bits(bits: u128) -> Self {
        bits
    }

    fn wire(self) -> [u64; 2] {
        let swapped = self.swap_bytes();
        [swapped as u64, (swapped >> 64) as u64]
    }

    fn from_wire(words: [u64; 2]) -> Self {
        (Self::from(words[1]) << 64 | Self::from(words[0])).swap_bytes()
    }

    fn put(self, out: &mut [u8]) {
        out.copy_from_slice(&self.to_be_bytes());
    }
}
