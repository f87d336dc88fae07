// SPDX-License-Identifier: Apache-2.0
//! Rules with real packets: the agent on a node with pods, as in production. Each test names the rules that it proves.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use netpol_agent::datapath::links_folder;
use netpol_tests::{
    agent::inside,
    lab::{DENY_ALL, Lab, SERVICES},
    privilege::{self, can_enforce},
    probe::{Outcome, PATIENCE, Service},
};

const SUITE: &str = "namespaces";
const PODS: [(&str, &str); 3] = [("shop/a", "app: a"), ("shop/b", "app: b"), ("other/c", "app: c")];
const TCP: [Service; 1] = [SERVICES[0]];

/// A policy of namespace `shop` for pods with `app: a`, both directions isolated, with the given rules.
fn policy_of_a(rules: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{namespace: shop, name: a}}\nspec:\n  \
         podSelector: {{matchLabels: {{app: a}}}}\n  policyTypes: [Ingress, Egress]\n  {rules}\n"
    )
}

const TO_B: &str = "egress: [{to: [{podSelector: {matchLabels: {app: b}}}]}]";

fn lab(policies: &[(&str, &str)]) -> Option<Lab> {
    can_enforce(SUITE).then(|| Lab::new(&PODS, policies).unwrap())
}

#[test]
fn c1_replies_of_an_allowed_connection_pass_the_denied_direction() {
    let Some(lab) = lab(&[("a.yaml", &policy_of_a(TO_B))]) else {
        return;
    };
    lab.expect("shop/a", "shop/b", &Outcome::Reached);
    lab.expect("shop/b", "shop/a", &Outcome::Silent);
    lab.expect("shop/a", "other/c", &Outcome::Silent);
    lab.expect("outside", "shop/a", &Outcome::Silent);
    for probe in lab.probes("shop/a", "shop/b", &TCP).unwrap() {
        let mut open = lab.prober.converse(&probe).unwrap();
        for _ in 0..20 {
            assert_eq!(open.ask(PATIENCE), Outcome::Reached, "{probe}");
        }
    }
}

#[test]
fn a2_node_and_pod_reach_each_other_under_deny_all() {
    let Some(lab) = lab(&[("deny.yaml", DENY_ALL)]) else {
        return;
    };
    lab.expect("shop/b", "shop/a", &Outcome::Silent);
    lab.expect("node", "shop/a", &Outcome::Reached);
    lab.expect("shop/a", "node", &Outcome::Reached);
}

#[test]
fn a7_denial_is_silence_on_open_and_closed_ports() {
    let Some(lab) = lab(&[("deny.yaml", DENY_ALL)]) else {
        return;
    };
    lab.expect("shop/a", "outside", &Outcome::Silent);
    lab.expect("outside", "shop/a", &Outcome::Silent);
    let closed = [Service::Tcp(9), Service::Udp(9)];
    for (from, to, expected) in [
        ("other/c", "shop/a", Outcome::Silent),
        ("shop/a", "shop/b", Outcome::Silent),
        ("node", "shop/a", Outcome::Refused),
    ] {
        let probes = lab.probes(from, to, &closed).unwrap();
        for (probe, outcome) in probes.iter().zip(lab.prober.probe(&probes).unwrap()) {
            assert_eq!(outcome, expected, "{probe}");
        }
    }
}

#[test]
fn f1_neighbours_are_resolved_under_deny_all() {
    let Some(lab) = lab(&[("deny.yaml", DENY_ALL)]) else {
        return;
    };
    for (from, to) in [("node", "shop/a"), ("shop/a", "node")] {
        lab.node.netns().ip("neigh flush dev cni0\n").unwrap();
        lab.node
            .pod("shop/a")
            .unwrap()
            .netns
            .ip("neigh flush dev eth0\n")
            .unwrap();
        lab.expect(from, to, &Outcome::Reached);
    }
}

#[test]
fn p7_a_label_flips_the_verdict() {
    let Some(mut lab) = lab(&[("a.yaml", &policy_of_a(TO_B))]) else {
        return;
    };
    lab.expect("shop/a", "shop/b", &Outcome::Reached);
    lab.label("shop/b", "app: z").unwrap();
    lab.expect("shop/a", "shop/b", &Outcome::Silent);
    lab.label("shop/b", "app: b").unwrap();
    lab.expect("shop/a", "shop/b", &Outcome::Reached);
    lab.expect("shop/b", "other/c", &Outcome::Reached);
    lab.label("shop/b", "app: a").unwrap();
    lab.expect("shop/b", "other/c", &Outcome::Silent);
}

#[test]
fn b3_enforcement_outlives_the_agent() {
    let Some(mut lab) = lab(&[("a.yaml", &policy_of_a(TO_B))]) else {
        return;
    };
    lab.agent.kill().unwrap();
    lab.expect("shop/a", "shop/b", &Outcome::Reached);
    lab.expect("shop/b", "shop/a", &Outcome::Silent);
    lab.agent.restart().unwrap();
    lab.expect("shop/b", "shop/a", &Outcome::Silent);
    lab.agent.stop().unwrap();
    lab.expect("shop/a", "shop/b", &Outcome::Reached);
    lab.expect("shop/b", "shop/a", &Outcome::Silent);
}

#[test]
fn b3_an_open_connection_outlives_a_restart() {
    let Some(mut lab) = lab(&[("a.yaml", &policy_of_a(TO_B))]) else {
        return;
    };
    let probes = lab.probes("shop/a", "shop/b", &TCP).unwrap();
    let mut open: Vec<_> = probes
        .iter()
        .map(|probe| lab.prober.converse(probe).unwrap())
        .collect();
    let mut ask = |when: &str| {
        for open in &mut open {
            assert_eq!(open.ask(PATIENCE), Outcome::Reached, "{when}");
        }
    };
    ask("before");
    lab.agent.kill().unwrap();
    ask("after kill -9");
    lab.agent.restart().unwrap();
    ask("after the restart");
}

/// Pins that someone removes, and interfaces that programs cannot be attached to: what was enforced stays.
#[test]
fn b3_trouble_with_links_ends_no_enforcement() {
    let Some(mut lab) = lab(&[("deny.yaml", DENY_ALL)]) else {
        return;
    };
    lab.agent.stop().unwrap();
    lab.agent.set_argument("--resync", "1");
    lab.agent.set_argument("--log", "info,netpol_agent::app=debug");
    lab.agent.restart().unwrap();
    lab.expect("shop/a", "outside", &Outcome::Silent);
    let links = links_folder(lab.agent.pin_path());
    let pins: Vec<_> = fs::read_dir(&links)
        .unwrap()
        .map(|pin| pin.unwrap().path())
        .collect();
    for pin in &pins {
        fs::remove_file(pin).unwrap();
    }
    fs::remove_dir(&links).unwrap();
    let seen = lab.agent.log_length();
    lab.agent.wait_for_line(seen, "the maps were compared").unwrap();
    lab.expect("shop/a", "outside", &Outcome::Silent);
}

/// Programs that cannot be replaced by another agent's stay.
#[test]
fn b3_a_failed_attach_leaves_what_was_attached() {
    let Some(mut lab) = lab(&[]) else {
        return;
    };
    lab.agent.stop().unwrap();
    lab.agent.cleanup().unwrap();
    lab.manifests.write("deny.yaml", DENY_ALL).unwrap();
    lab.agent.set_argument("--attach", "clsact");
    lab.agent.restart().unwrap();
    lab.expect("shop/a", "outside", &Outcome::Silent);
    lab.agent.kill().unwrap();

    // A folder in the place of a pin: no TCX link can be pinned there.
    let links = links_folder(lab.agent.pin_path());
    let mut ip = Command::new("ip");
    let listed = inside(
        ip.args(["-o", "link", "show", "type", "veth", "master", "cni0"]),
        lab.node.netns(),
    )
    .output()
    .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let veths: Vec<u32> = listed
        .lines()
        .map(|line| line.split(':').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(veths.len(), PODS.len());
    for veth in &veths {
        fs::create_dir(links.join(format!("{veth}-from_pod"))).unwrap();
    }
    lab.agent.set_argument("--attach", "tcx");
    lab.agent.relaunch().unwrap();
    lab.agent.wait_for_line(0, "a write failed").unwrap();
    lab.agent.wait_for_line(0, "revision applied").unwrap();
    lab.expect("shop/a", "outside", &Outcome::Silent);
    for veth in &veths {
        fs::remove_dir(links.join(format!("{veth}-from_pod"))).unwrap();
    }
}

/// Two agents on the same pins would undo each other's work.
#[test]
fn b3_a_second_agent_on_the_same_pins_is_refused() {
    let Some(lab) = lab(&[("deny.yaml", DENY_ALL)]) else {
        return;
    };
    let mut second = Command::new(privilege::binary().unwrap());
    second
        .args(["agent", "--node-name", "node-a", "--source"])
        .arg(lab.manifests.path());
    second
        .arg("--pin-path")
        .arg(lab.agent.pin_path())
        .args(["--socket", "none"]);
    let output = inside(&mut second, lab.node.netns()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && error.contains("another netpol process"),
        "{error}"
    );
    lab.expect("shop/a", "outside", &Outcome::Silent);
}

#[test]
fn b3_cleanup_removes_everything_and_only_ours() {
    let Some(mut lab) = lab(&[("deny.yaml", DENY_ALL)]) else {
        return;
    };
    let pins = lab.agent.pin_path().to_owned();
    assert!(count(&pins) > 0, "nothing is pinned under {}", pins.display());
    let foreign = pins.with_file_name(format!("other-{}", std::process::id()));
    lab.expect("shop/b", "shop/a", &Outcome::Silent);
    lab.agent.stop().unwrap();
    fs::create_dir(&foreign).unwrap();
    let cleaned = lab.agent.cleanup();
    let survived = foreign.exists();
    let _ = fs::remove_dir(&foreign);
    cleaned.unwrap();
    assert!(survived, "cleanup removed a folder that is not its own");
    lab.expect("shop/b", "shop/a", &Outcome::Reached);
    lab.expect("outside", "shop/a", &Outcome::Reached);
}

#[test]
fn b4_an_edited_manifest_flips_a_cell_within_a_second() {
    let Some(lab) = lab(&[("a.yaml", &policy_of_a(TO_B))]) else {
        return;
    };
    let probes = lab.probes("shop/a", "shop/b", &TCP).unwrap();
    for (rules, expected) in [("egress: []", Outcome::Silent), (TO_B, Outcome::Reached)] {
        let start = Instant::now();
        lab.manifests.write("a.yaml", &policy_of_a(rules)).unwrap();
        let flipped = loop {
            let asked = start.elapsed();
            let outcomes = lab
                .prober
                .probe_once(&probes, Duration::from_millis(100))
                .unwrap();
            if outcomes.iter().all(|outcome| *outcome == expected) {
                break asked;
            }
            assert!(
                asked < Duration::from_secs(1),
                "not {expected:?} a second after the edit: {outcomes:?}"
            );
        };
        println!("edit to {expected:?}: {flipped:?}");
        assert!(
            flipped < Duration::from_secs(1),
            "{expected:?} only after {flipped:?}"
        );
        lab.expect("shop/a", "shop/b", &expected);
    }
}

#[test]
fn b1_a_broken_manifest_keeps_what_was_enforced() {
    let Some(lab) = lab(&[("a.yaml", &policy_of_a(TO_B))]) else {
        return;
    };
    let seen = lab.agent.log_length();
    lab.manifests
        .write(
            "a.yaml",
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: [\n",
        )
        .unwrap();
    lab.agent.wait_for_line(seen, "a.yaml").unwrap();
    lab.expect("shop/a", "shop/b", &Outcome::Reached);
    lab.expect("shop/b", "shop/a", &Outcome::Silent);
    lab.expect("shop/a", "other/c", &Outcome::Silent);
}

#[test]
fn i1_pods_that_come_and_go_are_enforced_and_forgotten() {
    let Some(mut lab) = lab(&[("deny.yaml", DENY_ALL)]) else {
        return;
    };
    let pins = count(lab.agent.pin_path());
    lab.add_pod("shop/late", "app: late").unwrap();
    lab.expect("other/c", "shop/late", &Outcome::Silent);
    lab.expect("shop/late", "outside", &Outcome::Silent);
    lab.expect("node", "shop/late", &Outcome::Reached);
    let more = count(lab.agent.pin_path());
    assert!(more >= pins, "{pins} pins, then {more}");
    lab.remove_pod("shop/late").unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    while count(lab.agent.pin_path()) > pins {
        assert!(Instant::now() < until, "pins of a pod that is gone stay");
        std::thread::yield_now();
    }
    lab.expect("other/c", "shop/a", &Outcome::Silent);
}

/// Number of files below a folder.
fn count(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    entries
        .filter_map(Result::ok)
        .map(|entry| {
            if entry.path().is_dir() {
                count(&entry.path())
            } else {
                1
            }
        })
        .sum()
}
