//! The Internet checksum and SCTP's CRC32c, computed whole and mended in place.
//!
//! A rewrite compiles the difference it makes into a [`Delta`]; applying it costs two additions (RFC 1624,
//! equation 3). A checksum that was wrong stays wrong, so a corrupt packet is never made to look sound.

/// The checksum of `bytes`: zero when `bytes` holds a correct one.
pub fn of(bytes: &[u8]) -> u16 {
    !fold(sum(bytes))
}

/// The transport checksum of `l4` (RFC 9293, 3.1; RFC 8200, 8.1), to be stored where the field is zero now.
pub fn transport(src: std::net::IpAddr, dst: std::net::IpAddr, proto: super::Proto, l4: &[u8]) -> u16 {
    let addr = |a| match a {
        std::net::IpAddr::V4(a) => sum(&a.octets()),
        std::net::IpAddr::V6(a) => sum(&a.octets()),
    };
    let mut total = sum(l4);
    if proto != super::Proto::ICMP {
        total += addr(src) + addr(dst) + u64::from(proto.0) + l4.len() as u64;
    }
    !fold(total)
}

pub(super) fn sum(bytes: &[u8]) -> u64 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let pairs: u64 = pairs.iter().map(|p| u64::from(u16::from_be_bytes(*p))).sum();
    pairs + rest.first().map_or(0, |b| u64::from(*b) << 8)
}

pub(super) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// What a change of header fields does to a checksum over them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Delta(pub u16);

impl Delta {
    /// The change of several fields at once: as many 16-bit fields before as after, their sums not folded.
    #[must_use]
    pub fn of_sums(before: u64, fields: u64, after: u64) -> Self {
        // The complement of a field is what it lacks to 0xffff.
        Self(fold(fields * 0xffff - before + after))
    }

    /// The change of one 16-bit field.
    #[must_use]
    pub fn and16(self, old: u16, new: u16) -> Self {
        Self(fold(u64::from(self.0) + u64::from(!old) + u64::from(new)))
    }

    /// Both changes.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(fold(u64::from(self.0) + u64::from(other.0)))
    }

    /// The checksum after the change.
    pub fn apply(self, checksum: u16) -> u16 {
        !fold(u64::from(!checksum) + u64::from(self.0))
    }

    /// The same for a UDP checksum, where zero means "none" (RFC 768): none stays none, and a sum that comes
    /// out as zero is sent as all ones.
    pub fn apply_udp(self, checksum: u16) -> u16 {
        match (checksum, self.apply(checksum)) {
            (0, _) => 0,
            (_, 0) => 0xffff,
            (_, new) => new,
        }
    }
}

const CRC32C: [u32; 256] = {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        let mut c = n as u32;
        let mut bit = 0;
        while bit < 8 {
            c = if c & 1 == 1 { (c >> 1) ^ 0x82f6_3b78 } else { c >> 1 };
            bit += 1;
        }
        table[n] = c;
        n += 1;
    }
    table
};

fn crc_step(crc: u32, byte: u8) -> u32 {
    (crc >> 8) ^ CRC32C[usize::from(crc as u8 ^ byte)]
}

/// The CRC32c of an SCTP packet whose checksum field is taken as zero (RFC 9260, appendix A).
pub fn sctp(packet: &[u8]) -> u32 {
    !packet
        .iter()
        .enumerate()
        .fold(!0, |crc, (at, byte)| crc_step(crc, if (8..12).contains(&at) { 0 } else { *byte }))
}

/// The CRC32c of an SCTP packet of `len` bytes after its ports changed.
///
/// The CRC is linear, so the difference depends on the changed bytes and the length alone, and a CRC that was
/// wrong stays wrong.
pub fn sctp_mend(crc: u32, len: usize, old_ports: [u8; 4], new_ports: [u8; 4]) -> u32 {
    let mut difference = (0..4).fold(0, |c, i| crc_step(c, old_ports[i] ^ new_ports[i]));
    for _ in 4..len {
        difference = crc_step(difference, 0);
    }
    crc ^ difference
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_values() {
        // RFC 1071, section 3.
        assert_eq!(of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        // "123456789", the CRC's own check value, with the field that is skipped put in between.
        assert_eq!(!b"123456789".iter().fold(!0, |c, b| crc_step(c, *b)), 0xe306_9283);
    }

    proptest! {
        #[test]
        fn a_mended_checksum_equals_a_computed_one(
            mut bytes in prop::collection::vec(any::<u8>(), 12..80),
            at in 1usize..5, new: u16,
        ) {
            bytes.truncate(bytes.len() & !1);
            bytes[..2].fill(0);
            let before = of(&bytes);
            let old = super::super::be16(&bytes, at * 2);
            super::super::put16(&mut bytes, at * 2, new);
            let mended = Delta::default().and16(old, new).apply(before);
            // 0 and 0xffff are the same number in one's complement.
            let (a, b) = (mended, of(&bytes));
            prop_assert!(a == b || (a == 0 && b == 0xffff) || (a == 0xffff && b == 0), "{a:#x} {b:#x}");
        }

        #[test]
        fn a_mended_crc_equals_a_computed_one(mut packet in prop::collection::vec(any::<u8>(), 12..200), new: [u8; 4]) {
            let before = sctp(&packet);
            let old = [packet[0], packet[1], packet[2], packet[3]];
            packet[..4].copy_from_slice(&new);
            prop_assert_eq!(sctp_mend(before, packet.len(), old, new), sctp(&packet));
        }
    }
}
