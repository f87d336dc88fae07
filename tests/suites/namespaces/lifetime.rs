// SPDX-License-Identifier: Apache-2.0
//! The agent stops, crashes, restarts, meets another agent or problems with its pins, and is
//! cleaned up.

use std::{fs, path::PathBuf, process::Command};

use netpol_agent::datapath::links_folder;
use netpol_tests::{
    agent::{Agent, inside},
    lab::DENY_ALL,
    privilege,
    probe::{Outcome, PATIENCE},
};

use crate::shared::{PODS, TCP, TO_B, count, lab, policy_of_a};

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

/// Someone removes pins, or programs cannot be attached to an interface: what was enforced stays.
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

/// Programs that another agent cannot replace stay.
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

    // A folder in place of a pin: no TCX link can be pinned there.
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

/// Packets would have to be allowed by both. What an agent left that does not run any more is told.
#[test]
fn b3_a_second_agent_with_other_pins_says_so_and_leaves() {
    let Some(mut lab) = lab(&[("deny.yaml", DENY_ALL)]) else {
        return;
    };
    let others = PathBuf::from(format!("{}-others", lab.agent.pin_path().display()));
    let mut second = Command::new(privilege::binary().unwrap());
    second
        .args(["agent", "--node-name", "node-a", "--socket", "none", "--source"])
        .arg(lab.manifests.path())
        .arg("--pin-path")
        .arg(&others);
    let output = inside(&mut second, lab.node.netns()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    let first = lab.agent.pin_path().display().to_string();
    assert!(
        !output.status.success() && error.contains("another netpol agent") && error.contains(&first),
        "{error}"
    );
    assert!(!others.exists(), "it left its pins");
    lab.expect("shop/a", "outside", &Outcome::Silent);

    const GONE: &str = "an agent that no longer runs left pins here";
    lab.agent.stop().unwrap();
    let second = Agent::start_at(&lab.node, lab.manifests.path(), &others).unwrap();
    let log = second.log();
    assert!(log.contains(GONE) && log.contains(&first), "{log}");
    drop(second);
    let seen = lab.agent.log_length();
    lab.agent.restart().unwrap();
    let log = lab.agent.log_since(seen);
    assert!(!log.contains(GONE), "{log}");
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
