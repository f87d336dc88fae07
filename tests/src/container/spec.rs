// SPDX-License-Identifier: Apache-2.0
//! Makes a container's runtime configuration (OCI runtime-spec) from the DaemonSet and the image,
//! as containerd does for a pod on the node's network.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use super::{Host, Image};
use crate::deploy::Deployment;

/// containerd's default seccomp profile.
const SECCOMP: &str = include_str!("../../container/seccomp.json");

/// The lowest limits that runtimes leave a container: locked memory is the kernel's default.
const LIMITS: [(&str, u64, u64); 2] = [("RLIMIT_MEMLOCK", 65_536, 65_536), ("RLIMIT_NOFILE", 1024, 4096)];

/// Inputs for a container that are not in the manifest.
pub struct Given<'a> {
    /// The manifest.
    pub deployment: &'a Deployment,
    /// The unpacked image.
    pub image: &'a Image,
    /// The node's folders.
    pub host: &'a Host,
    /// The node's name.
    pub node: &'a str,
    /// The file of the node's network namespace.
    pub netns: &'a Path,
    /// Environment that a kubelet sets in every pod: the API server's address.
    pub environment: &'a [(String, String)],
    /// Folder of the service account's token, if the pod has one.
    pub service_account: Option<&'a Path>,
    /// Folder with the `emptyDir` volumes, by name. They live as long as the pod.
    pub empty: &'a Path,
    /// Arguments instead of the manifest's.
    pub arguments: Option<&'a [&'a str]>,
}

/// Returns the configuration.
///
/// # Errors
/// If the manifest has something unsupported, or something the node lacks.
pub fn config(given: &Given<'_>) -> Result<Value> {
    let pod = given.deployment.pod()?;
    let container = given.deployment.container()?;
    let security = &container["securityContext"];
    ensure!(pod["hostNetwork"] == true, "the pod is not on the node's network");
    let only = |value: &Value, known: &[&str]| -> Result<()> {
        for key in value.as_object().into_iter().flat_map(Map::keys) {
            ensure!(known.contains(&key.as_str()), "{key} is not known here");
        }
        Ok(())
    };
    only(&pod["securityContext"], &["seccompProfile"])?;
    only(
        security,
        &[
            "runAsUser",
            "allowPrivilegeEscalation",
            "readOnlyRootFilesystem",
            "capabilities",
        ],
    )?;
    let profile = &pod["securityContext"]["seccompProfile"];
    ensure!(
        *profile == json!({"type": "RuntimeDefault"}),
        "seccomp profile {profile}"
    );
    let names: Vec<String> = serde_json::from_value(security["capabilities"]["add"].clone())?;
    let capabilities: Vec<String> = names.iter().map(|name| format!("CAP_{name}")).collect();

    let mut words: Vec<Value> = list(&given.image.config["Entrypoint"])?;
    ensure!(
        container["command"].is_null(),
        "the manifest replaces the image's entry point"
    );
    match given.arguments {
        Some(arguments) => words.extend(arguments.iter().map(|word| json!(word))),
        None => words.extend(list(&container["args"])?),
    }
    Ok(json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": security["runAsUser"], "gid": 0},
            "args": words,
            "env": environment(given, container)?,
            "cwd": "/",
            "rlimits": LIMITS.map(|(name, soft, hard)| json!({"type": name, "soft": soft, "hard": hard})),
            "noNewPrivileges": security["allowPrivilegeEscalation"] == false,
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        },
        "root": {"path": given.image.root, "readonly": security["readOnlyRootFilesystem"] == true},
        "mounts": mounts(given, pod, container)?,
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "ipc"}, {"type": "mount"},
                {"type": "network", "path": given.netns},
            ],
            "seccomp": seccomp(&names)?,
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"],
            "readonlyPaths": ["/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }))
}

fn environment(given: &Given<'_>, container: &Value) -> Result<Vec<String>> {
    let mut environment: Vec<String> = given
        .environment
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    for variable in container["env"].as_array().into_iter().flatten() {
        let name = variable["name"].as_str().context("a variable without a name")?;
        ensure!(
            variable["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName",
            "variable {name} has a source not known here"
        );
        environment.push(format!("{name}={}", given.node));
    }
    environment.push("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    Ok(environment)
}

fn mounts(given: &Given<'_>, pod: &Value, container: &Value) -> Result<Vec<Value>> {
    let of_kernel = |kind: &str, destination: &str, options: &[&str]| json!({"type": kind, "source": kind, "destination": destination, "options": options});
    let quiet = ["nosuid", "noexec", "nodev"];
    let mut mounts = vec![
        of_kernel("proc", "/proc", &quiet),
        of_kernel(
            "tmpfs",
            "/dev",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        of_kernel(
            "devpts",
            "/dev/pts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        of_kernel(
            "tmpfs",
            "/dev/shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        of_kernel("mqueue", "/dev/mqueue", &quiet),
        of_kernel("sysfs", "/sys", &["nosuid", "noexec", "nodev", "ro"]),
    ];
    let bind = |source: &Path, destination: &Value, options: &[&str]| {
        let options = [&["rbind"], options].concat();
        json!({"type": "bind", "source": source, "destination": destination, "options": options})
    };
    if let Some(folder) = given.service_account {
        let destination = json!("/var/run/secrets/kubernetes.io/serviceaccount");
        mounts.push(bind(folder, &destination, &["rprivate", "ro"]));
    }
    for mount in list(&container["volumeMounts"])? {
        let volumes = list(&pod["volumes"])?;
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]);
        let volume = volume.with_context(|| format!("no volume {}", mount["name"]))?;
        let source = if volume["emptyDir"].is_null() {
            given.host.volume(&volume["hostPath"])?
        } else {
            let folder = given.empty.join(mount["name"].as_str().unwrap_or_default());
            std::fs::create_dir_all(&folder)?;
            folder
        };
        let propagation = match mount["mountPropagation"].as_str() {
            None | Some("None") => "rprivate",
            Some("HostToContainer") => {
                let shared = Host::is_shared(&source)?;
                ensure!(
                    shared,
                    "path {} is mounted but it is not a shared or slave mount",
                    source.display()
                );
                "rslave"
            }
            Some(other) => bail!("mount propagation {other} is not known here"),
        };
        let access = if mount["readOnly"] == true { "ro" } else { "rw" };
        mounts.push(bind(&source, &mount["mountPath"], &[propagation, access]));
    }
    Ok(mounts)
}

fn seccomp(capabilities: &[String]) -> Result<Value> {
    let profile: Value = serde_json::from_str(SECCOMP)?;
    let mut calls = list(&profile["syscalls"])?;
    for capability in capabilities {
        calls.extend(
            profile["withCapability"][capability]
                .as_array()
                .into_iter()
                .flatten()
                .cloned(),
        );
    }
    let architectures = match std::env::consts::ARCH {
        "x86_64" => ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"].as_slice(),
        "aarch64" => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        other => bail!("no seccomp profile for {other}"),
    };
    Ok(json!({
        "defaultAction": profile["defaultAction"],
        "architectures": architectures,
        "syscalls": calls,
    }))
}

fn list(value: &Value) -> Result<Vec<Value>> {
    value
        .as_array()
        .cloned()
        .with_context(|| format!("{value} is no list"))
}
