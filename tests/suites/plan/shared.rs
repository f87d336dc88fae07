// SPDX-License-Identifier: Apache-2.0
//! Endpoints that stop sharing a policy number (rule B4).

use netpol_agent::{
    model::{Direction, Snapshot},
    sync::apply,
};
use netpol_tests::{
    kernel::{Probe, passes},
    objects::snapshot,
    random::nodes,
};
use serde_json::{Value, json};

use super::{Bench, meanwhile::Recorder};

/// Makes two pods on the bench's node that give one port name different numbers, a peer on the
/// other node, and a policy for both with these rules.
fn two_pods(ingress: Value) -> Snapshot {
    let pod = |name: &str, node: usize, address: &str, label: &str, number: u16| {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "ns", "name": name, "labels": {"app": label}},
            "spec": {"nodeName": nodes()[node].name, "containers": [
                {"name": "c", "ports": [{"name": "http", "containerPort": number}]}]},
            "status": {"podIP": address, "podIPs": [{"ip": address}]}})
    };
    let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "ns", "name": "p"},
        "spec": {"podSelector": {"matchLabels": {"app": "own"}}, "ingress": ingress}});
    let objects = [
        pod("pod-1", 0, "10.244.0.9", "own", 80),
        pod("pod-2", 0, "10.244.0.10", "own", 8080),
        pod("pod-3", 1, "10.244.1.11", "peer", 80),
        policy,
    ];
    snapshot(&objects).expect("the objects are right")
}

#[test]
fn b4_what_one_endpoint_will_allow_is_not_open_at_another_on_the_way() {
    let mut bench = Bench::new(true);
    let (_, first) = bench.plan(&two_pods(json!([])));
    bench.apply(first);
    let policy = |ifindex: u32, bench: &Bench| bench.state.endpoints[&ifindex].ingress_policy;
    assert_eq!(policy(101, &bench), policy(102, &bench), "they share a number");
    let peer = json!({"podSelector": {"matchLabels": {"app": "peer"}}});
    let (_, plan) = bench.plan(&two_pods(json!([{"from": [peer], "ports": [{"port": "http"}]}])));
    let probe = |ifindex, port| Probe {
        ifindex,
        direction: Direction::Ingress,
        remote: "10.244.1.11".parse().expect("an address"),
        protocol: 6,
        port,
    };
    let mut recorder = Recorder::new(&bench.state);
    apply(plan, &mut bench.state, &mut bench.memory, &mut recorder);
    let never = [(101, 8080), (102, 80)].map(|(ifindex, port)| probe(ifindex, port));
    for (state, probe) in recorder
        .states
        .iter()
        .flat_map(|state| never.map(|probe| (state, probe)))
    {
        assert!(!passes(state, &probe), "{probe:?}");
    }
    // Nor is it to a program that read its endpoint before that left the number.
    let denied = [false; 2];
    let open = |during, probe: &Probe| recorder.third_verdict(during, probe, denied);
    for (stage, probe) in recorder
        .stages()
        .flat_map(|stage| never.map(|probe| (stage, probe)))
    {
        assert_eq!(open(stage, &probe), None, "{probe:?}");
    }
    let all = (0, recorder.last());
    assert!(
        never.iter().any(|probe| open(all, probe).is_some()),
        "no wait was needed"
    );
    assert!(passes(&bench.state, &probe(101, 80)) && passes(&bench.state, &probe(102, 8080)));
}
