// SPDX-License-Identifier: Apache-2.0
//! Object files for the tests' own small TC programs, written instruction by instruction (RFC
//! 9669).

use anyhow::Result;
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
    write::{Object, Relocation, RelocationFlags, Symbol, SymbolSection},
};

/// An instruction.
pub(super) type Instruction = [u8; 8];

/// Calls helper `bpf_map_update_elem`.
pub(super) const CALL_MAP_UPDATE: Instruction = [0x85, 0, 0, 0, 2, 0, 0, 0];
/// Calls helper `bpf_tail_call`.
pub(super) const CALL_TAIL_CALL: Instruction = [0x85, 0, 0, 0, 12, 0, 0, 0];

/// A program's map, as in `struct bpf_map_def`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Map<'a> {
    /// Its name.
    pub(super) name: &'a str,
    /// `enum bpf_map_type`.
    pub(super) kind: u32,
    /// Sizes of keys and values, bytes.
    pub(super) sizes: [u32; 2],
    /// Maximum number of entries.
    pub(super) entries: u32,
    /// Flags.
    pub(super) flags: u32,
    /// True if it is pinned under its name.
    pub(super) pinned: bool,
}

/// Encodes an instruction: code, registers (destination, source), offset and number.
pub(super) fn instruction(code: u8, [to, from]: [u8; 2], offset: i16, number: i32) -> Instruction {
    let mut bytes = [code, from << 4 | to, 0, 0, 0, 0, 0, 0];
    bytes[2..4].copy_from_slice(&offset.to_le_bytes());
    bytes[4..].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// Loads the map's address into a register. [`object`] must know the index of the first
/// instruction.
pub(super) fn map_into(register: u8) -> [Instruction; 2] {
    [instruction(0x18, [register, 1], 0, 0), [0; 8]]
}

/// Builds the object file of a program whose instructions at `uses` refer to its map.
///
/// # Errors
/// It cannot be written.
pub(super) fn object(program: &str, code: &[Instruction], map: Map<'_>, uses: &[usize]) -> Result<Vec<u8>> {
    let [keys, values] = map.sizes;
    let (id, pinned) = (0, u32::from(map.pinned));
    let definition = [map.kind, keys, values, map.entries, map.flags, id, pinned].map(u32::to_le_bytes);

    let mut elf = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let mut section = |name: &str, kind, bytes: &[u8]| {
        let section = elf.add_section(Vec::new(), name.into(), kind);
        elf.append_section_data(section, bytes, 8);
        (section, bytes.len() as u64)
    };
    let text = section("classifier", SectionKind::Text, &code.concat());
    let maps = section("maps", SectionKind::Data, &definition.concat());
    section("license", SectionKind::Data, b"GPL\0");
    let mut symbol = |name: &str, (section, size), kind| {
        elf.add_symbol(Symbol {
            name: name.into(),
            value: 0,
            size,
            kind,
            scope: SymbolScope::Linkage,
            weak: false,
            section: SymbolSection::Section(section),
            flags: SymbolFlags::None,
        })
    };
    symbol(program, text, SymbolKind::Text);
    let symbol = symbol(map.name, maps, SymbolKind::Data);
    for place in uses {
        let relocation = Relocation {
            offset: 8 * *place as u64,
            symbol,
            addend: 0,
            // R_BPF_64_64
            flags: RelocationFlags::Elf { r_type: 1 },
        };
        elf.add_relocation(text.0, relocation)?;
    }
    Ok(elf.write()?)
}
