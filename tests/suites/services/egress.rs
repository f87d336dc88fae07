// SPDX-License-Identifier: Apache-2.0
//! Egress policy and Services (rule A5): the backend and its port count, never the virtual address.

use netpol_tests::{
    probe::{Outcome, PATIENCE, Probe, Service},
    services::Frontend,
    two_nodes::Cluster,
};

use crate::{
    for_each_mode,
    shared::{egress, ingress, policy},
};

pub const TO_WEB: &str =
    "{to: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 8080}, {port: 5353, protocol: UDP}]}";
const NODES: [&str; 2] = ["node-a", "node-b"];

/// Returns probes of the virtual addresses of every kind.
fn virtual_ips(cluster: &Cluster, from: &str, service: &str, backend: &str) -> Vec<Probe> {
    Frontend::ALL
        .into_iter()
        .flat_map(|frontend| cluster.to_service(from, service, frontend, backend).unwrap())
        .collect()
}

/// Returns probes of the virtual addresses and the node ports of both nodes.
pub fn all_frontends(cluster: &Cluster, from: &str, service: &str, backend: &str) -> Vec<Probe> {
    let node_ports = NODES
        .into_iter()
        .flat_map(|node| cluster.to_node_port(from, service, node, backend).unwrap());
    let mut probes = virtual_ips(cluster, from, service, backend);
    probes.extend(node_ports);
    probes
}

/// Probes each address often, and asserts that only the `allowed` backends of the Service ever
/// answer, and the rest is silence. Behind another node's node port nobody answers: that node
/// chooses the backend after masquerading has hidden the sender, so a partial denial denies
/// everything.
#[track_caller]
pub fn only(cluster: &Cluster, from: &str, service: &str, allowed: &str) {
    let own = cluster.node_of(from).unwrap();
    let mut here = virtual_ips(cluster, from, service, allowed);
    let mut elsewhere = Vec::new();
    for node in NODES {
        let probes = cluster.to_node_port(from, service, node, allowed).unwrap();
        if node == own { &mut here } else { &mut elsewhere }.extend(probes);
    }
    cluster.expect("the node ports of another node", &elsewhere, &Outcome::Silent);
    answered_by(cluster, &here, allowed);
}

/// Probes often, and asserts that the right site answers now and then, and nobody otherwise.
#[track_caller]
pub fn answered_by(cluster: &Cluster, probes: &[Probe], allowed: &str) {
    for (probe, found) in probes.iter().zip(cluster.repeated(probes, 24).unwrap()) {
        let count = |wanted: &Outcome| {
            let entry = found.iter().find(|(outcome, _)| outcome == wanted);
            entry.map_or(0, |(_, count)| *count)
        };
        let (reached, silent) = (count(&Outcome::Reached), count(&Outcome::Silent));
        assert!(
            reached > 0 && silent > 0 && reached + silent == 24,
            "{probe}: only {allowed} may answer, but {found:?}"
        );
    }
}

fn a5_deny_all_closes_every_frontend(cluster: &mut Cluster) {
    cluster.set_policies(&[egress("client", "")]).unwrap();
    let mut probes = Vec::new();
    for (service, backend) in [("near", "web-a"), ("distant", "web-b"), ("abroad", "outside")] {
        for from in ["client", "far"] {
            probes.extend(virtual_ips(cluster, from, service, backend));
        }
        // A pod's path to its own node is open (rule A2), but a node port there leads to another
        // pod.
        probes.extend(all_frontends(cluster, "client", service, backend));
    }
    cluster.expect("egress isolated", &probes, &Outcome::Silent);
    let others = all_frontends(cluster, "bad-a", "distant", "web-b");
    cluster.expect("a pod that is not isolated", &others, &Outcome::Reached);
}

/// A backend's answer has the virtual address again when it reaches the client. It is still an
/// answer.
fn c1_backends_that_may_send_nothing_answer(cluster: &mut Cluster) {
    for policies in [
        vec![egress("web", "")],
        vec![egress("web", ""), ingress("client", ""), ingress("bad", "")],
        vec![
            egress("web", ""),
            policy(
                "client",
                "Ingress, Egress",
                &format!("ingress: []\n  egress: [{TO_WEB}]"),
            ),
        ],
    ] {
        cluster.set_policies(&policies).unwrap();
        let mut probes = Vec::new();
        for from in ["client", "far", "bad-a"] {
            for (service, backend) in [("near", "web-a"), ("distant", "web-b")] {
                probes.extend(all_frontends(cluster, from, service, backend));
            }
        }
        cluster.expect("backends isolated for egress", &probes, &Outcome::Reached);
    }
}

fn a5_backends_and_target_ports_open_the_service_ports(cluster: &mut Cluster) {
    cluster.set_policies(&[egress("client", TO_WEB)]).unwrap();
    let mut open = Vec::new();
    let mut closed = Vec::new();
    for from in ["client", "far"] {
        for (service, backend) in [("near", "web-a"), ("distant", "web-b"), ("leaving", "web-a")] {
            open.extend(all_frontends(cluster, from, service, backend));
        }
        closed.extend(all_frontends(cluster, from, "abroad", "outside"));
    }
    cluster.expect("backends and target ports allowed", &open, &Outcome::Reached);
    cluster.expect("a backend that is not allowed", &closed, &Outcome::Silent);
}

fn a5_the_service_port_alone_opens_nothing(cluster: &mut Cluster) {
    let rule = "{ports: [{port: 80}, {port: 53, protocol: UDP}, {port: 30000, endPort: 31999}, \
                {port: 30000, endPort: 31999, protocol: UDP}]}";
    cluster.set_policies(&[egress("client", rule)]).unwrap();
    let mut probes = all_frontends(cluster, "client", "near", "web-a");
    probes.extend(all_frontends(cluster, "client", "distant", "web-b"));
    cluster.expect(
        "only ports that no backend has are allowed",
        &probes,
        &Outcome::Silent,
    );
}

fn a5_named_target_ports_are_the_backends_own(cluster: &mut Cluster) {
    let rule = "{to: [{podSelector: {}}], ports: [{port: 9090}]}";
    cluster.set_policies(&[egress("client", rule)]).unwrap();
    let by_tcp = |cluster: &Cluster| {
        let probes = cluster.to_service("client", "named", Frontend::ClusterIp, "web-b");
        let probes = probes.unwrap().into_iter();
        probes
            .filter(|probe| matches!(probe.service, Service::Tcp(_)))
            .collect::<Vec<_>>()
    };
    for found in cluster.repeated(&by_tcp(cluster), 24).unwrap() {
        assert!(
            found.len() == 2
                && found
                    .iter()
                    .all(|(outcome, _)| matches!(outcome, Outcome::Reached | Outcome::Silent)),
            "only web-b has 9090 behind the Service: {found:?}"
        );
    }
    let rule = "{to: [{podSelector: {}}], ports: [{port: http}]}";
    cluster.set_policies(&[egress("client", rule)]).unwrap();
    let answered = Outcome::Answered("web-a".to_owned());
    for found in cluster.repeated(&by_tcp(cluster), 24).unwrap() {
        assert!(
            found.len() == 2
                && found
                    .iter()
                    .all(|(outcome, _)| *outcome == Outcome::Reached || *outcome == answered),
            "each backend has its own port of that name: {found:?}"
        );
    }
}

fn a5_of_partial_backends_only_the_allowed_answer(cluster: &mut Cluster) {
    cluster.set_policies(&[egress("client", TO_WEB)]).unwrap();
    only(cluster, "client", "mixed-near", "web-a");
    only(cluster, "client", "mixed-distant", "web-b");
    only(cluster, "client", "across", "web-b");
    only(cluster, "far", "mixed-near", "web-a");
    only(cluster, "far", "mixed-distant", "web-b");
}

fn a5_p5_a_block_that_holds_the_service_range_opens_no_way_to_an_excepted_pod(cluster: &mut Cluster) {
    let all_pods = "{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.244.0.0/16]}}, \
                    {ipBlock: {cidr: \"::/0\", except: [\"fd00:10:244::/48\"]}}]}";
    cluster.set_policies(&[egress("client", all_pods)]).unwrap();
    let mut closed = Vec::new();
    for from in ["client", "far"] {
        closed.extend(all_frontends(cluster, from, "near", "web-a"));
        closed.extend(all_frontends(cluster, from, "distant", "web-b"));
    }
    cluster.expect("all pods excepted", &closed, &Outcome::Silent);
    let abroad = all_frontends(cluster, "client", "abroad", "outside");
    cluster.expect("a backend in the block", &abroad, &Outcome::Reached);

    // A large block that contains the Service range, with an exception around one pod on each node.
    let [web_a, web_b] = ["web-a", "web-b"].map(|pod| cluster.site(pod).unwrap().addresses);
    let around = format!(
        "{{to: [{{ipBlock: {{cidr: 0.0.0.0/4, except: [{}/32, {}/32]}}}}, {{ipBlock: {{cidr: \"fd00::/8\", except: [\"{}/128\", \
         \"{}/128\"]}}}}]}}",
        web_a[0], web_b[0], web_a[1], web_b[1]
    );
    cluster.set_policies(&[egress("client", &around)]).unwrap();
    cluster.expect("one pod of each node excepted", &closed, &Outcome::Silent);
    only(cluster, "client", "mixed-near", "bad-a");
    only(cluster, "client", "mixed-distant", "bad-b");
}

fn a5_a_block_without_the_service_range_does_not_close_it(cluster: &mut Cluster) {
    let pods = "{to: [{ipBlock: {cidr: 10.244.0.0/16}}, {ipBlock: {cidr: \"fd00:10:244::/48\"}}]}";
    cluster.set_policies(&[egress("client", pods)]).unwrap();
    let mut open = all_frontends(cluster, "client", "near", "web-a");
    open.extend(all_frontends(cluster, "client", "distant", "web-b"));
    cluster.expect("backends in the block", &open, &Outcome::Reached);
}

fn a5_a_block_of_virtual_addresses_opens_nothing(cluster: &mut Cluster) {
    let services = "{to: [{ipBlock: {cidr: 10.96.0.0/12}}, {ipBlock: {cidr: \"fd00:10:96::/112\"}}, \
                    {ipBlock: {cidr: 203.0.113.0/24}}, {ipBlock: {cidr: 192.0.2.0/24}}, \
                    {ipBlock: {cidr: \"2001:db8:2::/47\"}}]}";
    cluster.set_policies(&[egress("client", services)]).unwrap();
    let mut closed = virtual_ips(cluster, "client", "near", "web-a");
    closed.extend(virtual_ips(cluster, "client", "distant", "web-b"));
    closed.extend(virtual_ips(cluster, "client", "abroad", "outside"));
    cluster.expect("only virtual addresses in the block", &closed, &Outcome::Silent);
}

fn a5_a_backend_outside_is_judged_by_its_own_address(cluster: &mut Cluster) {
    let block = |v4: &str, v6: &str| {
        let rule = format!("{{to: [{{ipBlock: {{cidr: {v4}/32}}}}, {{ipBlock: {{cidr: \"{v6}/128\"}}}}]}}");
        egress("client", &rule)
    };
    let abroad = all_frontends(cluster, "client", "abroad", "outside");
    cluster
        .set_policies(&[block("198.51.100.10", "2001:db8:1::a")])
        .unwrap();
    cluster.expect("its address allowed", &abroad, &Outcome::Reached);
    let pods = virtual_ips(cluster, "client", "near", "web-a");
    cluster.expect("a pod behind a Service", &pods, &Outcome::Silent);
    cluster
        .set_policies(&[block("198.51.100.11", "2001:db8:1::b")])
        .unwrap();
    cluster.expect("another address allowed", &abroad, &Outcome::Silent);
}

fn a5_headless_services_are_their_pods(cluster: &mut Cluster) {
    cluster.set_policies(&[egress("client", TO_WEB)]).unwrap();
    let ports = [Service::Tcp(8080), Service::Udp(5353)];
    let mut open = cluster.to_site("client", "web-a", &ports).unwrap();
    open.extend(cluster.to_site("client", "web-b", &ports).unwrap());
    cluster.expect("backends by their own addresses", &open, &Outcome::Reached);
    let mut closed = cluster.to_site("client", "bad-a", &ports).unwrap();
    closed.extend(cluster.to_site("client", "bad-b", &ports).unwrap());
    cluster.expect("other pods", &closed, &Outcome::Silent);
}

fn a5_a_service_without_endpoints_gets_what_kube_proxy_gives(cluster: &mut Cluster) {
    let probes = virtual_ips(cluster, "client", "empty", "web-a");
    cluster.expect("no policy", &probes, &Outcome::Refused);
    cluster.set_policies(&[egress("client", "")]).unwrap();
    cluster.expect("egress isolated", &probes, &Outcome::Refused);
}

fn a5_backends_that_change_move_the_verdict(cluster: &mut Cluster) {
    cluster.set_policies(&[egress("client", TO_WEB)]).unwrap();
    let [near, bad] = ["web-a", "bad-a"].map(|backend| virtual_ips(cluster, "client", "near", backend));
    cluster.expect("an allowed backend", &near, &Outcome::Reached);
    cluster.set_backends("near", &["!web-a", "bad-a"]).unwrap();
    cluster.expect("its only ready backend is denied", &bad, &Outcome::Silent);
    cluster.set_backends("near", &["-web-b", "!bad-a"]).unwrap();
    let distant = virtual_ips(cluster, "client", "near", "web-b");
    cluster.expect("the one that still serves", &distant, &Outcome::Reached);
    cluster.set_backends("near", &["web-a"]).unwrap();
    cluster.expect("as before", &near, &Outcome::Reached);
}

/// Rules C1 and C2: an open connection lives and dies with the backend's verdict.
fn a5_c2_open_connections_go_on_while_they_are_allowed(cluster: &mut Cluster) {
    let closed = policy("client", "Ingress, Egress", &format!("egress: [{TO_WEB}]"));
    let wider = egress("client", "{to: [{podSelector: {}}]}");
    let none = egress("client", "");
    cluster.set_policies(std::slice::from_ref(&closed)).unwrap();
    let mut probes = all_frontends(cluster, "client", "near", "web-a");
    probes.extend(all_frontends(cluster, "client", "distant", "web-b"));
    probes.retain(|probe| matches!(probe.service, Service::Tcp(_)));
    let prober = netpol_tests::probe::Prober::new().unwrap();
    let mut open: Vec<_> = probes
        .iter()
        .map(|probe| prober.converse(probe).unwrap())
        .collect();
    let mut ask = |expected: Outcome, when: &str| {
        for (open, probe) in open.iter_mut().zip(&probes) {
            assert_eq!(open.ask(PATIENCE), expected, "{when}: {probe}");
        }
    };
    for _ in 0..5 {
        ask(Outcome::Reached, "ingress isolated too");
    }
    cluster.set_policies(&[closed, wider.clone()]).unwrap();
    ask(Outcome::Reached, "a second policy");
    cluster.set_policies(&[wider]).unwrap();
    ask(Outcome::Reached, "another policy");
    cluster.set_policies(&[none]).unwrap();
    ask(Outcome::Silent, "no longer allowed");
}

for_each_mode!(
    a5_deny_all_closes_every_frontend,
    c1_backends_that_may_send_nothing_answer,
    a5_backends_and_target_ports_open_the_service_ports,
    a5_the_service_port_alone_opens_nothing,
    a5_named_target_ports_are_the_backends_own,
    a5_of_partial_backends_only_the_allowed_answer,
    a5_p5_a_block_that_holds_the_service_range_opens_no_way_to_an_excepted_pod,
    a5_a_block_without_the_service_range_does_not_close_it,
    a5_a_block_of_virtual_addresses_opens_nothing,
    a5_a_backend_outside_is_judged_by_its_own_address,
    a5_a_service_without_endpoints_gets_what_kube_proxy_gives,
    a5_backends_that_change_move_the_verdict,
    a5_c2_open_connections_go_on_while_they_are_allowed,
);

for_each_mode!(a5_headless_services_are_their_pods);
