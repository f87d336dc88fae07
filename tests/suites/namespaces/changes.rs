// SPDX-License-Identifier: Apache-2.0
//! Labels, policies and pods change while the agent runs.

use std::time::{Duration, Instant, SystemTime};

use netpol_tests::{lab::DENY_ALL, probe::Outcome};

use crate::shared::{TCP, TO_B, count, lab, policy_of_a};

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

#[test]
fn a_change_tells_how_long_it_took_to_the_kernel() {
    let Some(lab) = lab(&[("a.yaml", &policy_of_a(TO_B))]) else {
        return;
    };
    let (seen, revision) = (lab.agent.log_length(), lab.agent.revision());
    let before = SystemTime::now();
    lab.manifests.write("a.yaml", &policy_of_a("egress: []")).unwrap();
    let applied = lab
        .agent
        .wait_for_applied(seen, revision, Duration::from_secs(20))
        .unwrap();
    assert!(applied.writes > 0, "{applied:?}");
    let took = applied.at.duration_since(before).unwrap();
    let delay = applied.delay.unwrap();
    assert!(delay > Duration::ZERO && delay < took, "{delay:?} of {took:?}");
    // The old policy's entries are removed once no program needs them. That is no delay.
    let waited = applied.waited;
    assert!(
        waited > Duration::ZERO && delay + waited < took,
        "{delay:?} and {waited:?} of {took:?}"
    );
}
