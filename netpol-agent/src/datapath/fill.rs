// SPDX-License-Identifier: Apache-2.0
//! Counts the entries of the pinned maps, for people: no map knows how many it has. Each is opened
//! by its pin, so that the agent's own work goes on meanwhile.

use std::{io, os::fd::AsFd as _, os::fd::AsRawFd as _, path::Path};

use aya::maps::{MapData, MapType};

use super::{
    expiry::{BPF_MAP_LOOKUP_BATCH, Batch, bpf},
    pins::{PINNED_MAPS, pin},
};
use crate::causes::causes;

/// Entries that are read at once.
const BATCH: usize = 4096;

/// How full a map is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fill {
    /// The map.
    pub map: &'static str,
    /// Most entries that it can have; 0 if it is not there.
    pub capacity: u32,
    /// Entries that it has, or why they cannot be counted.
    pub entries: Result<u32, String>,
    /// True if a new entry replaces an old one, so that being full is no fault.
    pub replaces: bool,
}

/// Counts the entries of each map below `pin_path` that can be full: hash maps and tries. A map
/// that changes meanwhile is counted roughly.
pub fn fill(pin_path: &Path) -> Vec<Fill> {
    PINNED_MAPS
        .iter()
        .filter_map(|map| fill_of(map, &pin(pin_path, map)))
        .collect()
}

/// Counts a map; `None` if it has all its entries from the start.
fn fill_of(map: &'static str, path: &Path) -> Option<Fill> {
    let opened = MapData::from_pin(path).and_then(|data| {
        let info = data.info()?;
        let kind = info.map_type()?;
        Ok((data, info, kind))
    });
    let (data, info, kind) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            return Some(Fill {
                map,
                capacity: 0,
                entries: Err(causes(&error)),
                replaces: false,
            });
        }
    };
    if !matches!(kind, MapType::Hash | MapType::LruHash | MapType::LpmTrie) {
        return None;
    }
    let number = data.fd().as_fd().as_raw_fd().cast_unsigned();
    let sizes = (info.key_size() as usize, info.value_size() as usize);
    Some(Fill {
        map,
        capacity: info.max_entries(),
        entries: count(number, sizes).map_err(|error| error.to_string()),
        replaces: kind == MapType::LruHash,
    })
}

/// Counts the entries of a map.
fn count(map: u32, sizes: (usize, usize)) -> io::Result<u32> {
    let mut total = 0;
    walk(map, sizes, |keys, _| {
        total += (keys.len() / sizes.0) as u32;
        true
    })?;
    Ok(total)
}

/// Reads a map batch by batch. Hands on keys and values of each, until `each` returns false.
pub(super) fn walk(
    map: u32,
    (key, value): (usize, usize),
    mut each: impl FnMut(&[u8], &[u8]) -> bool,
) -> io::Result<()> {
    // The kernel writes values in steps of 8 bytes.
    let mut keys = vec![0u8; BATCH * key];
    let mut values = vec![0u8; BATCH * value.next_multiple_of(8)];
    // Where a batch ends: a number of the kernel's for hash maps, a key for others.
    let mut from = vec![0u8; key.max(size_of::<u32>())];
    let mut to = from.clone();
    let mut first = true;
    loop {
        let mut batch = Batch {
            in_batch: if first { 0 } else { from.as_mut_ptr() as u64 },
            out_batch: to.as_mut_ptr() as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: BATCH as u32,
            map,
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: all addresses are of live memory that holds as many keys and values as `count`
        // says.
        let end = match unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut batch) } {
            Ok(()) => false,
            // The end of the map. The batch is valid.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(error),
        };
        let count = batch.count as usize;
        let goes_on = each(&keys[..count * key], &values[..count * value]);
        if end || !goes_on {
            return Ok(());
        }
        std::mem::swap(&mut from, &mut to);
        first = false;
    }
}
