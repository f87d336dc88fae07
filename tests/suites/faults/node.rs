// SPDX-License-Identifier: Apache-2.0
//! Faults of the node: someone flushes maps, removes pins, replaces the bridge.

use std::{fs, path::Path, process::Command};

use netpol_agent::datapath::{OBSERVED_MAPS, PINNED_MAPS, pin};
use netpol_tests::{
    agent::inside,
    flush::flush,
    lab::Lab,
    node::{Node, Plan, member},
    privilege::can_enforce,
    probe::Outcome::{Reached, Silent},
};

const SUITE: &str = "faults";
const PODS: [(&str, &str); 3] = [("shop/a", "app: a"), ("shop/b", "app: b"), ("other/c", "app: c")];

/// Only pod b reaches pod a, by label, and pod b opens connections to pod a only.
const POLICIES: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: a}
spec:
  podSelector: {matchLabels: {app: a}}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {matchLabels: {app: b}}}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: b}
spec:
  podSelector: {matchLabels: {app: b}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {app: a}}}]}]
";

fn lab() -> Option<Lab> {
    can_enforce(SUITE).then(|| {
        let mut lab = Lab::new(&PODS, &[("policies.yaml", POLICIES)]).unwrap();
        lab.agent.stop().unwrap();
        lab.agent.set_argument("--resync", "1");
        lab.agent.set_argument("--log", "info,netpol_agent::app=debug");
        lab.agent.restart().unwrap();
        lab
    })
}

/// What is denied is denied, and what is allowed is allowed.
#[track_caller]
fn is_enforced(lab: &Lab) {
    lab.expect("shop/b", "shop/a", &Reached);
    is_denied(lab);
    lab.expect("shop/a", "other/c", &Reached);
}

#[track_caller]
fn is_denied(lab: &Lab) {
    lab.expect("other/c", "shop/a", &Silent);
    lab.expect("shop/b", "other/c", &Silent);
}

/// Waits until the agent has read back what the kernel holds, and repaired it.
fn wait_until_repaired(lab: &Lab) {
    for _ in 0..2 {
        let seen = lab.agent.log_length();
        lab.agent.wait_for_line(seen, "the maps were compared").unwrap();
    }
}

/// Entries that someone deletes are written again. Until then nothing is open that policy denies.
#[test]
fn b3_flushed_maps_open_nothing_and_are_written_again() {
    let Some(lab) = lab() else { return };
    is_enforced(&lab);
    for map in PINNED_MAPS {
        if OBSERVED_MAPS.contains(&map) {
            continue;
        }
        flush(&pin(lab.agent.pin_path(), map)).unwrap();
        is_denied(&lab);
        wait_until_repaired(&lab);
        lab.expect("shop/b", "shop/a", &Reached);
    }
    is_enforced(&lab);
}

/// The pins of maps are for those who come later: the agent and its programs hold the maps. An
/// agent that finds no pins makes maps of its own, and replaces the programs with ones that use
/// them.
#[test]
fn b3_removed_pins_of_maps_open_nothing() {
    let Some(mut lab) = lab() else { return };
    for map in PINNED_MAPS {
        fs::remove_file(pin(lab.agent.pin_path(), map)).unwrap();
    }
    is_enforced(&lab);
    lab.label("shop/b", "app: nobody").unwrap();
    lab.expect("shop/b", "shop/a", &Silent);
    lab.label("shop/b", "app: b").unwrap();
    wait_until_repaired(&lab);
    is_enforced(&lab);
    lab.agent.kill().unwrap();
    is_enforced(&lab);
    lab.agent.restart().unwrap();
    is_enforced(&lab);
    lab.agent.stop().unwrap();
    lab.agent.restart().unwrap();
    is_enforced(&lab);
}

/// The kernel has no room for a map: the agent says so and ends, and what it found goes on.
#[test]
fn b3_no_room_for_a_map_changes_nothing() {
    let Some(mut lab) = lab() else { return };
    lab.agent.stop().unwrap();
    // Some 300 GB. The kernel gives a map less than 4.
    lab.agent.set_argument("--flow-capacity", "2000000000");
    lab.agent.relaunch().unwrap();
    assert!(!lab.agent.wait_for_end().unwrap().success());
    let log = lab.agent.log();
    assert!(
        log.contains("no room for the maps") && log.contains("flows"),
        "{log}"
    );
    is_enforced(&lab);
    lab.agent.set_argument("--flow-capacity", "16384");
    lab.agent.restart().unwrap();
    is_enforced(&lab);
}

/// Someone removes the bridge, makes it again, and puts the pods' interfaces on it.
#[test]
fn b3_a_replaced_bridge_opens_nothing() {
    let Some(mut lab) = lab() else { return };
    let netns = lab.node.netns();
    let veths = PODS.map(|(pod, _)| lab.node.veth(pod).unwrap().to_owned());
    let mut lines = String::from("link del cni0\nlink add cni0 type bridge\n");
    for network in lab.node.plan().pod_networks() {
        let length = network.prefix_len();
        let gateway = member(network, 1).addr();
        lines += &format!("addr add {gateway}/{length} dev cni0 nodad\n");
    }
    for veth in &veths {
        lines += &format!("link set {veth} master cni0\n");
    }
    lines += "link set cni0 up\n";
    netns.ip(&lines).unwrap();
    is_denied(&lab);
    wait_until_repaired(&lab);
    is_enforced(&lab);
    lab.label("shop/b", "app: nobody").unwrap();
    lab.expect("shop/b", "shop/a", &Silent);
    lab.add_pod("other/d", "app: d").unwrap();
    lab.expect("other/d", "shop/a", &Silent);
}

/// A node with an interface of a CNI that enforces: the agent says so, once.
#[test]
fn another_cni_is_told_of_once() {
    let Some(lab) = lab() else { return };
    let seen = lab.agent.log_length();
    lab.node
        .netns()
        .ip("link add cilium_host type veth peer name cilium_net\n")
        .unwrap();
    let told = lab
        .agent
        .wait_for_line(seen, "interfaces of another CNI are here")
        .unwrap();
    assert!(told.contains(r#""cni":"Cilium""#), "{told}");
    lab.node
        .netns()
        .ip("link add cali0 type veth peer name cali1\n")
        .unwrap();
    let told = lab.agent.wait_for_line(seen, r#""cni":"Calico""#).unwrap();
    assert!(told.contains("another CNI"), "{told}");
    let log = lab.agent.log_since(seen);
    assert_eq!(log.matches("another CNI").count(), 2, "{log}");
}

/// Rules as kube-router's controller writes them, and one of somebody else.
const RULES: &str = "\
*filter
:KUBE-ROUTER-FORWARD - [0:0]
:KUBE-POD-FW-A - [0:0]
-A FORWARD -m comment --comment \"kube-router netpol\" -j KUBE-ROUTER-FORWARD
-A KUBE-ROUTER-FORWARD -m comment --comment \"rule to jump traffic\" -j KUBE-POD-FW-A
-A KUBE-POD-FW-A -j DROP
-A FORWARD -p tcp --dport 9999 -j DROP
COMMIT
";

/// What the guide for k3s says removes the rules that k3s's own controller left.
#[test]
fn rules_of_kube_router_go_as_the_guide_says() {
    if !can_enforce(SUITE) {
        return;
    }
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guides/k3s.md");
    let guide = fs::read_to_string(guide).unwrap();
    let lines: Vec<&str> = guide.lines().filter(|line| line.contains("-restore")).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    let node = Node::new(Plan::first("node-a")).unwrap();
    let run = |script: &str| {
        let mut shell = Command::new("sh");
        let output = inside(shell.args(["-ec", script]), node.netns())
            .output()
            .unwrap();
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    for family in ["ip", "ip6"] {
        run(&format!("{family}tables-restore --noflush <<'END'\n{RULES}END"));
        assert!(run(&format!("{family}tables-save")).contains("-j KUBE-ROUTER-FORWARD"));
    }
    for line in lines {
        run(line);
    }
    for family in ["ip", "ip6"] {
        let left = run(&format!("{family}tables-save"));
        assert!(!left.contains("KUBE-ROUTER"), "{left}");
        assert!(left.contains("--dport 9999 -j DROP"), "{left}");
    }
}
