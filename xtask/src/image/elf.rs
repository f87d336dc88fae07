// SPDX-License-Identifier: Apache-2.0
//! What an ELF program asks for and holds.

use anyhow::{Context as _, Result};
use object::{
    Architecture, File, LittleEndian, Object as _, ObjectSection as _, ObjectSymbol as _,
    elf::{FileHeader64, PT_INTERP},
    read::elf::{FileHeader as _, ProgramHeader as _},
};

/// Whether a 64-bit little-endian ELF program names no interpreter (the dynamic linker) in its
/// program headers.
///
/// # Errors
/// If it is no such file, or cut short.
pub fn is_static(program: &[u8]) -> Result<bool> {
    let header = FileHeader64::<LittleEndian>::parse(program).context("not a 64-bit ELF file")?;
    let endian = header.endian().context("not a little-endian ELF file")?;
    let headers = header
        .program_headers(endian, program)
        .context("the ELF file is cut short")?;
    Ok(headers.iter().all(|header| header.p_type(endian) != PT_INTERP))
}

/// The architecture that a program is for.
///
/// # Errors
/// If it is no ELF file.
pub fn architecture(program: &[u8]) -> Result<Architecture> {
    Ok(File::parse(program).context("not an ELF file")?.architecture())
}

/// Names of the eBPF programs for TC hooks in an object that is embedded in a program, sorted; none
/// if there is no such object.
pub fn embedded_programs(program: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    // The agent aligns the object to 8 bytes.
    for at in (8..program.len())
        .step_by(8)
        .filter(|&at| program[at..].starts_with(b"\x7fELF"))
    {
        let Ok(object) = File::parse(&program[at..]) else {
            continue;
        };
        if object.architecture() == Architecture::Bpf {
            names.extend(programs(&object));
        }
    }
    names.sort();
    names
}

fn programs<'a>(object: &'a File<'a>) -> impl Iterator<Item = String> + 'a {
    let in_section = |index| {
        object
            .section_by_index(index)
            .is_ok_and(|section| section.name() == Ok("classifier"))
    };
    object
        .symbols()
        .filter(move |symbol| symbol.is_definition() && symbol.section_index().is_some_and(in_section))
        .filter_map(|symbol| Some(symbol.name().ok()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::{embedded_programs, is_static};

    #[test]
    fn what_is_no_program_is_an_error() {
        assert!(is_static(b"#!/bin/sh\n").is_err());
        assert!(is_static(b"\x7fELF\x02\x01").is_err());
    }

    #[test]
    fn what_has_no_object_in_it_has_no_programs() {
        assert!(embedded_programs(b"").is_empty());
        assert!(embedded_programs(b"12345678\x7fELF\x02\x01").is_empty());
        assert!(embedded_programs(&std::fs::read("/proc/self/exe").unwrap()).is_empty());
    }
}
