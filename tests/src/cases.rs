// SPDX-License-Identifier: Apache-2.0
//! The corpus: `tests/cases/*.yaml`, one case per file, for every tier that can answer who reaches
//! whom. `tests/cases/README.md` describes the format.
//!
//! Expectations are written by hand from the text of the NetworkPolicy API, never by a program.

mod by_service;

use std::{collections::BTreeSet, fs, net::IpAddr, path::Path, sync::Arc};

use anyhow::{Context, Result, bail, ensure};
use netpol_agent::{
    evaluate::Packet,
    model::{Node, ObjectKey, Snapshot},
};
use serde::Deserialize;
use serde_json::Value;

use crate::{expectation, objects};

pub use self::by_service::Translated;
pub use crate::expectation::{End, Expectation, Family};

/// One file of the corpus.
#[derive(Debug, Clone)]
pub struct Case {
    /// The file's name without its ending.
    pub name: String,
    /// What it shows.
    pub description: String,
    /// The numbered rules that it proves.
    pub rules: Vec<String>,
    /// The cluster's nodes.
    pub nodes: Vec<Node>,
    /// The cluster's states, one after the other; never empty.
    pub steps: Vec<Step>,
}

/// One state of a case.
#[derive(Debug, Clone)]
pub struct Step {
    /// What changed; empty for the first step.
    pub description: String,
    /// Every object of the cluster in this state, as manifests.
    pub objects: Vec<Value>,
    /// The same objects as the agent's own types.
    pub snapshot: Snapshot,
    /// Who reaches whom; never empty.
    pub expectations: Vec<Expectation>,
}

/// A case as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseFile {
    rules: Vec<String>,
    description: String,
    #[serde(default)]
    cluster: Option<String>,
    #[serde(default)]
    nodes: Vec<NodeFile>,
    #[serde(default)]
    objects: Vec<Value>,
    #[serde(default)]
    allowed: Vec<String>,
    #[serde(default)]
    denied: Vec<String>,
    #[serde(default)]
    then: Vec<StepFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StepFile {
    description: String,
    #[serde(default)]
    objects: Vec<Value>,
    #[serde(default)]
    delete: Vec<String>,
    #[serde(default)]
    allowed: Vec<String>,
    #[serde(default)]
    denied: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeFile {
    name: String,
    addresses: BTreeSet<IpAddr>,
}

/// A cluster that cases start from.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClusterFile {
    nodes: Vec<NodeFile>,
    objects: Vec<Value>,
}

/// Reads all cases, ordered by name.
///
/// # Errors
/// A file that cannot be read, does not parse, names a pod or node that its step does not hold, or
/// expects nothing.
pub fn load_all() -> Result<Vec<Case>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let mut paths = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "yaml") {
            paths.push(path);
        }
    }
    paths.sort();
    ensure!(!paths.is_empty(), "{} holds no case", folder.display());
    paths
        .iter()
        .map(|path| load(path).with_context(|| format!("case {}", path.display())))
        .collect()
}

fn load(path: &Path) -> Result<Case> {
    let file: CaseFile = serde_saphyr::from_str(&fs::read_to_string(path)?)?;
    let name = path
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    ensure!(!file.rules.is_empty(), "it proves no rule");
    let (mut nodes, mut objects) = (file.nodes, Vec::new());
    if let Some(cluster) = &file.cluster {
        let path = path
            .with_file_name("clusters")
            .join(cluster)
            .with_extension("yaml");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let cluster: ClusterFile = serde_saphyr::from_str(&text)?;
        nodes.extend(cluster.nodes);
        objects.extend(cluster.objects);
    }
    let nodes: Vec<Node> = nodes
        .into_iter()
        .map(|node| Node {
            name: node.name,
            addresses: node.addresses,
            ..Node::default()
        })
        .collect();
    let first = StepFile {
        description: String::new(),
        objects: file.objects,
        delete: Vec::new(),
        allowed: file.allowed,
        denied: file.denied,
    };
    let mut steps = Vec::new();
    for written in std::iter::once(first).chain(file.then) {
        for name in &written.delete {
            let before = objects.len();
            objects.retain(|object| objects::title(object) != *name);
            ensure!(objects.len() < before, "delete: there is no {name}");
        }
        for object in written.objects {
            let title = objects::title(&object);
            match objects.iter_mut().find(|other| objects::title(other) == title) {
                Some(old) => *old = object,
                None => objects.push(object),
            }
        }
        steps.push(step(
            &nodes,
            objects.clone(),
            written.description,
            &written.allowed,
            &written.denied,
        )?);
    }
    Ok(Case {
        name,
        description: file.description,
        rules: file.rules,
        nodes,
        steps,
    })
}

fn step(
    nodes: &[Node],
    objects: Vec<Value>,
    description: String,
    allowed: &[String],
    denied: &[String],
) -> Result<Step> {
    let mut snapshot = objects::snapshot(&objects)?;
    for node in nodes {
        snapshot.nodes.insert(node.name.clone(), Arc::new(node.clone()));
    }
    let mut expectations = Vec::new();
    for (lines, verdict) in [(allowed, true), (denied, false)] {
        for line in lines {
            let before = expectations.len();
            for (expectation, is_family_given) in expectation::parse(line, verdict)? {
                let ends = [&expectation.from, &expectation.to].into_iter();
                let mut has_addresses = true;
                for end in ends.chain(&expectation.via) {
                    let has_address = address(&snapshot, nodes, end, expectation.family)?.is_some();
                    ensure!(
                        has_address || !is_family_given,
                        "{line:?}: {end} has no {} address",
                        expectation.family
                    );
                    has_addresses &= has_address;
                }
                if has_addresses {
                    expectations.push(expectation);
                }
            }
            ensure!(
                expectations.len() > before,
                "{line:?}: its ends share no address family"
            );
        }
    }
    ensure!(!expectations.is_empty(), "step {description:?} expects nothing");
    let step = Step {
        description,
        objects,
        snapshot,
        expectations,
    };
    for expectation in &step.expectations {
        step.check_backends(nodes, expectation)?;
    }
    Ok(step)
}

impl Step {
    /// Returns the packet that opens the expectation's connection, with the ends' first addresses
    /// of its family; to the frontend, if it goes through a Service.
    ///
    /// # Errors
    /// None for this step's own expectations: loading has checked them.
    pub fn packet(&self, nodes: &[Node], expectation: &Expectation) -> Result<Packet> {
        let of = |end: &End| {
            address(&self.snapshot, nodes, end, expectation.family)?
                .with_context(|| format!("{end} has no address"))
        };
        Ok(Packet {
            source: of(&expectation.from)?,
            destination: of(&expectation.to)?,
            protocol: expectation.protocol,
            port: expectation.port,
        })
    }
}

/// Returns an end's first address of a family, if it has one.
fn address(snapshot: &Snapshot, nodes: &[Node], end: &End, family: Family) -> Result<Option<IpAddr>> {
    let is_right = |address: &&IpAddr| Family::of(address) == family;
    let found = match end {
        End::Pod(ObjectKey { namespace, name }) => {
            let pod = snapshot.pods.get(&ObjectKey::new(namespace, name));
            pod.with_context(|| format!("there is no pod {end}"))?
                .addresses
                .iter()
                .find(is_right)
        }
        End::Node(name) => {
            let node = nodes.iter().find(|node| node.name == *name);
            node.with_context(|| format!("there is no {end}"))?
                .addresses
                .iter()
                .find(is_right)
        }
        End::Address(address) => Some(address).filter(is_right),
        End::Service(key) => {
            let service = snapshot.services.get(key);
            let service = service.with_context(|| format!("there is no {end}"))?;
            service.cluster_ips.iter().find(is_right)
        }
    };
    if let End::Address(address) = end
        && snapshot.pods.values().any(|pod| pod.addresses.contains(address))
    {
        bail!("{address} is a pod's: name the pod");
    }
    Ok(found.copied())
}
