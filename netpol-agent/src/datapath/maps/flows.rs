// SPDX-License-Identifier: Apache-2.0
//! Map `flows`, where the agent reads or writes it.

use std::{
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    maps::{HashMap, IterableMap as _, MapData},
};
use netpol_common::{
    abi::{Flow, FlowKey, Lifetimes},
    flow,
};
use tracing::{info, warn};

use super::{MapError, Named as _, check_layout, retry};
use crate::datapath::{DatapathError, bpffs, shares::Shares};

/// The key has a value already, or has none (linux/bpf.h).
const BPF_EXIST: u64 = 2;
const BPF_NOEXIST: u64 = 1;

/// Where the table is pinned while one of another capacity is made. The programs that run use it: a
/// start that fails or is cut off must not lose it.
fn aside(path: &Path) -> PathBuf {
    path.with_file_name("flows-before")
}

/// Brings back what a start set aside that was cut off: the programs that run use it.
pub fn bring_back_flows(path: &Path) -> Result<(), bpffs::BpffsError> {
    if aside(path).exists() {
        bpffs::remove(path)?;
        bpffs::rename(&aside(path), path)?;
    }
    Ok(())
}

/// The flows of a pinned map whose capacity is another than asked for; the map is set aside, so
/// that loading makes a new one. What an earlier start set aside is brought back first.
pub fn set_aside_flows(path: &Path, capacity: Option<u32>) -> Result<Vec<(FlowKey, Flow)>, DatapathError> {
    bring_back_flows(path)?;
    let Some(capacity) = capacity.filter(|_| path.exists()) else {
        return Ok(Vec::new());
    };
    check_layout::<FlowKey, Flow>(path)?;
    let data = MapData::from_pin(path).on("flows", "opening")?;
    let found = data.info().on("flows", "asking for its capacity")?.max_entries();
    if found == capacity {
        return Ok(Vec::new());
    }
    let flows = HashMap::try_from(aya::maps::Map::HashMap(data)).on("flows", "opening")?;
    let entries = flows.iter().filter_map(Result::ok).collect();
    bpffs::rename(path, &aside(path))?;
    info!(
        from = found,
        to = capacity,
        "the flow table is made anew with another capacity"
    );
    Ok(entries)
}

/// The flow table, for connections that were open before a pod's programs were there.
pub struct FlowTable<'a>(HashMap<&'a mut MapData, FlowKey, Flow>);

impl<'a> FlowTable<'a> {
    /// Opens it.
    pub fn open(ebpf: &'a mut Ebpf) -> Result<Self, MapError> {
        let map = ebpf
            .map_mut("flows")
            .ok_or_else(missing)
            .on("flows", "finding it in the object")?;
        Ok(Self(HashMap::try_from(map).on("flows", "opening")?))
    }

    /// Entries that it holds.
    pub fn capacity(&self) -> Result<u32, MapError> {
        let info = self.0.map().info().on("flows", "asking for its capacity")?;
        Ok(info.max_entries())
    }

    /// Its descriptor.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.map().fd().as_fd()
    }

    /// Adds a flow, unless there is one that still lives at `now`, or its endpoint may have no
    /// more. Whether it was added.
    pub fn add(
        &mut self,
        shares: &Shares,
        key: &FlowKey,
        flow: &Flow,
        now: u64,
        lifetimes: &Lifetimes,
    ) -> Result<bool, MapError> {
        match self.0.get(key, 0) {
            Ok(held) if flow::alive(&held, key.protocol, now, lifetimes) => return Ok(false),
            Ok(_) => {
                retry(|| self.0.insert(key, flow, BPF_EXIST).on("flows", "writing"))?;
                return Ok(true);
            }
            Err(aya::maps::MapError::KeyNotFound) => {}
            Err(error) => return Err(error).on("flows", "reading"),
        }
        if !shares.take(key.endpoint) {
            return Ok(false);
        }
        let written = retry(|| self.0.insert(key, flow, BPF_NOEXIST).on("flows", "writing"));
        if written.is_err() {
            shares.give_back(key.endpoint);
        }
        written.map(|()| true)
    }
}

/// Puts flows into a new table, and removes the one that was set aside.
pub fn restore_flows(ebpf: &mut Ebpf, flows: Vec<(FlowKey, Flow)>, path: &Path) -> Result<(), DatapathError> {
    let map = ebpf
        .map_mut("flows")
        .ok_or_else(missing)
        .on("flows", "finding it")?;
    let mut table: HashMap<_, FlowKey, Flow> = HashMap::try_from(map).on("flows", "opening")?;
    let all = flows.len();
    for (copied, (key, flow)) in flows.into_iter().enumerate() {
        match table.insert(key, flow, 0) {
            Err(error) if is_full(&error) => {
                let lost = all - copied;
                warn!(
                    lost,
                    "the flow table is too small for the flows that it had: their next packets are judged as new"
                );
                break;
            }
            copied => copied.on("flows", "copying")?,
        }
    }
    Ok(bpffs::remove(&aside(path))?)
}

fn is_full(error: &aya::maps::MapError) -> bool {
    let aya::maps::MapError::SyscallError(error) = error else {
        return false;
    };
    error.io_error.raw_os_error() == Some(libc::E2BIG)
}

fn missing() -> aya::maps::MapError {
    aya::maps::MapError::InvalidName { name: "flows".into() }
}
