// SPDX-License-Identifier: Apache-2.0
//! Prepares a folder of manifests for the demo: first everything but the policies, then one policy
//! after the other. Pods without a node get a place on the demo's.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use netpol_tests::node::{Plan, member};

/// Maximum number of pods: each resolves all others, and all namespaces share the kernel's
/// neighbour table.
const MOST_PODS: usize = 30;

/// Content of the demo.
#[derive(Debug, Default)]
pub struct Scene {
    /// Name and text of the file with everything but the policies.
    pub base: String,
    /// File name, title and text of each policy, in the order of the folder.
    pub policies: Vec<Act>,
    /// Pods to make: `namespace/name` and addresses.
    pub pods: Vec<(String, Vec<IpAddr>)>,
    /// Changes to the folder's objects, and what was left out.
    pub notes: Vec<String>,
}

/// One policy.
#[derive(Debug)]
pub struct Act {
    /// File that it is written to.
    pub file: String,
    /// `namespace/name`.
    pub title: String,
    /// The comment that its file begins with, as one line.
    pub comment: String,
    /// The manifest.
    pub text: String,
}

impl Scene {
    /// Reads the folder.
    ///
    /// # Errors
    /// If it cannot be read, or holds no pods, or too many.
    pub fn read(folder: &Path, plan: &Plan) -> Result<Self> {
        let mut scene = Self::default();
        let mut base = Vec::new();
        let entries = fs::read_dir(folder).with_context(|| format!("reading folder {}", folder.display()))?;
        let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.sort();
        for file in files {
            let known = file
                .extension()
                .and_then(|e| e.to_str())
                .is_some_and(|e| ["yaml", "yml", "json"].contains(&e));
            if !known {
                continue;
            }
            let name = file
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
            match documents(&text) {
                Ok(objects) => scene.take(&name, &text, objects, &mut base)?,
                Err(error) => scene.notes.push(format!("{name} is left out: {error:#}")),
            }
        }
        scene.place(&mut base, plan)?;
        let texts: Vec<String> = base.iter().map(yaml).collect::<Result<_>>()?;
        scene.base = texts.join("---\n");
        Ok(scene)
    }

    fn take(&mut self, name: &str, text: &str, objects: Vec<Value>, base: &mut Vec<Value>) -> Result<()> {
        let alone = objects.len() == 1;
        for object in objects {
            if object["kind"] != "NetworkPolicy" {
                base.push(object);
                continue;
            }
            let (file, comment, text) = if alone {
                (name.to_owned(), comment_of(text), text.to_owned())
            } else {
                let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
                (
                    format!("{stem}-{}.yaml", self.policies.len()),
                    String::new(),
                    yaml(&object)?,
                )
            };
            self.policies.push(Act {
                file,
                title: key(&object),
                comment,
                text,
            });
        }
        Ok(())
    }

    /// Puts every pod that needs its own network on the demo's node, with addresses in its pod
    /// networks.
    fn place(&mut self, base: &mut [Value], plan: &Plan) -> Result<()> {
        let networks = plan.pod_networks();
        let mut taken: BTreeSet<IpAddr> = networks.iter().map(|net| member(*net, 1).addr()).collect();
        let mut homeless = Vec::new();
        for object in base.iter_mut().filter(|object| object["kind"] == "Pod") {
            let name = key(object);
            let phase = object["status"]["phase"].as_str().unwrap_or_default();
            if object["spec"]["hostNetwork"] == true || ["Succeeded", "Failed"].contains(&phase) {
                self.notes
                    .push(format!("pod {name} has no network of its own: no column"));
                continue;
            }
            let moved = object["spec"]["nodeName"].as_str() != Some(&plan.name);
            if moved {
                object["spec"]["nodeName"] = json!(plan.name);
            }
            let addresses = addresses(object);
            let inside = |address: &IpAddr| networks.iter().any(|net| net.contains(address));
            if !addresses.is_empty() && addresses.iter().all(|a| inside(a) && !taken.contains(a)) {
                taken.extend(&addresses);
                if moved {
                    self.notes.push(format!("pod {name} is put on {}", plan.name));
                }
                self.pods.push((name, addresses));
            } else {
                homeless.push(object);
            }
        }
        let mut next = 10;
        for object in homeless {
            let addresses = loop {
                ensure!(next < 250, "no addresses left for pod {}", key(object));
                let candidates = networks.map(|net| member(net, next).addr()).to_vec();
                next += 1;
                if candidates.iter().all(|address| taken.insert(*address)) {
                    break candidates;
                }
            };
            object["status"]["phase"] = json!("Running");
            object["status"]["podIP"] = json!(addresses[0]);
            object["status"]["podIPs"] = addresses.iter().map(|address| json!({"ip": address})).collect();
            self.notes.push(format!(
                "pod {} is put on {} with {} and {}",
                key(object),
                plan.name,
                addresses[0],
                addresses[1]
            ));
            self.pods.push((key(object), addresses));
        }
        match self.pods.len() {
            0 => bail!("there are no Pod objects in the folder: nothing to connect"),
            1..=MOST_PODS => {}
            many => bail!("{many} pods: the demo makes at most {MOST_PODS}"),
        }
        let names: BTreeMap<_, _> = self.pods.iter().map(|(name, _)| (name, ())).collect();
        ensure!(
            names.len() == self.pods.len(),
            "two pods of the folder have the same name"
        );
        Ok(())
    }
}

/// Returns the objects of a manifest; Lists are split.
fn documents(text: &str) -> Result<Vec<Value>> {
    let parsed: Vec<Value> = serde_saphyr::from_multiple(text).context("it does not parse")?;
    let mut objects = Vec::new();
    for mut object in parsed {
        match object["items"].take() {
            Value::Array(items) if object["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) => {
                objects.extend(items);
            }
            _ if object.is_object() => objects.push(object),
            _ => {}
        }
    }
    for object in &mut objects {
        if let Some(fields) = object.as_object_mut() {
            fields.retain(|name, value| !(name == "items" && value.is_null()));
        }
    }
    Ok(objects)
}

fn yaml(object: &Value) -> Result<String> {
    serde_saphyr::to_string(object).with_context(|| format!("writing {}", key(object)))
}

fn key(object: &Value) -> String {
    let metadata = &object["metadata"];
    let namespace = metadata["namespace"].as_str().unwrap_or("default");
    format!("{namespace}/{}", metadata["name"].as_str().unwrap_or_default())
}

fn addresses(pod: &Value) -> Vec<IpAddr> {
    let listed = pod["status"]["podIPs"].as_array().into_iter().flatten();
    listed
        .filter_map(|entry| entry["ip"].as_str()?.parse().ok())
        .collect()
}

fn comment_of(text: &str) -> String {
    let lines = text.lines().take_while(|line| line.starts_with('#'));
    let words = lines
        .map(|line| line.trim_start_matches('#').trim())
        .filter(|line| !line.starts_with("SPDX-"));
    words.collect::<Vec<_>>().join(" ")
}
