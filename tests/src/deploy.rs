// SPDX-License-Identifier: Apache-2.0
//! Reads `deploy/netpol.yaml` as an administrator applies it, and how it starts the agent.

use std::{ffi::OsString, fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::agent::Launch;

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

    /// Returns how its container starts the agent on a node: arguments, environment, capabilities.
    ///
    /// # Errors
    /// If it has not exactly one container, or its capabilities or environment are in an
    /// unsupported form.
    pub fn launch(&self, node: &str) -> Result<Launch> {
        let container = self.container()?;
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
            ensure!(
                field == Some("spec.nodeName"),
                "variable {name} has a source not known here"
            );
            environment.push((name.to_owned(), OsString::from(node)));
        }
        Ok(Launch {
            arguments: strings(&container["args"])?
                .into_iter()
                .map(OsString::from)
                .collect(),
            environment,
            capabilities: Some(strings(&security["capabilities"]["add"])?),
            service_account: None,
        })
    }
}

fn strings(list: &Value) -> Result<Vec<String>> {
    Ok(serde_json::from_value(list.clone())?)
}
