// SPDX-License-Identifier: Apache-2.0
//! The bill of materials of an image (CycloneDX 1.5), by cargo-cyclonedx: each crate that the agent
//! is built from for its target, and those of the eBPF programs in it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    architecture::Architecture,
    workspace::{Workspace, output, run},
};

const VERSION: &str = "0.5.9";

/// Returns the document.
///
/// # Errors
/// If the tool cannot be built or run, or this is no git checkout.
pub fn of(workspace: &Workspace, architecture: Architecture) -> Result<Vec<u8>> {
    let tool = install(workspace)?;
    // The tool writes beside each Cargo.toml.
    let copy = workspace
        .target
        .join(format!("image-sources-{}", std::process::id()));
    let made = documents(workspace, &tool, &copy, architecture);
    if copy.exists() {
        fs::remove_dir_all(&copy).with_context(|| format!("cannot remove {}", copy.display()))?;
    }
    let (mut agent, programs) = made?;
    merge(&mut agent, programs)?;
    check(workspace, architecture, &agent)?;
    Ok(serde_json::to_vec_pretty(&agent)?)
}

/// Holds a document against what cargo says that the agent and the programs are built from.
fn check(workspace: &Workspace, architecture: Architecture, document: &Value) -> Result<()> {
    let components = document["components"].as_array().context("no components")?;
    let subject = &document["metadata"]["component"];
    let named: BTreeSet<String> = components
        .iter()
        .chain([subject])
        .filter_map(|entry| {
            Some(format!(
                "{} v{}",
                entry["name"].as_str()?,
                entry["version"].as_str()?
            ))
        })
        .collect();
    for (package, target) in [
        ("netpol-agent", architecture.target()),
        ("netpol-ebpf", "bpfel-unknown-none"),
    ] {
        let tree = output(workspace.cargo().args([
            "tree",
            "--locked",
            "--package",
            package,
            "--target",
            target,
            "--edges",
            // Macros run on the building machine. What they alone use is not linked.
            "normal,no-proc-macro",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ]))?;
        for line in tree.lines() {
            let linked: Vec<_> = line.split(' ').take(2).collect();
            let linked = linked.join(" ");
            ensure!(
                linked.is_empty() || named.contains(&linked),
                "the bill of materials lacks {linked}, which is in {package}"
            );
        }
    }
    Ok(())
}

/// Where the tool is kept in a target folder.
const TOOL: &str = "tools/bin/cargo-cyclonedx";

/// Copies the tool to another target folder.
///
/// # Errors
/// If it cannot be built or copied.
pub fn lend(workspace: &Workspace, target: &Path) -> Result<()> {
    let (from, to) = (install(workspace)?, target.join(TOOL));
    to.parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::copy(&from, &to))
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// Builds the tool if no earlier run did, without optimising: it runs for a second.
fn install(workspace: &Workspace) -> Result<PathBuf> {
    let root = workspace.target.join("tools");
    let tool = workspace.target.join(TOOL);
    if !tool.is_file() {
        println!("image: building cargo-cyclonedx {VERSION}, once");
        let scratch = workspace.target.join("tools-build");
        run(workspace
            .cargo()
            .args(["install", "--quiet", "--debug", "--locked"])
            .args(["cargo-cyclonedx", "--version", VERSION, "--root"])
            .arg(&root)
            .arg("--target-dir")
            .arg(&scratch))
        .context("cannot build cargo-cyclonedx")?;
        fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))?;
    }
    Ok(tool)
}

/// Runs the tool on a copy of the sources that git knows: the agent's document, and the programs'.
fn documents(
    workspace: &Workspace,
    tool: &Path,
    copy: &Path,
    architecture: Architecture,
) -> Result<(Value, Value)> {
    let git = || {
        let mut git = Command::new("git");
        git.arg("-C").arg(&workspace.root);
        git
    };
    run(git()
        .args(["checkout-index", "--all", "--prefix"])
        .arg(format!("{}/", copy.display())))
    .context("the bill of materials is of what git knows")?;
    let time = output(git().args(["show", "--no-patch", "--format=%ct", "HEAD"]))?;
    // With a time given, the tool leaves out what is random.
    run(Command::new(tool)
        .current_dir(copy)
        .args([
            "cyclonedx",
            "--format",
            "json",
            "--spec-version",
            "1.5",
            "--quiet",
        ])
        .args(["--no-build-deps", "--target", architecture.target()])
        .args(["--manifest-path", "netpol-agent/Cargo.toml"])
        .env("SOURCE_DATE_EPOCH", time.trim()))?;
    let document = |name: &str| -> Result<Value> {
        let path = copy.join(name).join(format!("{name}.cdx.json"));
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let text = text.replace(&format!("file://{}/", copy.display()), "file:///");
        serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))
    };
    Ok((document("netpol-agent")?, document("netpol-ebpf")?))
}

/// Adds what the programs are built from to the agent's document.
fn merge(agent: &mut Value, mut programs: Value) -> Result<()> {
    let root = programs["metadata"]["component"].take();
    let reference = root["bom-ref"].clone();
    let own = agent["metadata"]["component"]["bom-ref"].clone();
    ensure!(
        reference.is_string() && own.is_string(),
        "a bill of materials without a subject"
    );
    let mut more = vec![root];
    more.append(programs["components"].as_array_mut().context("no components")?);
    add(&mut agent["components"], more, "bom-ref")?;
    let more = std::mem::take(
        programs["dependencies"]
            .as_array_mut()
            .context("no dependencies")?,
    );
    add(&mut agent["dependencies"], more, "ref")?;
    let embeds = agent["dependencies"]
        .as_array_mut()
        .into_iter()
        .flatten()
        .find(|entry| entry["ref"] == own)
        .context("the agent has no dependencies")?;
    embeds["dependsOn"]
        .as_array_mut()
        .context("the agent depends on nothing")?
        .push(reference);
    Ok(())
}

/// Adds entries whose key is not there yet.
fn add(list: &mut Value, more: Vec<Value>, key: &str) -> Result<()> {
    let list = list.as_array_mut().context("no list to add to")?;
    let known: BTreeSet<String> = list.iter().map(|entry| entry[key].to_string()).collect();
    list.extend(
        more.into_iter()
            .filter(|entry| !known.contains(&entry[key].to_string())),
    );
    list.sort_by_key(|entry| entry[key].to_string());
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::merge;

    #[test]
    fn what_the_programs_are_built_from_is_added_once() {
        let document = |name: &str, crates: &[&str]| {
            json!({
                "metadata": {"component": {"bom-ref": name, "name": name}},
                "components": crates.iter().map(|name| json!({"bom-ref": name})).collect::<Vec<_>>(),
                "dependencies": [{"ref": name, "dependsOn": crates}],
            })
        };
        let mut agent = document("agent", &["common", "tokio"]);
        merge(&mut agent, document("ebpf", &["aya-ebpf", "common"])).unwrap();
        let expected = json!([
            {"bom-ref": "aya-ebpf"}, {"bom-ref": "common"}, {"bom-ref": "ebpf", "name": "ebpf"}, {"bom-ref": "tokio"},
        ]);
        assert_eq!(agent["components"], expected);
        assert_eq!(
            agent["dependencies"][0]["dependsOn"],
            json!(["common", "tokio", "ebpf"])
        );
        assert!(merge(&mut agent, json!({})).is_err());
    }
}
