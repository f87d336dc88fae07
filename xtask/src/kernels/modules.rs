// SPDX-License-Identifier: Apache-2.0
//! The modules that the guests load, and those that they need, in an order in which each finds what
//! it needs.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use object::{File, Object as _, ObjectSection as _};

/// What a node with pods uses. What a kernel has built in, or does not have, is no module of its
/// own; a suite that needs it says so.
const WANTED: [&str; 13] = [
    // nf_conntrack asks for it by what it computes, not by its name.
    "crc32c_generic",
    "veth",
    "bridge",
    "br_netfilter",
    "vxlan",
    "dummy",
    "sch_ingress",
    "cls_bpf",
    "nf_conntrack",
    "nf_conntrack_netlink",
    "nf_tables",
    "nft_counter",
    "nft_ct",
];

/// Names and contents, decompressed.
pub fn in_order(folder: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = BTreeMap::new();
    index(folder, &mut files)?;
    ensure!(!files.is_empty(), "no modules in {}", folder.display());
    let mut order = Vec::new();
    for name in WANTED {
        add(name, &files, &mut order)?;
    }
    Ok(order)
}

/// Adds a module behind those that it needs.
fn add(name: &str, files: &BTreeMap<String, PathBuf>, order: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    let Some(path) = files.get(name) else {
        return Ok(());
    };
    if order.iter().any(|(added, _)| added == name) {
        return Ok(());
    }
    let bytes = read(path)?;
    for needed in needs(&bytes).with_context(|| format!("{} is no module", path.display()))? {
        add(&needed, files, order)?;
    }
    order.push((name.to_owned(), bytes));
    Ok(())
}

/// Finds the files of all modules, by name.
fn index(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            index(&path, files)?;
            continue;
        }
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some((name, _)) = file.split_once(".ko") {
            files.insert(normal(name), path.clone());
        }
    }
    Ok(())
}

/// A module's name as the kernel spells it.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

fn read(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_some_and(|extension| extension == "ko") {
        return fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    }
    let output = Command::new("xz")
        .args(["--decompress", "--stdout"])
        .arg(path)
        .output()
        .context("cannot start xz")?;
    ensure!(
        output.status.success(),
        "{} is not decompressed: {}",
        path.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.stdout)
}

/// The modules that a module says it needs.
fn needs(module: &[u8]) -> Result<Vec<String>> {
    let object = File::parse(module)?;
    let section = object
        .section_by_name(".modinfo")
        .context("no section .modinfo")?;
    Ok(depends(section.data()?))
}

/// Reads them out of the section: texts that end with a zero.
fn depends(section: &[u8]) -> Vec<String> {
    let mut texts = section.split(|byte| *byte == 0);
    let names = texts.find_map(|text| text.strip_prefix(b"depends="));
    let names = String::from_utf8_lossy(names.unwrap_or_default());
    let names = names.split(',').filter(|name| !name.is_empty());
    names.map(normal).collect()
}

#[cfg(test)]
mod tests {
    use super::depends;

    #[test]
    fn what_a_module_needs_is_read() {
        let section = b"license=GPL\0depends=stp,nf-conntrack\0name=bridge\0";
        assert_eq!(depends(section), ["stp", "nf_conntrack"]);
        assert!(depends(b"license=GPL\0depends=\0").is_empty());
        assert!(depends(b"license=GPL\0").is_empty());
    }
}
