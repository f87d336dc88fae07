// SPDX-License-Identifier: Apache-2.0
//! Takes flows that are past their lifetime (rule C3) out of the table, a part of it at a time. No verdict depends on it: such a flow counts
//! for nothing, and a full table makes room by itself. It keeps what is read with `bpftool` to what lives, and room for it.
//!
//! aya reads maps entry by entry from the start; here a batch is read from where the last one ended (`BPF_MAP_LOOKUP_BATCH`, Linux 5.6).
//! Layouts are those of `linux/bpf.h`.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use netpol_common::{
    abi::{Flow, FlowKey, Lifetimes},
    flow,
};
use zerocopy::{Immutable, IntoBytes, KnownLayout};

const BPF_MAP_LOOKUP_AND_DELETE_ELEM: libc::c_long = 21;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_NOEXIST: u64 = 1;
/// Flows that a turn looks at.
const BATCH: usize = 16_384;

/// `struct { ... } batch` of `union bpf_attr`.
#[derive(Clone, Copy, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// What `union bpf_attr` has for single elements.
#[derive(Clone, Copy, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Element {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// What became of flows past their lifetime.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expired {
    /// Flows that were removed since the start.
    pub flows: u64,
}

/// A walk through the table that never ends.
#[derive(Debug, Default)]
pub(super) struct Expiry {
    /// Where the last batch ended: the kernel's own number, of four bytes.
    position: Option<u32>,
    expired: Expired,
}

impl Expiry {
    /// Looks at the next part of the table, and removes what is past its lifetime at `now`.
    pub(super) fn turn(&mut self, table: impl AsFd, now: u64, lifetimes: &Lifetimes) -> io::Result<Expired> {
        let map = table.as_fd().as_raw_fd().cast_unsigned();
        let mut keys = vec![FlowKey::default(); BATCH];
        let mut values = vec![Flow::default(); BATCH];
        let mut from = self.position.unwrap_or_default();
        let mut to = 0u32;
        let mut batch = Batch {
            in_batch: self.position.map_or(0, |_| (&raw mut from) as u64),
            out_batch: (&raw mut to) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: BATCH as u32,
            map,
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: all addresses are of memory that lives, and that holds as many keys and values as `count` says.
        let read = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut batch) };
        self.position = match read {
            Ok(()) => Some(to),
            // The end; what was read stands.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => None,
            Err(error) => {
                self.position = None;
                return Err(error);
            }
        };
        for (key, flow) in keys.iter().zip(&values).take(batch.count as usize) {
            if !flow::alive(flow, key.protocol, now, lifetimes) && remove(map, key, now, lifetimes)? {
                self.expired.flows += 1;
            }
        }
        Ok(self.expired)
    }
}

/// Removes a flow; one that a packet began anew since it was read is put back. Whether it was past its lifetime.
fn remove(map: u32, key: &FlowKey, now: u64, lifetimes: &Lifetimes) -> io::Result<bool> {
    let mut flow = Flow::default();
    let mut element = Element {
        map,
        pad: 0,
        key: std::ptr::from_ref(key) as u64,
        value: (&raw mut flow) as u64,
        flags: 0,
    };
    // SAFETY: the addresses are of a key and a value that live.
    match unsafe { bpf(BPF_MAP_LOOKUP_AND_DELETE_ELEM, &mut element) } {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(false),
        result => result?,
    }
    if !flow::alive(&flow, key.protocol, now, lifetimes) {
        return Ok(true);
    }
    element.flags = BPF_NOEXIST;
    // SAFETY: as above.
    match unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut element) } {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        result => result.map(|()| false),
    }
}

/// The `bpf` system call.
///
/// # Safety
/// Addresses in `attributes` are of memory that the command may read or write, as it does.
unsafe fn bpf<T: IntoBytes>(command: libc::c_long, attributes: &mut T) -> io::Result<()> {
    // SAFETY: the attributes are as long as the call is told; what they point at is the caller's promise.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
