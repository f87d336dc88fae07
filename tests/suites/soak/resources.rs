// SPDX-License-Identifier: Apache-2.0
//! What the agent uses, and what it leaves in the kernel.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::{
    maps::{MapInfo, loaded_maps},
    programs::loaded_programs,
};
use netpol_agent::datapath::bpffs;

use super::diary::pause;

/// Time limit for the kernel to free what nobody uses.
const FREED: Duration = Duration::from_secs(20);

/// Memory and descriptors of a process.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// Resident memory, KiB.
    pub resident: u64,
    /// Open descriptors.
    pub descriptors: usize,
}

impl Usage {
    pub fn read(pid: u32) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = line.context("no VmRSS")?.trim().trim_end_matches(" kB").parse()?;
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        Ok(Self {
            resident,
            descriptors,
        })
    }
}

/// All that is pinned below a folder.
fn pins(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    for path in bpffs::list(folder)? {
        if path.is_dir() {
            found.extend(pins(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

/// What is in the kernel because of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint {
    /// Pins of maps and links.
    pub pins: usize,
    /// Maps that are pinned, or once were.
    pub maps: usize,
    /// Programs that use one of those.
    pub programs: usize,
}

/// The numbers of all maps that agents pinned since the start.
#[derive(Debug, Default)]
pub struct Seen(BTreeSet<u32>);

impl Seen {
    /// Notes the maps that are pinned now.
    pub fn note(&mut self, pin_path: &Path) -> Result<()> {
        for pin in pins(pin_path)? {
            // A link is no map.
            if let Ok(info) = MapInfo::from_pin(&pin) {
                self.0.insert(info.id());
            }
        }
        Ok(())
    }

    fn footprint(&self, pin_path: &Path) -> Result<Footprint> {
        let pins = if pin_path.exists() {
            pins(pin_path)?.len()
        } else {
            0
        };
        // What ends meanwhile is not counted.
        let maps = loaded_maps().filter_map(Result::ok);
        let maps = maps.filter(|map| self.0.contains(&map.id())).count();
        let programs = loaded_programs().filter_map(Result::ok).filter(|program| {
            let ids = program.map_ids().ok().flatten().unwrap_or_default();
            ids.iter().any(|id| self.0.contains(id))
        });
        Ok(Footprint {
            pins,
            maps,
            programs: programs.count(),
        })
    }

    /// The same, while nothing ends.
    pub fn settled(&self, pin_path: &Path) -> Result<Footprint> {
        let mut last = self.footprint(pin_path)?;
        let until = Instant::now() + FREED;
        loop {
            pause(Duration::from_millis(500));
            let now = self.footprint(pin_path)?;
            if now == last || Instant::now() > until {
                return Ok(now);
            }
            last = now;
        }
    }

    /// Waits until the kernel has just this.
    pub fn becomes(&self, pin_path: &Path, expected: &Footprint) -> Result<()> {
        let until = Instant::now() + FREED;
        loop {
            let found = self.footprint(pin_path)?;
            if found == *expected {
                return Ok(());
            }
            ensure!(
                Instant::now() < until,
                "the kernel has {found:?}, where {expected:?} was expected"
            );
            pause(Duration::from_millis(100));
        }
    }
}
