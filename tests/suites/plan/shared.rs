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

/// A pod gives an address back that a Service has as an ExternalIP, in the middle of a block. The
/// address was allowed as the pod's, and is allowed as the Service's.
#[test]
fn b4_a_frontend_is_there_before_its_address_is_another() {
    let shared = "203.0.113.9";
    let pod = |name: &str, node: usize, address: &str| {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "ns", "name": name, "labels": {"app": name}},
            "spec": {"nodeName": nodes()[node].name, "containers": [{"name": "c"}]},
            "status": {"podIP": address, "podIPs": [{"ip": address}]}})
    };
    let to = |app: &str| json!({"to": [{"podSelector": {"matchLabels": {"app": app}}}]});
    let mut objects = vec![
        pod("pod-1", 0, "10.244.0.9"),
        pod("db", 1, "10.244.1.11"),
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": "ns", "name": "p"},
            "spec": {"podSelector": {"matchLabels": {"app": "pod-1"}}, "policyTypes": ["Egress"], "egress": [
                to("owner"), to("db"),
                {"to": [{"ipBlock": {"cidr": "203.0.113.9/32"}}], "ports": [{"port": 9999}]}]}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "ns", "name": "s"},
            "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "externalIPs": [shared],
                "ports": [{"port": 80}]}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"namespace": "ns", "name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
            "ports": [{"port": 80, "name": "", "protocol": "TCP"}],
            "endpoints": [{"addresses": ["10.244.1.11"], "conditions": {"ready": true}}]}),
    ];
    let after = snapshot(&objects).expect("the objects are right");
    objects.push(pod("owner", 1, shared));
    let before = snapshot(&objects).expect("the objects are right");
    let mut bench = Bench::new(true);
    let (_, first) = bench.plan(&before);
    bench.apply(first);
    let probe = Probe {
        ifindex: 101,
        direction: Direction::Egress,
        remote: shared.parse().expect("an address"),
        protocol: 6,
        port: 80,
    };
    assert!(passes(&bench.state, &probe), "as the pod's");
    let (_, plan) = bench.plan(&after);
    let mut state = bench.state.clone();
    for write in plan.writes() {
        state.record(write);
        assert!(passes(&state, &probe), "after {write:?}");
    }
    assert!(!state.frontends.is_empty());
}
