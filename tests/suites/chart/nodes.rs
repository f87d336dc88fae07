// SPDX-License-Identifier: Apache-2.0
//! What renderings ask of a node is what is proven elsewhere, or here.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Instant,
};

use netpol_tests::{
    agent::{DEADLINE, Launch, inside},
    chart::{containers, output},
    deploy::{CAPABILITIES, HOST_PATHS, HostPath, host_paths, launch},
    lab::{DENY_ALL, Lab},
    privilege::binary,
    probe::Outcome,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use super::{
    shared::{arguments, pod, tools, tools_and_nodes},
    values::{AGENT, CLEANUP, renderings},
};

fn owned(paths: &[(&str, &str, bool)]) -> Vec<HostPath> {
    let owned = |&(path, kind, read_only): &(&str, &str, bool)| (path.to_owned(), kind.to_owned(), read_only);
    paths.iter().map(owned).collect()
}

/// The node's folders and the capabilities that a container may have, by its name.
fn allowed(name: &str, results: &str) -> (Vec<HostPath>, &'static [&'static str]) {
    match name {
        "netpol" => {
            let mut paths = owned(&HOST_PATHS);
            paths[1].0 = results.to_owned();
            paths.sort();
            (paths, &CAPABILITIES)
        }
        "cleanup" | "stay" => (owned(&HOST_PATHS[..1]), CLEANUP_CAPABILITIES),
        "mount-bpffs" => (owned(&[("/proc", "Directory", true)]), &[]),
        "wait" => (Vec::new(), &[]),
        other => panic!("container {other} is not known here"),
    }
}

/// What `netpol cleanup` runs with in
/// [`what_the_hook_runs_removes_all_with_what_it_is_given`].
const CLEANUP_CAPABILITIES: &[&str] = &["NET_ADMIN"];

#[test]
fn every_mount_and_capability_is_one_that_is_proven() {
    let Some(tools) = tools() else { return };
    for (values, rendering) in renderings(&tools) {
        let results = &pod(&rendering, AGENT)["volumes"][1]["hostPath"]["path"];
        for pod in rendering.pods() {
            assert_eq!(pod["hostNetwork"], true, "{values}");
            assert!(pod["hostPID"].is_null() && pod["hostIPC"].is_null(), "{values}");
            for container in containers(pod) {
                let name = container["name"].as_str().unwrap();
                let (paths, capabilities) = allowed(name, results.as_str().unwrap());
                assert_eq!(host_paths(pod, container).unwrap(), paths, "{values}: {name}");
                let security = &container["securityContext"];
                assert_eq!(security["readOnlyRootFilesystem"], true, "{values}: {name}");
                if name == "mount-bpffs" {
                    assert_eq!(values, "bpffs: {mount: true}");
                    assert_eq!(security["privileged"], true);
                    continue;
                }
                assert!(security["privileged"].is_null(), "{values}: {name}");
                assert_eq!(security["allowPrivilegeEscalation"], false, "{values}: {name}");
                let launch = launch(container, "node-a").unwrap();
                assert_eq!(launch.capabilities.unwrap(), capabilities, "{values}: {name}");
            }
        }
    }
}

/// A process with a mount namespace of its own, where bpffs is not mounted.
struct NodeWithoutBpffs(Child);

impl NodeWithoutBpffs {
    fn start() -> Self {
        let script = "umount --lazy /sys/fs/bpf && echo ready && exec sleep infinity";
        let mut child = Command::new("unshare")
            .args(["--mount", "--propagation=private", "sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }

    fn has_bpffs(&self) -> bool {
        has_bpffs(&self.0.id().to_string())
    }
}

impl Drop for NodeWithoutBpffs {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn has_bpffs(process: &str) -> bool {
    let mounts = fs::read_to_string(format!("/proc/{process}/mountinfo")).unwrap();
    mounts
        .lines()
        .any(|line| line.contains(" /sys/fs/bpf ") && line.contains(" - bpf "))
}

#[test]
fn bpffs_is_mounted_on_the_node_not_in_the_container() {
    let Some(tools) = tools_and_nodes() else { return };
    let rendering = tools.render("bpffs: {mount: true}").unwrap();
    let pod = pod(&rendering, AGENT);
    let container = &pod["initContainers"][0];
    assert_eq!(container["volumeMounts"][0]["mountPath"], "/node/proc");
    let node = NodeWithoutBpffs::start();
    assert!(!node.has_bpffs());
    let file = format!("--mount-namespace=/proc/{}/ns/mnt", node.0.id());
    let words: Vec<String> = arguments(container)
        .iter()
        .map(|word| word.replace("--mount-namespace=/node/proc/1/ns/mnt", &file))
        .collect();
    assert!(words.contains(&file), "{words:?}");
    // A second container, as this one, has mounts of its own.
    let run = || {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation=private"]);
        output(command.arg(binary().unwrap()).args(&words)).unwrap()
    };
    assert_eq!(run(), "mounted bpffs on /sys/fs/bpf\n");
    assert!(node.has_bpffs());
    assert_eq!(run(), "bpffs is mounted on /sys/fs/bpf already\n");
}

#[test]
fn what_the_hook_runs_removes_all_with_what_it_is_given() {
    let Some(tools) = tools_and_nodes() else { return };
    let rendering = tools.render("{}").unwrap();
    let container = &pod(&rendering, CLEANUP)["initContainers"][0];
    let pods = [("shop/a", "app: a"), ("shop/b", "app: b")];
    let mut lab = Lab::new(&pods, &[("deny.yaml", DENY_ALL)]).unwrap();
    for attach in ["tcx", "clsact"] {
        lab.agent.stop().unwrap();
        lab.agent.set_argument("--attach", attach);
        lab.agent.restart().unwrap();
        lab.expect("shop/b", "shop/a", &Outcome::Silent);
        let mut cleanup = launch(container, "node-a").unwrap();
        cleanup
            .arguments
            .extend(["--pin-path".into(), lab.agent.pin_path().into()]);
        let run = |launch: &Launch| {
            let mut command = launch.command(&binary().unwrap());
            output(inside(&mut command, lab.node.netns()))
        };
        let beside_an_agent = format!("{:#}", run(&cleanup).unwrap_err());
        assert!(
            beside_an_agent.contains("another netpol process works on"),
            "{beside_an_agent}"
        );
        lab.agent.stop().unwrap();
        if attach == "clsact" {
            let mut less = cleanup.clone();
            less.capabilities = Some(Vec::new());
            run(&less).unwrap_err();
        }
        let said = run(&cleanup).unwrap();
        assert!(
            said.contains("removed the programs of 3 interfaces"),
            "{attach}: {said}"
        );
        assert!(!lab.agent.pin_path().exists(), "{attach}");
        lab.expect("shop/b", "shop/a", &Outcome::Reached);
        lab.agent.restart().unwrap();
    }
}

#[test]
fn what_stays_after_the_cleanup_ends_when_it_is_asked_to() {
    let Some(tools) = tools_and_nodes() else { return };
    let rendering = tools
        .render("agent: {pinPath: /sys/fs/bpf/netpol-test-none}")
        .unwrap();
    let stay = launch(&pod(&rendering, CLEANUP)["containers"][0], "node-a").unwrap();
    let mut command = stay.command(&binary().unwrap());
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(
        line,
        "nothing to remove: /sys/fs/bpf/netpol-test-none does not exist\n"
    );
    let until = Instant::now() + DEADLINE;
    let waits_in = format!("/proc/{}/wchan", child.id());
    while !fs::read_to_string(&waits_in).unwrap().contains("sigtimedwait") {
        assert!(child.try_wait().unwrap().is_none(), "it does not stay");
        assert!(Instant::now() < until, "it waits for no signal");
    }
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    // It ends by itself: the kernel sends process 1 of a container no signal that it does not take.
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_node_is_cleaned_when_its_agent_is_gone_whatever_its_taints() {
    let Some(tools) = tools() else { return };
    let rendering = tools
        .render("{tolerations: [], priorityClassName: null}")
        .unwrap();
    let (agent, cleanup) = (
        super::shared::object(&rendering, AGENT).unwrap(),
        pod(&rendering, CLEANUP),
    );
    assert_eq!(cleanup["tolerations"], json!([{"operator": "Exists"}]));
    let apart: &Value =
        &cleanup["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    assert_eq!(
        *apart,
        json!([{
            "topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": agent["spec"]["template"]["metadata"]["labels"]},
        }])
    );
}
