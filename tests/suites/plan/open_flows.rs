// SPDX-License-Identifier: Apache-2.0
//! Single changes that old flows must not survive (rule C2).

use netpol_agent::{
    model::{Direction, Snapshot},
    sync::{Memory, Write},
};
use netpol_tests::{
    kernel::{Probe, passes},
    objects::snapshot,
    random::nodes,
};
use serde_json::json;

use super::{Bench, cut_off, judged_under};

/// Makes a pod on the bench's node that a policy isolates for ingress, a peer on the other node,
/// and the policy's only rule.
fn one_rule(rule: serde_json::Value, label_of_peer: &str) -> Snapshot {
    let pod = |name: &str, node: &str, address: &str, label: &str| {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "ns", "name": name, "labels": {"app": label}},
            "spec": {"nodeName": node, "containers": [{"name": "c"}]},
            "status": {"podIP": address, "podIPs": [{"ip": address}]}})
    };
    let [own, other] = [0, 1].map(|index| nodes()[index].name.clone());
    let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "ns", "name": "p"},
        "spec": {"podSelector": {"matchLabels": {"app": "own"}}, "ingress": [{"from": [rule]}]}});
    let objects = [
        pod("pod-1", &own, "10.244.0.9", "own"),
        pod("pod-2", &other, "10.244.1.10", label_of_peer),
        policy,
    ];
    snapshot(&objects).expect("the objects are right")
}

/// Returns the verdict on TCP 80 from an address before and after a change, and whether an old flow
/// still counts as judged.
fn flow_after(
    before: &Snapshot,
    after: &Snapshot,
    remote: &str,
    is_last: impl Fn(&Write) -> bool,
) -> (bool, bool, bool) {
    let mut bench = Bench::new(true);
    let (_, first) = bench.plan(before);
    bench.apply(first);
    let probe = Probe {
        ifindex: 101,
        direction: Direction::Ingress,
        remote: remote.parse().expect("an address"),
        protocol: 6,
        port: 80,
    };
    let (passed, under) = (passes(&bench.state, &probe), judged_under(&bench.state, &probe));
    let (_, mut plan) = bench.plan(after);
    let last = plan.writes().position(is_last);
    if let Some(last) = last {
        cut_off(&mut plan, last + 1);
        bench.apply(plan);
        bench.memory = Memory::default();
        plan = bench.plan(after).1;
    }
    bench.apply(plan);
    (
        passed,
        passes(&bench.state, &probe),
        judged_under(&bench.state, &probe) == under,
    )
}

#[test]
fn c2_an_exception_in_a_prefix_in_use_counts_for_open_flows() {
    let block = |except: &[&str]| one_rule(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": except}}), "x");
    let uncut = |_: &Write| false;
    assert_eq!(
        flow_after(&block(&[]), &block(&["10.1.0.0/16"]), "10.1.0.1", uncut),
        (true, false, false)
    );
}

#[test]
fn c2_a_plan_that_ends_before_the_epoch_is_made_good() {
    let peer = |label| one_rule(json!({"podSelector": {"matchLabels": {"app": "peer"}}}), label);
    let after_the_identity = |write: &Write| matches!(write, Write::Identities(_));
    let (allowed, denied) = (peer("peer"), peer("other"));
    assert_eq!(
        flow_after(&allowed, &denied, "10.244.1.10", after_the_identity),
        (true, false, false)
    );
}
