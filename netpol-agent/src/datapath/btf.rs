// SPDX-License-Identifier: Apache-2.0
//! Finds the fields of the kernel's structures in its own type description (BTF:
//! Documentation/bpf/btf.rst of Linux). Parses only what that needs.

use thiserror::Error;

const MAGIC: u16 = 0xeb9f;
const HEADER: usize = 24;
const TYPE: usize = 12;
const MEMBER: usize = 12;
/// Maximum depth of nested structures that are followed; compilers produce less.
const DEPTH: usize = 16;

const INT: u32 = 1;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const FUNCTION: u32 = 12;

/// Why a field cannot be found.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BtfError {
    /// The description is damaged, or of a later format.
    #[error("the kernel's BTF cannot be read: {0} at byte {1}")]
    Unreadable(&'static str, usize),
    /// The structure does not exist.
    #[error("the kernel's BTF has no structure `{0}`")]
    NoStructure(String),
    /// The structure has no such field.
    #[error("structure `{structure}` of this kernel has no field `{field}`")]
    NoField {
        /// The structure.
        structure: String,
        /// The field.
        field: String,
    },
}

/// A field's position in a structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Bits before the field.
    pub bits_before: u32,
    /// Size of the field in bits; `None` if it is not a number.
    pub bits: Option<u32>,
}

/// A type description.
#[derive(Debug)]
pub struct Btf<'a> {
    bytes: &'a [u8],
    /// Start of each type, by its number; numbers begin at 1.
    types: Vec<usize>,
    strings: usize,
}

/// A type's fixed part.
#[derive(Debug, Clone, Copy)]
struct Type {
    at: usize,
    name: u32,
    kind: u32,
    count: usize,
    /// True for a structure whose fields give their sizes in bits.
    has_bit_fields: bool,
    /// Size in bytes, or the number of the type that it refers to.
    size: u32,
}

impl<'a> Btf<'a> {
    /// Parses a description into its types.
    ///
    /// # Errors
    /// It is no BTF, or has a type of unknown kind.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        let mut btf = Self {
            bytes,
            types: Vec::new(),
            strings: 0,
        };
        if btf.word(0)? & 0xffff != u32::from(MAGIC) {
            return Err(BtfError::Unreadable("no magic number", 0));
        }
        let header = btf.word(4)? as usize;
        if header < HEADER {
            return Err(BtfError::Unreadable("a header too short", 4));
        }
        let [types, length, strings] = [8, 12, 16].map(|at| btf.word(at).map(|word| word as usize));
        let mut at = header + types?;
        let end = at + length?;
        btf.strings = header + strings?;
        while at < end {
            let rest = Self::rest(&btf.read_type(at)?)?;
            btf.types.push(at);
            at += TYPE + rest;
        }
        Ok(btf)
    }

    /// Finds a field of a structure, also inside its unnamed unions and structures.
    ///
    /// # Errors
    /// There is no such field.
    pub fn field(&self, structure: &str, field: &str) -> Result<Field, BtfError> {
        for at in &self.types {
            let read = self.read_type(*at)?;
            if read.kind == STRUCT && self.is_name(read.name, structure) {
                let missing = || BtfError::NoField {
                    structure: structure.to_owned(),
                    field: field.to_owned(),
                };
                return self.member(&read, field, 0)?.ok_or_else(missing);
            }
        }
        Err(BtfError::NoStructure(structure.to_owned()))
    }

    /// Returns the type number of a function; `None` if it does not exist.
    ///
    /// # Errors
    /// The description is damaged.
    pub fn function(&self, name: &str) -> Result<Option<u32>, BtfError> {
        for (index, at) in self.types.iter().enumerate() {
            let read = self.read_type(*at)?;
            if read.kind == FUNCTION && self.is_name(read.name, name) {
                return Ok(Some(index as u32 + 1));
            }
        }
        Ok(None)
    }

    fn member(&self, within: &Type, name: &str, depth: usize) -> Result<Option<Field>, BtfError> {
        for index in 0..within.count {
            let at = within.at + TYPE + index * MEMBER;
            let [name_at, number, offset] = [self.word(at)?, self.word(at + 4)?, self.word(at + 8)?];
            let (before, bits) = if within.has_bit_fields {
                (offset & 0x00ff_ffff, offset >> 24)
            } else {
                (offset, 0)
            };
            if name_at == 0 {
                let inner = self.by_number(number)?;
                if depth < DEPTH
                    && matches!(inner.kind, STRUCT | UNION)
                    && let Some(found) = self.member(&inner, name, depth + 1)?
                {
                    let bits_before = before.saturating_add(found.bits_before);
                    return Ok(Some(Field { bits_before, ..found }));
                }
            } else if self.is_name(name_at, name) {
                let bits = if bits == 0 { self.bits(number)? } else { Some(bits) };
                let bits_before = before;
                return Ok(Some(Field { bits_before, bits }));
            }
        }
        Ok(None)
    }

    /// Returns the size of a number in bits. Follows type aliases.
    fn bits(&self, mut number: u32) -> Result<Option<u32>, BtfError> {
        for _ in 0..DEPTH {
            let read = self.by_number(number)?;
            match read.kind {
                INT => return Ok(Some(read.size.saturating_mul(8))),
                // Typedef, volatile, const, restrict, type tag.
                8..=11 | 18 => number = read.size,
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    fn by_number(&self, number: u32) -> Result<Type, BtfError> {
        let index = (number as usize).wrapping_sub(1);
        let at = self.types.get(index).copied();
        self.read_type(at.ok_or(BtfError::Unreadable("no type of a number", number as usize))?)
    }

    fn read_type(&self, at: usize) -> Result<Type, BtfError> {
        let tells = self.word(at + 4)?;
        Ok(Type {
            at,
            name: self.word(at)?,
            kind: tells >> 24 & 0x1f,
            count: (tells & 0xffff) as usize,
            has_bit_fields: tells >> 31 != 0,
            size: self.word(at + 8)?,
        })
    }

    /// Returns the number of bytes that follow a type's fixed part.
    fn rest(read: &Type) -> Result<usize, BtfError> {
        Ok(match read.kind {
            // Pointer, forward, typedef, volatile, const, restrict, function, float, type tag.
            2 | 7..=11 | FUNCTION | 16 | 18 => 0,
            // Integer, variable, declaration tag.
            INT | 14 | 17 => 4,
            // Array.
            3 => 12,
            // Enumeration, function prototype.
            6 | 13 => 8 * read.count,
            // Structure, union, section, enumeration of 64 bits.
            STRUCT | UNION | 15 | 19 => 12 * read.count,
            _ => return Err(BtfError::Unreadable("a type of unknown kind", read.at)),
        })
    }

    fn is_name(&self, at: u32, name: &str) -> bool {
        let start = self.strings + at as usize;
        let found = self.bytes.get(start..=start + name.len());
        found.is_some_and(|found| found.split_last() == Some((&0, name.as_bytes())))
    }

    fn word(&self, at: usize) -> Result<u32, BtfError> {
        let bytes = self.bytes.get(at..).and_then(<[u8]>::first_chunk);
        bytes
            .map(|bytes| u32::from_ne_bytes(*bytes))
            .ok_or(BtfError::Unreadable("an end too early", at))
    }
}

#[cfg(test)]
mod tests;
