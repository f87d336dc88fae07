// SPDX-License-Identifier: Apache-2.0
//! Keeps the maps of another version whose layouts are this version's (rule B3): they are pinned in
//! this version's folder, too. The other version's programs go on with them until this version's
//! are attached beside them.
//!
//! A folder in the versioned one tells the layouts: an entry `layouts/MAP-DIGEST` for each map.
//! Numbers of endpoints, policies and identities tie the tables together. So they are kept together
//! or not at all, and the maps that the programs write are kept with them only.

use std::path::{Path, PathBuf};

use netpol_common::abi::LAYOUTS;

use super::{
    DatapathError, bpffs,
    maps::pin_again,
    pins::{LINKS, pin_folder, version_folders},
};

/// Name of the folder that tells the layouts.
const FOLDER: &str = "layouts";

/// What the programs write. The other maps are the tables, and the agent's own.
const WRITTEN: [&str; 5] = ["flows", "flow_shares", "flow_rings", "inherited", "fragments"];

/// What goes with the flows: counts and places of them.
const OF_FLOWS: [&str; 3] = ["flows", "flow_shares", "flow_rings"];

fn entry(folder: &Path, (map, digest): (&str, u32)) -> PathBuf {
    folder.join(FOLDER).join(format!("{map}-{digest:08x}"))
}

/// Tells the layouts of this version's maps to later ones.
pub(super) fn tell_layouts(pin_path: &Path) -> Result<(), bpffs::BpffsError> {
    let own = pin_folder(pin_path);
    LAYOUTS
        .into_iter()
        .try_for_each(|layout| bpffs::make_folder(&entry(&own, layout)))
}

/// Keeps what another version left, before anything is loaded. Does nothing if there are maps of
/// this version. An agent that died in between did not load anything: this goes on.
pub(super) fn keep_maps(pin_path: &Path) -> Result<(), DatapathError> {
    let own = pin_folder(pin_path);
    // It is the last one that is kept, and nothing else is pinned here before.
    if own.join("config").exists() {
        return Ok(());
    }
    let others = version_folders(pin_path)?.into_iter();
    let others = others.filter(|folder| *folder != own && has_tables(folder));
    // Who enforces has programs on most interfaces.
    let links = |folder: &PathBuf| bpffs::list(&folder.join(LINKS)).map_or(0, |links| links.len());
    let Some(other) = others.max_by_key(links) else {
        return Ok(());
    };
    let flows_stay = OF_FLOWS.iter().all(|map| has(&other, map));
    let mut anew = Vec::new();
    for (map, _) in LAYOUTS {
        if !has(&other, map) || OF_FLOWS.contains(&map) && !flows_stay {
            anew.push(map);
            continue;
        }
        let path = own.join(map);
        if !path.exists() {
            pin_again(map, &other.join(map), &path)?;
        }
    }
    tracing::info!(of = %other.display(), ?anew, "maps of another version are kept");
    Ok(())
}

fn has(folder: &Path, map: &str) -> bool {
    let layout = LAYOUTS.into_iter().find(|(name, _)| *name == map);
    layout.is_some_and(|layout| entry(folder, layout).exists() && folder.join(map).exists())
}

fn has_tables(folder: &Path) -> bool {
    LAYOUTS
        .into_iter()
        .all(|(map, _)| WRITTEN.contains(&map) || has(folder, map))
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
