// SPDX-License-Identifier: Apache-2.0
//! Keeps the maps of another version whose layouts are this version's (rule B3): they are pinned in
//! this version's folder, too. The other version's programs go on with them until this version's
//! are attached beside them.
//!
//! A folder in the versioned one tells the layouts: an entry `layouts/MAP-DIGEST` for each map.
//! Numbers of endpoints, policies and identities tie the tables together. So they are kept together
//! or not at all, and flows and fragments, which hold such numbers, are kept with them only. What
//! was bound to which interface, and which addresses were another pod's, holds no such number, and
//! is kept by itself.

use std::path::{Path, PathBuf};

use aya::maps::MapInfo;
use netpol_common::abi::LAYOUTS;

use super::{
    DatapathError, bpffs,
    maps::{bring_back_flows, pin_again},
    pins::{LINKS, pin_folder, version_folders},
};

/// Name of the folder that tells the layouts.
const FOLDER: &str = "layouts";

/// Maps that hold no number of another map's entry.
const FREE: [&str; 2] = ["bindings", "inherited"];

/// What the programs write. It holds numbers of the tables, and no table holds any of it.
const WRITTEN: [&str; 4] = ["flows", "flow_shares", "flow_rings", "fragments"];

/// What goes with the flows: counts and places of them.
const OF_FLOWS: [&str; 3] = ["flows", "flow_shares", "flow_rings"];

fn entry(folder: &Path, (map, digest): (&str, u32)) -> PathBuf {
    folder.join(FOLDER).join(format!("{map}-{digest:08x}"))
}

/// Tells the layouts of this version's maps to later ones.
pub(super) fn tell_layouts(pin_path: &Path) -> Result<(), bpffs::BpffsError> {
    let own = pin_folder(pin_path);
    let told = LAYOUTS.map(|layout| entry(&own, layout));
    told.iter().try_for_each(|entry| bpffs::make_folder(entry))?;
    // What an earlier build of this version told is not true of the maps any more.
    for earlier in bpffs::list(&own.join(FOLDER))? {
        if !told.contains(&earlier) {
            bpffs::remove(&earlier)?;
        }
    }
    Ok(())
}

/// Keeps what another version left, before anything is loaded. Does nothing if there are maps of
/// this version.
pub(super) fn keep_maps(pin_path: &Path) -> Result<(), DatapathError> {
    let own = pin_folder(pin_path);
    // Programs of this version are attached only after it was pinned, and `config` is the last
    // one that is kept: without it, nothing here enforces.
    if own.join("config").exists() {
        return Ok(());
    }
    let others = version_folders(pin_path)?.into_iter();
    let others = others.filter(|folder| *folder != own && LAYOUTS.iter().any(|(map, _)| has(folder, map)));
    let Some(other) = others.max_by_key(|folder| enforces(folder)) else {
        return Ok(());
    };
    bring_back_flows(&own.join("flows"))?;
    bring_back_flows(&other.join("flows"))?;
    let (tables, flows) = (has_tables(&other), OF_FLOWS.iter().all(|map| has(&other, map)));
    let mut anew = Vec::new();
    for (map, _) in LAYOUTS {
        let path = own.join(map);
        // Left by a start that was cut off. The other version may have other maps since.
        if path.exists() {
            bpffs::remove(&path)?;
        }
        let fits = FREE.contains(&map) || tables && (flows || !OF_FLOWS.contains(&map));
        if fits && has(&other, map) {
            pin_again(map, &other.join(map), &path)?;
        } else {
            anew.push(map);
        }
    }
    tracing::info!(of = %other.display(), ?anew, "maps of another version are kept");
    Ok(())
}

/// The folder of another version whose flows this version can read but does not use: their table
/// was not kept, or was copied into one of another size.
pub(super) fn other_flows(pin_path: &Path) -> Result<Option<PathBuf>, DatapathError> {
    let own = pin_folder(pin_path);
    let id = |folder: &Path| MapInfo::from_pin(folder.join("flows")).map(|info| info.id()).ok();
    let readable = |folder: &PathBuf| has(folder, "flows") && has(folder, "endpoints");
    let others = version_folders(pin_path)?.into_iter();
    let others = others.filter(|folder| *folder != own && readable(folder) && id(folder) != id(&own));
    Ok(others.max_by_key(|folder| enforces(folder)))
}

/// Orders versions: who enforces has tables, and programs on most interfaces.
fn enforces(folder: &Path) -> (bool, usize) {
    let links = bpffs::list(&folder.join(LINKS)).map_or(0, |links| links.len());
    (has_tables(folder), links)
}

fn has(folder: &Path, map: &str) -> bool {
    let layout = LAYOUTS.into_iter().find(|(name, _)| *name == map);
    layout.is_some_and(|layout| entry(folder, layout).exists() && folder.join(map).exists())
}

fn has_tables(folder: &Path) -> bool {
    let mut tables = LAYOUTS.iter().map(|(map, _)| *map);
    tables.all(|map| FREE.contains(&map) || WRITTEN.contains(&map) || has(folder, map))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::{OBSERVED_MAPS, PINNED_MAPS};

    #[test]
    fn each_map_that_enforces_has_a_layout_and_config_comes_last() {
        let mut told = LAYOUTS.map(|(map, _)| map);
        assert_eq!(told.last(), Some(&"config"));
        let mut pinned = PINNED_MAPS.to_vec();
        pinned.retain(|map| !OBSERVED_MAPS.contains(map));
        told.sort_unstable();
        pinned.sort_unstable();
        assert_eq!(told.as_slice(), pinned);
    }
}
