// SPDX-License-Identifier: Apache-2.0
//! What the kernel holds, as text for a bug report: the pinned maps in hexadecimal, all programs
//! and all links of the node.

use std::{
    fmt::Write as _,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use aya::{
    maps::{MapData, MapType},
    programs::{loaded_links, loaded_programs},
};

use super::{
    fill::walk,
    pins::{PINNED_MAPS, pin},
};
use crate::causes::causes;

/// Entries of a map that are written; the others are only counted.
const ENTRIES: usize = 100_000;

/// Returns each pinned map's name with its form and entries, or why it cannot be read. A map that
/// has no entries to read says what it is.
pub fn maps(pin_path: &Path) -> Vec<(&'static str, Result<String, String>)> {
    let read = |map: &&'static str| (*map, dump(&pin(pin_path, map)));
    PINNED_MAPS.iter().map(read).collect()
}

fn dump(path: &Path) -> Result<String, String> {
    let told = |error: aya::maps::MapError| causes(&error);
    let data = MapData::from_pin(path).map_err(told)?;
    let info = data.info().map_err(told)?;
    let kind = info.map_type().map_err(told)?;
    let (key, value) = (info.key_size() as usize, info.value_size() as usize);
    let mut text = format!(
        "# id {} type {kind:?} key {key} value {value} capacity {} flags {:#x}\n",
        info.id(),
        info.max_entries(),
        info.map_flags()
    );
    if !matches!(
        kind,
        MapType::Hash | MapType::LruHash | MapType::LpmTrie | MapType::Array
    ) {
        text += "# no entries to read\n";
        return Ok(text);
    }
    let mut read = 0;
    let number = data.fd().as_fd().as_raw_fd().cast_unsigned();
    walk(number, (key, value), |keys, values| {
        for (key, value) in keys.chunks(key).zip(values.chunks(value)) {
            // Most entries of an array are zero and say nothing.
            if kind == MapType::Array && value.iter().all(|byte| *byte == 0) {
                continue;
            }
            read += 1;
            if read > ENTRIES {
                return false;
            }
            hexadecimal(&mut text, key);
            text.push(' ');
            hexadecimal(&mut text, value);
            text.push('\n');
        }
        true
    })
    .map_err(|error| error.to_string())?;
    if read > ENTRIES {
        let _ = writeln!(text, "# only the first {ENTRIES}");
    }
    Ok(text)
}

fn hexadecimal(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
}

/// Lists the programs of the node, those of others too: one of them may stand in the way.
///
/// # Errors
/// The kernel does not list them.
pub fn programs() -> Result<String, String> {
    let mut text = String::new();
    for program in loaded_programs() {
        let program = program.map_err(|error| causes(&error))?;
        let _ = writeln!(
            text,
            "id {} name {} type {:?} tag {:016x} jitted {} verified {}",
            program.id(),
            program.name_as_str().unwrap_or_default(),
            program.program_type(),
            program.tag(),
            program.size_jitted(),
            program.verified_instruction_count().unwrap_or_default()
        );
    }
    Ok(text)
}

/// Lists the links of the node, those of others too.
///
/// # Errors
/// The kernel does not list them.
pub fn links() -> Result<String, String> {
    let mut text = String::new();
    for link in loaded_links() {
        let link = link.map_err(|error| causes(&error))?;
        let kind = link
            .link_type()
            .map_or_else(|error| causes(&error), |kind| format!("{kind:?}"));
        let _ = writeln!(text, "id {} type {kind} program {}", link.id(), link.program_id());
    }
    Ok(text)
}
