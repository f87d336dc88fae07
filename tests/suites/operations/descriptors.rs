// SPDX-License-Identifier: Apache-2.0
//! An agent that runs out of descriptors, or whose clients want all of them.

use std::{fs, process::Command, time::Instant};

use netpol_tests::{
    agent::DEADLINE,
    lab::{DENY_ALL, Lab, SERVICES},
    privilege::can_enforce,
    probe::{
        Outcome::{Reached, Silent},
        PATIENCE,
    },
};

use super::shared::{LISTEN, SUITE, ask, connect, descriptors, launch, node};

const PODS: [(&str, &str); 2] = [("shop/a", "app: a"), ("other/b", "app: b")];

/// Limits the descriptors that a process may open.
fn limit(pid: u32, count: usize) {
    let mut prlimit = Command::new("prlimit");
    prlimit.args(["--pid", &pid.to_string(), &format!("--nofile={count}:")]);
    assert!(prlimit.status().unwrap().success());
}

/// Leaves a process no further descriptor: the lowest free number becomes the limit. Its reserve
/// for clients is below that.
fn leave_none(pid: u32) {
    let folder = format!("/proc/{pid}/fd");
    let free = (0..).find(|number| fs::symlink_metadata(format!("{folder}/{number}")).is_err());
    limit(pid, free.unwrap());
}

#[test]
fn clients_get_no_more_than_their_share_and_others_are_answered() {
    if !can_enforce(SUITE) {
        return;
    }
    let (node, manifests) = node();
    let agent = launch(&node, &manifests);
    agent.wait_for_revision_after(0).unwrap();
    let pid = agent.pid().unwrap();
    let before = descriptors(pid);
    let mut held = Vec::new();
    for _ in 0..300 {
        held.push(connect(node.netns()).unwrap());
    }
    for path in ["/healthz", "/readyz", "/metrics"] {
        let answer = ask(node.netns(), path).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
    }
    let taken = descriptors(pid) - before;
    assert!(taken <= 64, "{taken} connections of {} are open", held.len());
}

#[test]
fn l1_a_lack_of_descriptors_is_named_and_what_it_kept_away_is_made_good() {
    if !can_enforce(SUITE) {
        return;
    }
    let mut lab = Lab::new(&PODS, &[("deny.yaml", DENY_ALL)]).unwrap();
    lab.agent.stop().unwrap();
    lab.agent.set_argument("--listen", LISTEN);
    lab.agent.restart().unwrap();
    lab.expect("other/b", "shop/a", &Silent);

    let pid = lab.agent.pid().unwrap();
    leave_none(pid);
    let seen = lab.agent.log_length();
    lab.offer_pod("shop/c", "app: c").unwrap();
    let line = lab.agent.wait_for_line(seen, "Too many open files").unwrap();
    assert!(line.contains("ERROR"), "{line}");
    // Enforcement continues, and the agent answers, by its reserve.
    lab.expect("other/b", "shop/a", &Silent);
    for path in ["/healthz", "/readyz", "/metrics"] {
        let answer = ask(lab.node.netns(), path).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
    }

    limit(pid, 1024);
    // Nothing else happens: it tries again by itself.
    let probes = lab.probes("other/b", "shop/c", &SERVICES).unwrap();
    let until = Instant::now() + DEADLINE;
    let all_silent = |outcomes: Vec<_>| outcomes.iter().all(|outcome| *outcome == Silent);
    while !all_silent(lab.prober.probe_once(&probes, PATIENCE).unwrap()) {
        assert!(Instant::now() < until, "{}", lab.agent.log());
    }
    lab.expect("other/b", "shop/c", &Silent);
    lab.expect("other/b", "shop/a", &Silent);
    lab.expect("node", "shop/c", &Reached);
}
