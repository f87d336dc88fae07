// SPDX-License-Identifier: Apache-2.0
//! Empties any pinned map, as `bpftool map delete` does entry by entry.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use anyhow::{Context, Result};
use aya::maps::{MapData, MapInfo, MapType};
use nix::libc;

use crate::empty::bpf;

const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_DELETE_ELEM: libc::c_int = 3;
const BPF_MAP_GET_NEXT_KEY: libc::c_int = 4;

/// The part of `union bpf_attr` for these commands, `linux/bpf.h`.
#[repr(C)]
struct Element {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Deletes all entries of a map. Those of an array, which cannot be deleted, become zero.
///
/// # Errors
/// If there is no such map, or the kernel refuses.
pub fn flush(pin: &Path) -> Result<()> {
    let info = MapInfo::from_pin(pin).with_context(|| format!("opening {}", pin.display()))?;
    let map = MapData::from_pin(pin)?;
    let element = |command, key: &[u8], value: Option<&[u8]>| {
        let mut element = Element {
            map: map.fd().as_fd().as_raw_fd() as u32,
            pad: 0,
            key: key.as_ptr() as u64,
            value: value.map_or(0, |value| value.as_ptr() as u64),
            flags: 0,
        };
        bpf(command, &mut element)
    };
    if info.map_type()? == MapType::Array {
        let zero = vec![0; info.value_size() as usize];
        for index in 0..info.max_entries() {
            element(BPF_MAP_UPDATE_ELEM, &index.to_ne_bytes(), Some(&zero))
                .with_context(|| format!("entry {index} of {}", pin.display()))?;
        }
        return Ok(());
    }
    let mut key = vec![0_u8; info.key_size() as usize];
    loop {
        let mut first = Element {
            map: map.fd().as_fd().as_raw_fd() as u32,
            pad: 0,
            key: 0,
            value: key.as_mut_ptr() as u64,
            flags: 0,
        };
        match bpf(BPF_MAP_GET_NEXT_KEY, &mut first) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error).with_context(|| format!("reading {}", pin.display())),
            Ok(_) => {}
        }
        // A packet may have removed it first.
        if let Err(error) = element(BPF_MAP_DELETE_ELEM, &key, None)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error).with_context(|| format!("emptying {}", pin.display()));
        }
    }
}
