// SPDX-License-Identifier: Apache-2.0
use super::*;

/// Writes a description.
#[derive(Default)]
struct Writer {
    types: Vec<u8>,
    strings: Vec<u8>,
}

impl Writer {
    fn new() -> Self {
        Self {
            types: Vec::new(),
            strings: vec![0],
        }
    }

    fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend(name.bytes());
        self.strings.push(0);
        at
    }

    fn words(&mut self, words: &[u32]) {
        self.types
            .extend(words.iter().flat_map(|word| word.to_ne_bytes()));
    }

    fn number(&mut self, name: &str, bytes: u32) {
        let name = self.name(name);
        self.words(&[name, INT << 24, bytes, bytes * 8]);
    }

    fn structure(&mut self, kind: u32, flag: u32, name: &str, members: &[(&str, u32, u32)]) {
        let name = self.name(name);
        self.words(&[name, flag << 31 | kind << 24 | members.len() as u32, 64]);
        for (member, number, offset) in members {
            let member = self.name(member);
            self.words(&[member, *number, *offset]);
        }
    }

    fn finish(self) -> Vec<u8> {
        let mut bytes = Vec::from(MAGIC.to_ne_bytes());
        bytes.extend([1, 0]);
        for word in [HEADER, 0, self.types.len(), self.types.len(), self.strings.len()] {
            bytes.extend((word as u32).to_ne_bytes());
        }
        [bytes, self.types, self.strings].concat()
    }
}

/// Types 1 and 2 are numbers of two bytes and of one; 3 is an alias of the first; 4 and 5 are the
/// inner, unnamed ones; 6 is the structure.
fn example() -> Vec<u8> {
    let mut writer = Writer::new();
    writer.number("unsigned short", 2);
    writer.number("unsigned char", 1);
    let name = writer.name("__u16");
    writer.words(&[name, 8 << 24, 1]);
    writer.structure(
        STRUCT,
        1,
        "",
        &[("type", 2, 3 << 24), ("sum", 2, 5 | 2 << 24), ("start", 3, 32)],
    );
    writer.structure(UNION, 0, "", &[("", 4, 0), ("all", 1, 0)]);
    writer.structure(
        STRUCT,
        0,
        "packet",
        &[("first", 1, 0), ("", 5, 64), ("inner", 4, 128)],
    );
    writer.finish()
}

#[test]
fn fields_are_found_in_what_has_no_name() {
    let bytes = example();
    let btf = Btf::parse(&bytes).unwrap();
    for (field, bits_before, bits) in [
        ("first", 0, Some(16)),
        ("sum", 69, Some(2)),
        ("start", 96, Some(16)),
        ("all", 64, Some(16)),
        ("inner", 128, None),
    ] {
        assert_eq!(
            btf.field("packet", field),
            Ok(Field { bits_before, bits }),
            "{field}"
        );
    }
}

#[test]
fn what_is_missing_is_named() {
    let bytes = example();
    let btf = Btf::parse(&bytes).unwrap();
    let missing = btf.field("packet", "summ").unwrap_err();
    assert_eq!(
        missing.to_string(),
        "structure `packet` of this kernel has no field `summ`"
    );
    let missing = btf.field("pack", "sum").unwrap_err();
    assert_eq!(missing, BtfError::NoStructure("pack".into()));
}

#[test]
fn what_is_cut_short_or_damaged_is_an_error_and_no_panic() {
    let bytes = example();
    for length in 0..bytes.len() {
        let found = Btf::parse(&bytes[..length]).and_then(|btf| btf.field("packet", "inner"));
        assert!(found.is_err(), "{length}: {found:?}");
    }
    for at in 0..bytes.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            let _ = Btf::parse(&bytes).and_then(|btf| btf.field("packet", "start"));
        }
    }
}

#[test]
fn a_structure_within_itself_ends() {
    let mut writer = Writer::new();
    writer.structure(STRUCT, 0, "packet", &[("", 1, 0)]);
    let bytes = writer.finish();
    let found = Btf::parse(&bytes).unwrap().field("packet", "start");
    assert!(matches!(found, Err(BtfError::NoField { .. })), "{found:?}");
}
