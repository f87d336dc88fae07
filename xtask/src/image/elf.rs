// SPDX-License-Identifier: Apache-2.0
//! Just enough of ELF to tell a static program from one that needs a dynamic linker.

use anyhow::{Context as _, Result, ensure};

const PT_INTERP: u32 = 3;

/// Whether a 64-bit little-endian ELF program names no interpreter (the dynamic linker) in its program headers.
///
/// # Errors
/// If it is no such file, or cut short.
pub fn is_static(program: &[u8]) -> Result<bool> {
    ensure!(
        program.starts_with(b"\x7fELF\x02\x01"),
        "not a 64-bit little-endian ELF file"
    );
    let offset = u64::from_le_bytes(field(program, 32)?);
    let size = u64::from(u16::from_le_bytes(field(program, 54)?));
    let count = u64::from(u16::from_le_bytes(field(program, 56)?));
    for index in 0..count {
        let at = offset
            .checked_add(index * size)
            .context("program headers lie outside of the file")?;
        if u32::from_le_bytes(field(program, usize::try_from(at)?)?) == PT_INTERP {
            return Ok(false);
        }
    }
    Ok(true)
}

fn field<const N: usize>(program: &[u8], at: usize) -> Result<[u8; N]> {
    program
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .context("the ELF file is cut short")
}

#[cfg(test)]
mod tests {
    use super::is_static;

    #[test]
    fn what_is_no_program_is_an_error() {
        assert!(is_static(b"#!/bin/sh\n").is_err());
        assert!(is_static(b"\x7fELF\x02\x01").is_err());
    }
}
