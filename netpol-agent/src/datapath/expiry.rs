// SPDX-License-Identifier: Apache-2.0
//! Removes expired flows (rule C3) and flows of removed endpoints from the table, part by part. No
//! verdict depends on it, because such flows count for nothing; it makes room for live ones.
//!
//! Each turn checks the next part. When an endpoint has used up its share, the whole table is
//! checked without a pause. The same is done once after the agent starts, because nobody removed
//! flows while it was gone.
//!
//! aya reads maps entry by entry from the start. Here a batch is read from where the last one ended
//! (`BPF_MAP_LOOKUP_BATCH`, Linux 5.6). Layouts are those of `linux/bpf.h`.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd, AsRawFd},
};

use netpol_common::{
    abi::{Flow, FlowKey, Lifetimes},
    flow,
};
use tracing::info;
use zerocopy::{Immutable, IntoBytes, KnownLayout};

use super::shares::Shares;

const BPF_MAP_LOOKUP_AND_DELETE_ELEM: libc::c_long = 21;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
pub(super) const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_NOEXIST: u64 = 1;
/// Flows that a turn checks.
const BATCH: usize = 16_384;

/// `struct { ... } batch` of `union bpf_attr`.
#[derive(Clone, Copy, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Batch {
    pub(super) in_batch: u64,
    pub(super) out_batch: u64,
    pub(super) keys: u64,
    pub(super) values: u64,
    pub(super) count: u32,
    pub(super) map: u32,
    pub(super) element_flags: u64,
    pub(super) flags: u64,
}

/// The fields of `union bpf_attr` for single elements.
#[derive(Clone, Copy, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Element {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Counts of expiry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expired {
    /// Flows that were removed since the start.
    pub flows: u64,
}

/// An endless walk through the table.
#[derive(Debug, Default)]
pub(super) struct Expiry {
    /// Where the last batch ended: the kernel's opaque number, four bytes.
    position: Option<u32>,
    expired: Expired,
    /// Flows that endpoints had made beyond their share, when that was last looked at.
    beyond: Option<u64>,
    /// The whole table is checked without a pause.
    whole: bool,
    /// The flows that were there at the start were checked.
    begun: bool,
}

/// What decides if a flow is alive.
#[derive(Debug, Clone, Copy)]
pub(super) struct Living<'a> {
    /// The programs' clock.
    pub now: u64,
    /// Idle lifetimes of flows.
    pub lifetimes: &'a Lifetimes,
    /// Ids of the current endpoints; empty if unknown.
    pub endpoints: &'a BTreeSet<u32>,
}

impl Living<'_> {
    fn has(&self, key: &FlowKey, flow: &Flow) -> bool {
        flow::alive(flow, key.protocol, self.now, self.lifetimes)
            && (self.endpoints.is_empty() || self.endpoints.contains(&key.endpoint))
    }
}

impl Expiry {
    /// Checks the next part of the table, and removes dead flows. Returns true if the part behind
    /// it is to be checked at once.
    pub(super) fn turn(&mut self, table: impl AsFd, living: Living<'_>, shares: &Shares) -> io::Result<bool> {
        if !self.whole {
            let beyond = Some(shares.beyond());
            if self.beyond != beyond {
                self.beyond = beyond;
                self.whole = true;
                self.position = None;
            }
        }
        // What an error interrupts goes on from the beginning, a turn later.
        self.part(&table, living, shares)?;
        self.whole &= self.position.is_some();
        if !self.whole && !self.begun {
            // The first count may have missed flows, or met some twice.
            shares.recount(|| endpoints(&table))?;
            self.begun = true;
            let flows = self.expired.flows;
            if flows > 0 {
                info!(flows, "removed the flows that ended while no agent ran");
            }
        }
        Ok(self.whole)
    }

    /// Returns the counts since the start.
    pub(super) fn expired(&self) -> Expired {
        self.expired
    }

    fn part(&mut self, table: &impl AsFd, living: Living<'_>, shares: &Shares) -> io::Result<()> {
        let map = table.as_fd().as_raw_fd().cast_unsigned();
        let (flows, position) = read(map, self.position.take())?;
        self.position = position;
        for (key, flow) in flows {
            if !living.has(&key, &flow) && remove(map, &key, living)? {
                shares.give_back(key.endpoint);
                self.expired.flows += 1;
            }
        }
        Ok(())
    }
}

/// Flows of the table, and where they end.
type Part = (Vec<(FlowKey, Flow)>, Option<u32>);

/// Returns the endpoint of each flow in the table.
pub(super) fn endpoints(table: impl AsFd) -> io::Result<Vec<u32>> {
    let mut endpoints = Vec::new();
    for_each(table, |key, _| endpoints.push(key.endpoint))?;
    Ok(endpoints)
}

/// Calls `each` for every flow in the table. Of flows that come and go meanwhile, some are missed.
pub(super) fn for_each(table: impl AsFd, mut each: impl FnMut(&FlowKey, &Flow)) -> io::Result<()> {
    let map = table.as_fd().as_raw_fd().cast_unsigned();
    let mut position = None;
    loop {
        let (flows, next) = read(map, position)?;
        flows.iter().for_each(|(key, flow)| each(key, flow));
        position = next;
        if position.is_none() {
            return Ok(());
        }
    }
}

/// Reads a part of the table from `position`. Returns where it ends: the kernel's own number, or
/// `None` at the end of the table.
fn read(map: u32, position: Option<u32>) -> io::Result<Part> {
    let mut keys = vec![FlowKey::default(); BATCH];
    let mut values = vec![Flow::default(); BATCH];
    let mut from = position.unwrap_or_default();
    let mut to = 0u32;
    let mut batch = Batch {
        in_batch: position.map_or(0, |_| (&raw mut from) as u64),
        out_batch: (&raw mut to) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: BATCH as u32,
        map,
        element_flags: 0,
        flags: 0,
    };
    // SAFETY: all addresses are of live memory that holds as many keys and values as `count` says.
    let position = match unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut batch) } {
        Ok(()) => Some(to),
        // The end of the table. The batch is valid.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => None,
        Err(error) => return Err(error),
    };
    let flows = keys.into_iter().zip(values).take(batch.count as usize);
    Ok((flows.collect(), position))
}

/// Removes a flow. Puts it back if a packet revived it since it was read. Returns true if it had
/// expired.
fn remove(map: u32, key: &FlowKey, living: Living<'_>) -> io::Result<bool> {
    let mut flow = Flow::default();
    let mut element = Element {
        map,
        pad: 0,
        key: std::ptr::from_ref(key) as u64,
        value: (&raw mut flow) as u64,
        flags: 0,
    };
    // SAFETY: the addresses are of a live key and value.
    match unsafe { bpf(BPF_MAP_LOOKUP_AND_DELETE_ELEM, &mut element) } {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(false),
        result => result?,
    }
    if !living.has(key, &flow) {
        return Ok(true);
    }
    element.flags = BPF_NOEXIST;
    // SAFETY: as above.
    match unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut element) } {
        // Another packet made it again meanwhile, and counted it again.
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(true),
        result => result.map(|()| false),
    }
}

/// The `bpf` system call.
///
/// # Safety
/// Addresses in `attributes` are of memory that the command may read or write, as it does.
pub(super) unsafe fn bpf<T: IntoBytes>(command: libc::c_long, attributes: &mut T) -> io::Result<()> {
    // SAFETY: the attributes are as long as the call is told; what they point at is the caller's
    // promise.
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
