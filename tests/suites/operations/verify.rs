// SPDX-License-Identifier: Apache-2.0
//! `netpol verify`: that it finds enforcement and the lack of it, and leaves nothing behind, also
//! when it is killed.

use std::{
    process::{Child, Command, Output, Stdio},
    thread,
    time::Instant,
};

use netpol_tests::{
    agent::{DEADLINE, inside},
    lab::{DENY_ALL, Lab},
    privilege::{binary, can_enforce},
    probe::Outcome,
};
use nix::net::if_::if_nametoindex;
use serde_json::Value;

use super::shared::SUITE;

const PODS: [(&str, &str); 2] = [("shop/web", "app: web"), ("data/db", "app: db")];

fn lab() -> Lab {
    Lab::new(&PODS, &[("deny.yaml", DENY_ALL)]).unwrap()
}

fn start(lab: &Lab) -> Child {
    let mut command = Command::new(binary().unwrap());
    command.arg("verify").arg("--socket").arg(lab.agent.socket());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    inside(&mut command, lab.node.netns()).spawn().unwrap()
}

fn told(output: &Output) -> String {
    let parts = [&output.stdout, &output.stderr].map(|part| String::from_utf8_lossy(part).into_owned());
    parts.concat()
}

/// Returns the names of the scratch pods that the agent enforces on.
fn scratch_pods(lab: &Lab) -> Vec<String> {
    let mut command = Command::new(binary().unwrap());
    command
        .args(["status", "-o", "json", "--socket"])
        .arg(lab.agent.socket());
    let output = command.output().unwrap();
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    let pods = shown["pods"].as_array().unwrap().iter();
    let scratch = pods.filter(|pod| pod["namespace"] == "netpol:verify" && pod["state"] == "enforced");
    scratch
        .map(|pod| pod["name"].as_str().unwrap().to_owned())
        .collect()
}

fn wait_until(lab: &Lab, what: &str, is_so: impl Fn() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < until, "{what}\n{}", lab.agent.log());
        thread::yield_now();
    }
}

/// The ends of a self-test's interfaces on the node.
fn ends(child: &Child) -> [String; 2] {
    ["c", "s"].map(|end| format!("npv{}{end}", child.id()))
}

fn nothing_is_left(lab: &Lab, ends: &[String; 2]) {
    wait_until(lab, "the scratch pods stay", || scratch_pods(lab).is_empty());
    let gone = |end: &String| {
        let found = lab.node.netns().run(|| Ok(if_nametoindex(end.as_str()).is_ok()));
        !found.unwrap()
    };
    wait_until(lab, "the interfaces stay", || ends.iter().all(gone));
    lab.expect("data/db", "shop/web", &Outcome::Silent);
    lab.expect("outside", "data/db", &Outcome::Reached);
}

#[test]
fn b4_verify_says_that_a_node_enforces_and_leaves_nothing_behind() {
    if !can_enforce(SUITE) {
        return;
    }
    let lab = lab();
    let child = start(&lab);
    let ends = ends(&child);
    let output = child.wait_with_output().unwrap();
    let told = told(&output);
    assert_eq!(output.status.code(), Some(0), "{told}\n{}", lab.agent.log());
    assert!(told.ends_with("enforces\n"), "{told}");
    assert_eq!(told.matches("[+]").count(), 6, "{told}");
    nothing_is_left(&lab, &ends);
}

#[test]
fn b3_the_scratch_pods_go_with_a_client_that_is_killed() {
    if !can_enforce(SUITE) {
        return;
    }
    let lab = lab();
    let mut child = start(&lab);
    let ends = ends(&child);
    wait_until(&lab, "no scratch pods", || {
        scratch_pods(&lab) == ["client", "server"]
    });
    // There is one self-test at a time.
    let second = start(&lab).wait_with_output().unwrap();
    assert_eq!(second.status.code(), Some(2));
    assert!(
        told(&second).contains("another self-test runs"),
        "{}",
        told(&second)
    );
    child.kill().unwrap();
    child.wait().unwrap();
    nothing_is_left(&lab, &ends);
    // The next one is not in the way of the last.
    let output = start(&lab).wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
}

#[test]
fn verify_finds_that_nothing_is_enforced() {
    if !can_enforce(SUITE) {
        return;
    }
    let mut lab = lab();
    lab.agent.stop().unwrap();
    lab.agent.set_argument("--attach", "clsact");
    lab.agent.restart().unwrap();
    let mut child = start(&lab);
    let ends = ends(&child);
    wait_until(&lab, "no scratch pods", || {
        scratch_pods(&lab) == ["client", "server"]
    });
    // Someone takes the programs away, again and again.
    while child.try_wait().unwrap().is_none() {
        for end in &ends {
            let _ = lab
                .node
                .netns()
                .feed("tc", &["qdisc", "del", "dev", end, "clsact"], "");
        }
    }
    let output = child.wait_with_output().unwrap();
    let told = told(&output);
    assert_eq!(output.status.code(), Some(1), "{told}\n{}", lab.agent.log());
    assert!(
        told.contains("[-]IPv6 TCP 61003, denied by egress   : passes"),
        "{told}"
    );
    nothing_is_left(&lab, &ends);
}

#[test]
fn a8_verify_gives_way_to_whoever_has_its_addresses() {
    if !can_enforce(SUITE) {
        return;
    }
    let lab = lab();
    let service = "apiVersion: v1\nkind: Service\nmetadata: {namespace: shop, name: s}\n\
                   spec: {clusterIPs: [10.96.0.9], externalIPs: [192.0.2.242], ports: [{port: 80}]}\n";
    lab.apply("service.yaml", service).unwrap();
    let child = start(&lab);
    let ends = ends(&child);
    let output = child.wait_with_output().unwrap();
    let told = told(&output);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("Service shop/s has 192.0.2.242"), "{told}");
    nothing_is_left(&lab, &ends);
}
