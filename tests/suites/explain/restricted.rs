// SPDX-License-Identifier: Apache-2.0
//! A Service with too many backends to restrict is explained as the answering agent closes it (rule
//! L2).

use netpol_agent::{
    explain::{Held, Request, Standing, World, explain, known_nodes},
    model::{Frontend, ObjectKey},
    watch::directory::decode,
};

/// A Service with two backends outside; `shop/web` may reach the first, `shop/db` both.
const OBJECTS: &str = "
apiVersion: v1
kind: Node
metadata: {name: a}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {app: web}}
spec: {nodeName: a, containers: [{name: main}]}
status: {phase: Running, podIPs: [{ip: 10.244.0.10}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: db, labels: {app: db}}
spec: {nodeName: a, containers: [{name: main}]}
status: {phase: Running, podIPs: [{ip: 10.244.0.11}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: web}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 192.0.2.1/32}}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: db}
spec: {podSelector: {matchLabels: {app: db}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 192.0.2.0/24}}]}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: far, name: many}
spec: {clusterIP: 10.96.0.9, clusterIPs: [10.96.0.9], type: NodePort, ports: [{port: 80, nodePort: 30080, protocol: TCP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: far, name: many, labels: {kubernetes.io/service-name: many}}
addressType: IPv4
ports: [{port: 80, protocol: TCP}]
endpoints: [{addresses: [192.0.2.1]}, {addresses: [192.0.2.2]}]
";

#[test]
fn l2_a_closed_service_is_explained_as_closed_to_whom_it_would_be_open_in_part() {
    let snapshot = decode("all.yaml", OBJECTS.as_bytes()).unwrap();
    let nodes = known_nodes(&snapshot, &[], None);
    let frontend = |address: &str, port| Frontend {
        address: address.parse().unwrap(),
        protocol: 6,
        port,
    };
    let answer = |node: &str, closed: Option<Frontend>, query: &str| {
        let held = Held {
            node: node.to_owned(),
            pods: ["web", "db"]
                .map(|name| (ObjectKey::new("shop", name), Standing::Enforced))
                .into(),
            closed: closed.into_iter().map(|frontend| (frontend, ())).collect(),
            ..Held::default()
        };
        let world = World {
            snapshot: &snapshot,
            nodes: &nodes,
            held: Some(&held),
        };
        let answer = explain(world, &Request::from_query(query).unwrap()).unwrap();
        let sides = answer.verdicts.iter().map(|verdict| &verdict.egress);
        sides
            .map(|egress| (egress.allowed, egress.reason.clone()))
            .collect::<Vec<_>>()
    };
    let part = [(true, "allowed-by-rule"), (false, "no-rule-matches")];
    let closed = [(false, "over-budget"); 2];
    let all = [(true, "allowed-by-rule"); 2];
    let (service, port) = (frontend("10.96.0.9", 80), frontend("0.0.0.0", 30_080));
    // Columns: node of the agent, what it has closed, the question; egress verdict by backend.
    for (node, held, query, expected) in [
        ("a", None, "src=shop/web&dst=far/many&port=80/TCP", part),
        (
            "a",
            Some(service),
            "src=shop/web&dst=far/many&port=80/TCP",
            closed,
        ),
        ("a", Some(service), "src=shop/db&dst=far/many&port=80/TCP", all),
        ("a", Some(port), "src=shop/web&dst=far/many&port=80/TCP", part),
        (
            "a",
            Some(port),
            "src=shop/web&dst=192.168.0.1&port=30080/TCP",
            closed,
        ),
        // Another node's agent does not know.
        ("b", Some(service), "src=shop/web&dst=far/many&port=80/TCP", part),
    ] {
        let found = answer(node, held, query);
        let found: Vec<_> = found
            .iter()
            .map(|(allowed, reason)| (*allowed, reason.as_str()))
            .collect();
        assert_eq!(found, expected, "{node}, {held:?}, {query}");
    }
}
