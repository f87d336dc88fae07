// SPDX-License-Identifier: Apache-2.0
//! The Helm chart and the kustomization, rendered by Helm and kubectl themselves.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::deploy::Deployment;

/// The namespace that renderings are for.
pub const NAMESPACE: &str = "kube-system";

/// Environment variables with the programs; without them, those that xtask keeps in the target
/// folder are used.
const PROGRAMS: [(&str, &str); 2] = [("NETPOL_HELM", "helm"), ("NETPOL_KUBECTL", "kubectl")];

/// Helm and kubectl.
#[derive(Debug, Clone)]
pub struct Tools {
    helm: PathBuf,
    kubectl: PathBuf,
}

impl Tools {
    /// Finds them.
    ///
    /// # Errors
    /// A message, if they are not there.
    pub fn find() -> Result<Self, String> {
        let [helm, kubectl] = PROGRAMS.map(|(variable, name)| {
            let path = env::var_os(variable)
                .map(PathBuf::from)
                .or_else(|| of_xtask(name));
            path.filter(|path| path.is_file())
                .ok_or_else(|| format!("no {name}: `cargo xtask manifests` gets it, or set {variable}"))
        });
        Ok(Self {
            helm: helm?,
            kubectl: kubectl?,
        })
    }

    /// Returns the command helm, to be given arguments.
    pub fn helm(&self) -> Command {
        command(&self.helm)
    }

    /// Renders the chart, hooks included, with values as YAML.
    ///
    /// # Errors
    /// Helm's message, if it refuses the values.
    pub fn render(&self, values: &str) -> Result<Rendering> {
        let mut helm = self.helm();
        helm.args(["template", "netpol", "--namespace", NAMESPACE, "--values"]);
        let file = tempfile::NamedTempFile::new()?;
        fs::write(file.path(), values)?;
        helm.arg(file.path()).arg(chart());
        Rendering::read(&output(&mut helm)?)
    }

    /// Builds an overlay of the kustomization.
    ///
    /// # Errors
    /// kubectl's message, if it refuses it.
    pub fn kustomize(&self, folder: &str) -> Result<Rendering> {
        let mut kubectl = command(&self.kubectl);
        let folder = deploy().join("kustomize").join(folder);
        Rendering::read(&output(kubectl.arg("kustomize").arg(folder))?)
    }
}

/// Objects that are made of the chart or the kustomization.
#[derive(Debug, Clone)]
pub struct Rendering {
    /// What is installed.
    pub installed: Deployment,
    /// What Helm makes at other times: objects with the annotation `helm.sh/hook`.
    pub hooks: Deployment,
}

impl Rendering {
    fn read(text: &str) -> Result<Self> {
        let objects: Vec<Value> = serde_saphyr::from_multiple(text).context("parsing a rendering")?;
        let is_hook = |object: &Value| object["metadata"]["annotations"]["helm.sh/hook"].is_string();
        let (hooks, installed) = objects.into_iter().partition(is_hook);
        Ok(Self {
            installed: Deployment { objects: installed },
            hooks: Deployment { objects: hooks },
        })
    }

    /// Returns all objects.
    pub fn objects(&self) -> impl Iterator<Item = &Value> {
        self.installed.objects.iter().chain(&self.hooks.objects)
    }

    /// Returns the spec of each pod that an object makes.
    pub fn pods(&self) -> impl Iterator<Item = &Value> {
        self.objects()
            .filter_map(|object| object.pointer("/spec/template/spec"))
    }
}

/// Returns the containers of a pod, init containers first.
pub fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    let of = |field: &str| pod[field].as_array().into_iter().flatten();
    of("initContainers").chain(of("containers"))
}

/// Returns the folder of the chart.
pub fn chart() -> PathBuf {
    deploy().join("helm/netpol")
}

/// Reads a file of the chart.
///
/// # Errors
/// If there is none.
pub fn file(name: &str) -> Result<String> {
    let path = chart().join(name);
    fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

/// Runs a command and returns what it prints.
///
/// # Errors
/// If it fails: what it says.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {}", command.get_program().display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", said.trim_end());
    Ok(String::from_utf8(output.stdout)?)
}

/// A command that finds no settings of the user who runs the tests.
fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    let none = env::temp_dir().join("netpol-no-home");
    command.env("HOME", none).env_remove("KUBECONFIG");
    command
}

/// Returns the folder of manifests.
pub fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// The program in the newest folder of `TARGET/kube-tools`.
fn of_xtask(name: &str) -> Option<PathBuf> {
    let program = env::current_exe().ok()?;
    let folder = program
        .ancestors()
        .map(|folder| folder.join("kube-tools"))
        .find(|path| path.is_dir())?;
    let versions = fs::read_dir(folder).ok()?.filter_map(Result::ok);
    versions
        .map(|version| version.path().join(name))
        .filter(|path| path.is_file())
        .max()
}
