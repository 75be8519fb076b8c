//! Whatever headers a batch has, every engine reads what the parser reads, and takes the same packets for plain.
//!
//! The input is one record of 64 bytes after another: the frame's length in two bytes, whose upper bits ask for a
//! sound start, and the frame's bytes from the EtherType on.

#![no_main]

use libfuzzer_sys::fuzz_target;
use supernet_dataplane::{vector::Header, wire::checksum};
use supernet_testkit::oracle;

fuzz_target!(|bytes: &[u8]| {
    let (records, _) = bytes.as_chunks::<64>();
    let packets: Vec<_> = records.iter().map(packet).collect();
    oracle::check_scan(&packets);
});

fn packet(record: &[u8; 64]) -> (Header, u16) {
    let control = u16::from_le_bytes([record[0], record[1]]);
    let mut header = [0x5a; size_of::<Header>()];
    header[12..12 + 62].copy_from_slice(&record[2..]);
    if control & 0x4000 != 0 {
        header[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
    }
    if control & 0x2000 != 0 {
        header[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
    }
    if control & 0x8000 != 0 && header[12] == 0x08 {
        // Past the checksum, to the checks behind it.
        header[24..26].fill(0);
        let sum = checksum::of(&header[14..34]).to_be_bytes();
        header[24..26].copy_from_slice(&sum);
    }
    (header, control & 0x07ff)
}
