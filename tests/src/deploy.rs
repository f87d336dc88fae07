// SPDX-License-Identifier: Apache-2.0
//! Reads `deploy/netpol.yaml` as an administrator applies it, and how it starts the agent.

use std::{ffi::OsString, fs, path::Path};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::agent::Launch;

/// A folder of the node that a container has: path, type, and whether it can only read.
pub type HostPath = (String, String, bool);

/// The capabilities with which suites `deploy` and `image` start the container: each is needed.
pub const CAPABILITIES: [&str; 4] = ["BPF", "PERFMON", "NET_ADMIN", "NET_BROADCAST"];

/// The node's folders that the container has when suite `image` starts it: path, type, and whether
/// it can only read.
pub const HOST_PATHS: [(&str, &str, bool); 2] = [
    ("/sys/fs/bpf", "Directory", false),
    ("/var/lib/cni/results", "DirectoryOrCreate", true),
];

/// The manifest.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// Its documents, in order.
    pub objects: Vec<Value>,
}

impl Deployment {
    /// Reads the file.
    ///
    /// # Errors
    /// If it does not parse.
    pub fn load() -> Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/netpol.yaml");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let objects =
            serde_saphyr::from_multiple(&text).with_context(|| format!("parsing {}", path.display()))?;
        Ok(Self { objects })
    }

    /// Returns the only object of a kind.
    ///
    /// # Errors
    /// If there is none, or more than one.
    pub fn object(&self, kind: &str) -> Result<&Value> {
        let mut found = self.objects.iter().filter(|object| object["kind"] == kind);
        let object = found.next().with_context(|| format!("no {kind}"))?;
        ensure!(found.next().is_none(), "more than one {kind}");
        Ok(object)
    }

    /// Returns its pod template's spec.
    ///
    /// # Errors
    /// If there is no DaemonSet.
    pub fn pod(&self) -> Result<&Value> {
        Ok(&self.object("DaemonSet")?["spec"]["template"]["spec"])
    }

    /// Returns the container of its pods.
    ///
    /// # Errors
    /// If there is not exactly one.
    pub fn container(&self) -> Result<&Value> {
        let containers = self.pod()?["containers"].as_array().context("no containers")?;
        ensure!(containers.len() == 1, "more than one container");
        Ok(&containers[0])
    }

    /// Returns the node's folders that the container has, as [`HOST_PATHS`] lists them, sorted.
    ///
    /// # Errors
    /// If a mount has no volume.
    pub fn host_paths(&self) -> Result<Vec<HostPath>> {
        host_paths(self.pod()?, self.container()?)
    }

    /// Removes a capability from the container.
    ///
    /// # Errors
    /// If it has not got it.
    pub fn without_capability(&self, capability: &str) -> Result<Self> {
        let mut less = self.clone();
        let daemon_set = less
            .objects
            .iter_mut()
            .find(|object| object["kind"] == "DaemonSet");
        let list = daemon_set
            .and_then(|object| {
                object.pointer_mut("/spec/template/spec/containers/0/securityContext/capabilities/add")
            })
            .and_then(Value::as_array_mut)
            .context("no capabilities")?;
        let before = list.len();
        list.retain(|name| name != capability);
        ensure!(list.len() + 1 == before, "no capability {capability}");
        Ok(less)
    }

    /// Returns how its container starts the agent on a node: see [`launch`].
    ///
    /// # Errors
    /// As there, and if it has not exactly one container.
    pub fn launch(&self, node: &str) -> Result<Launch> {
        launch(self.container()?, node)
    }
}

/// Returns how a container starts `netpol` on a node: arguments, environment, capabilities.
///
/// # Errors
/// If its capabilities or environment are in an unsupported form.
pub fn launch(container: &Value, node: &str) -> Result<Launch> {
    let security = &container["securityContext"];
    ensure!(security["privileged"].is_null(), "the container is privileged");
    ensure!(
        strings(&security["capabilities"]["drop"])? == ["ALL"],
        "not all capabilities are dropped"
    );
    let mut environment = Vec::new();
    for variable in container["env"].as_array().into_iter().flatten() {
        let name = variable["name"].as_str().context("a variable without a name")?;
        let field = variable["valueFrom"]["fieldRef"]["fieldPath"].as_str();
        let value = match (field, variable["value"].as_str()) {
            (Some("spec.nodeName"), None) => node,
            (None, Some(value)) => value,
            _ => bail!("variable {name} has a source not known here"),
        };
        environment.push((name.to_owned(), OsString::from(value)));
    }
    let added = &security["capabilities"]["add"];
    Ok(Launch {
        arguments: strings(&container["args"])?
            .into_iter()
            .map(OsString::from)
            .collect(),
        environment,
        capabilities: Some(if added.is_null() {
            Vec::new()
        } else {
            strings(added)?
        }),
        service_account: None,
    })
}

/// Returns the node's folders that a container of a pod has, as [`HOST_PATHS`] lists them, sorted.
///
/// # Errors
/// If a mount has no volume.
pub fn host_paths(pod: &Value, container: &Value) -> Result<Vec<HostPath>> {
    let mut found = Vec::new();
    for mount in container["volumeMounts"].as_array().into_iter().flatten() {
        let volumes = pod["volumes"].as_array().into_iter().flatten();
        let volume = volumes.into_iter().find(|volume| volume["name"] == mount["name"]);
        let volume = volume.with_context(|| format!("no volume {}", mount["name"]))?;
        let text = |field: &str| volume["hostPath"][field].as_str().map(str::to_owned);
        if let (Some(path), Some(kind)) = (text("path"), text("type")) {
            found.push((path, kind, mount["readOnly"] == true));
        } else {
            ensure!(
                volume["hostPath"].is_null(),
                "a hostPath without a type: {volume}"
            );
        }
    }
    found.sort();
    Ok(found)
}

/// Asserts that every field of `written` is in `stored`, unchanged: that a server knows all of
/// them. `path` names the object.
///
/// # Panics
/// If one is not.
pub fn assert_kept(path: &str, written: &Value, stored: &Value) {
    match written {
        Value::Object(fields) => {
            for (key, value) in fields {
                assert_kept(&format!("{path}.{key}"), value, &stored[key]);
            }
        }
        Value::Array(items) => {
            assert_eq!(stored.as_array().map(Vec::len), Some(items.len()), "{path}");
            for (index, value) in items.iter().enumerate() {
                assert_kept(&format!("{path}[{index}]"), value, &stored[index]);
            }
        }
        scalar => assert_eq!(scalar, stored, "{path}"),
    }
}

fn strings(list: &Value) -> Result<Vec<String>> {
    Ok(serde_json::from_value(list.clone())?)
}
