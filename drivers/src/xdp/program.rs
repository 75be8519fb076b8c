//! The XDP program that hands an interface's frames to sockets: that of their queue, else to the kernel's stack.
//!
//! It is five instructions, so it is written down here and put into an ELF object, as the loader wants it, instead of
//! being compiled by a toolchain of its own.

use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
    elf::R_BPF_64_64,
    write::{Object, Relocation, RelocationFlags, Symbol, SymbolSection},
};

/// The program's name.
pub(super) const PROGRAM: &str = "to_sockets";
/// The map's name: by queue, the socket.
pub(super) const SOCKETS: &str = "sockets";

/// `BPF_MAP_TYPE_XSKMAP`.
const XSKMAP: u32 = 17;

/// In the order of `struct bpf_insn`: code, registers (source, destination), offset, immediate.
#[rustfmt::skip]
const INSTRUCTIONS: [[u8; 8]; 6] = [
    [0x61, 0x12, 16, 0, 0, 0, 0, 0], // r2 = ctx->rx_queue_index
    [0x18, 0x01, 0, 0, 0, 0, 0, 0],  // r1 = &sockets, which the loader fills in
    [0x00, 0x00, 0, 0, 0, 0, 0, 0],  //      (its upper half)
    [0xb7, 0x03, 0, 0, 2, 0, 0, 0],  // r3 = XDP_PASS, if there is no socket
    [0x85, 0x00, 0, 0, 51, 0, 0, 0], // r0 = bpf_redirect_map(r1, r2, r3)
    [0x95, 0x00, 0, 0, 0, 0, 0, 0],  // return r0
];

/// Where in the program the map's address is loaded.
const MAP_AT: u64 = 8;

/// The object, for `queues` queues. An error is one of ours.
pub(super) fn elf(queues: u32) -> Result<Vec<u8>, object::write::Error> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let symbol = |name: &str, kind, value, len: usize, section| Symbol {
        name: name.as_bytes().to_vec(),
        value,
        size: len as u64,
        kind,
        scope: SymbolScope::Linkage,
        weak: false,
        section: SymbolSection::Section(section),
        flags: SymbolFlags::None,
    };
    // Type, bytes of a key, bytes of a value, entries, flags.
    let map: Vec<u8> = [XSKMAP, 4, 4, queues, 0].into_iter().flat_map(u32::to_le_bytes).collect();
    let maps = object.add_section(Vec::new(), b"maps".to_vec(), SectionKind::Data);
    let at = object.append_section_data(maps, &map, 4);
    let sockets = object.add_symbol(symbol(SOCKETS, SymbolKind::Data, at, map.len(), maps));

    let text = object.add_section(Vec::new(), b"xdp".to_vec(), SectionKind::Text);
    let at = object.append_section_data(text, INSTRUCTIONS.as_flattened(), 8);
    object.add_symbol(symbol(PROGRAM, SymbolKind::Text, at, INSTRUCTIONS.as_flattened().len(), text));
    let flags = RelocationFlags::Elf { r_type: R_BPF_64_64 };
    object.add_relocation(text, Relocation { offset: at + MAP_AT, symbol: sockets, addend: 0, flags })?;

    let license = object.add_section(Vec::new(), b"license".to_vec(), SectionKind::Data);
    object.append_section_data(license, b"Apache-2.0\0", 1);
    object.write()
}
