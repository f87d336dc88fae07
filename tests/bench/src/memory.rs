// SPDX-License-Identifier: Apache-2.0
//! Kernel memory of the maps, as the kernel accounts for it: `memlock` in the map's fdinfo. Since
//! Linux 6.4 this is the current size, before that the maximum.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use anyhow::{Context, Result};
use aya::maps::MapInfo;
use netpol_agent::datapath::{PINNED_MAPS, pin};

use super::{Figure, Run};
use netpol_tests::{
    agent::Agent,
    manifests::ManifestDir,
    node::{Node, Plan},
};

const GROUP: &str = "memory";

/// Returns the bytes of each pinned map of an agent, by name. Leaves out the one unpinned map, of a
/// few hundred bytes per CPU, and the kernel's memory for programs.
///
/// # Errors
/// A map is not there, or the kernel does not tell.
pub fn maps(pin_path: &Path) -> Result<BTreeMap<&'static str, u64>> {
    let of = |name: &'static str| {
        let path = pin(pin_path, name);
        let bytes = bytes(&path).with_context(|| format!("memory of {}", path.display()))?;
        Ok((name, bytes))
    };
    PINNED_MAPS.into_iter().map(of).collect()
}

fn bytes(pin: &Path) -> Result<u64> {
    let map = MapInfo::from_pin(pin)?.fd()?;
    let path = format!("/proc/self/fdinfo/{}", map.as_fd().as_raw_fd());
    let text = fs::read_to_string(&path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    Ok(line.context("no memlock")?.trim().parse()?)
}

/// Adds figures of an agent's maps: their sum, and each map of a twentieth of it or more.
/// `parameters` are the sizes.
///
/// # Errors
/// As [`maps`].
pub fn add(run: &mut Run, name: &str, pin_path: &Path, parameters: &[(&str, String)]) -> Result<()> {
    const MIB: f64 = 1024.0 * 1024.0;
    let maps = maps(pin_path)?;
    let total: u64 = maps.values().sum();
    let shown = maps.iter().filter(|(_, bytes)| **bytes * 20 >= total);
    for (map, bytes) in [(&"all", &total)].into_iter().chain(shown) {
        let mut figure = Figure::new(GROUP, name, "MiB", vec![*bytes as f64 / MIB]).at("map", map);
        for (parameter, value) in parameters {
            figure = figure.at(parameter, value);
        }
        run.add(figure);
    }
    Ok(())
}

/// Measures an agent on a node without pods and policies.
///
/// # Errors
/// It does not start, or the kernel does not tell.
pub fn measure(run: &mut Run) -> Result<()> {
    if !run.wants(GROUP, "idle") {
        return Ok(());
    }
    let node = Node::new(Plan::first("node-a"))?;
    let manifests = ManifestDir::new()?;
    let agent = Agent::start(&node, manifests.path())?;
    add(run, "idle", agent.pin_path(), &[])
}
