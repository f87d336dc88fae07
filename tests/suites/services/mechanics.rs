// SPDX-License-Identifier: Apache-2.0
//! The world without policies: everything reaches everything, through every kind of Service.

use netpol_tests::{
    overlay::Overlay,
    privilege::can_make_nodes,
    probe::{Outcome, Probe, Service},
    proxy::Mode,
    services::Frontend,
    two_nodes::{Cluster, World},
};

use crate::for_each_mode;

const NODES: [&str; 2] = ["node-a", "node-b"];

/// Makes a cluster without agents.
fn cluster(mode: Mode, overlay: Overlay, bridge_netfilter: bool) -> Option<Cluster> {
    let world = World {
        mode,
        overlay,
        bridge_netfilter,
        masquerade_all: false,
    };
    can_make_nodes("services").then(|| Cluster::new(world).unwrap())
}

/// Returns probes of every frontend of a Service with one backend.
fn all_frontends(cluster: &Cluster, from: &str, service: &str, backend: &str) -> Vec<Probe> {
    let mut probes = Vec::new();
    for frontend in Frontend::ALL {
        probes.extend(cluster.to_service(from, service, frontend, backend).unwrap());
    }
    for node in NODES {
        probes.extend(cluster.to_node_port(from, service, node, backend).unwrap());
    }
    probes
}

fn everything_is_reached(cluster: &Cluster) {
    let backends = [("near", "web-a"), ("distant", "web-b"), ("abroad", "outside")];
    let mut probes = Vec::new();
    for from in ["client", "far", "node-a", "node-b"] {
        for (service, backend) in backends {
            probes.extend(all_frontends(cluster, from, service, backend));
        }
    }
    for (service, backend) in &backends[..2] {
        probes.extend(all_frontends(cluster, "outside", service, backend));
    }
    // Its own Service, by every frontend.
    probes.extend(all_frontends(cluster, "client", "mine", "client"));
    // Only the backend that still serves.
    probes.extend(all_frontends(cluster, "client", "leaving", "web-a"));
    let ports = [Service::Tcp(8080), Service::Udp(5353), Service::Echo];
    for (from, to) in [
        ("client", "web-a"),
        ("client", "web-b"),
        ("far", "web-a"),
        ("node-a", "web-b"),
        ("outside", "web-a"),
        ("outside", "web-b"),
        ("web-b", "outside"),
    ] {
        probes.extend(cluster.to_site(from, to, &ports).unwrap());
    }
    cluster.expect("no policies", &probes, &Outcome::Reached);

    let refused = all_frontends(cluster, "client", "empty", "web-a");
    cluster.expect("a Service without endpoints", &refused, &Outcome::Refused);
    let headless: Vec<_> = ["web-a", "web-b"]
        .into_iter()
        .flat_map(|backend| cluster.to_site("client", backend, &ports).unwrap())
        .collect();
    cluster.expect("the backends of a headless Service", &headless, &Outcome::Reached);
}

/// Each backend gets its share, for any number of slices and target ports.
fn backends_are_balanced(cluster: &Cluster) {
    for service in ["web", "named", "mixed-near", "mixed-distant", "across"] {
        let probes = cluster
            .to_service("client", service, Frontend::ClusterIp, "client")
            .unwrap();
        for (probe, found) in probes.iter().zip(cluster.repeated(&probes, 32).unwrap()) {
            let only_answers = found
                .iter()
                .all(|(outcome, _)| matches!(outcome, Outcome::Answered(_)));
            assert!(
                only_answers && found.len() == 2,
                "{service}: {probe}: answers of {found:?}"
            );
        }
    }
}

/// The rules follow the slices, and keep nothing old.
fn backends_are_replaced(cluster: &mut Cluster) {
    for (backends, expected) in [
        (&["!web-a", "bad-a"][..], Outcome::Reached),
        (&["!bad-a"], Outcome::Refused),
        (&["-bad-a"], Outcome::Reached),
    ] {
        cluster.set_backends("near", backends).unwrap();
        let probes = all_frontends(cluster, "client", "near", "bad-a");
        cluster.expect(&format!("backends {backends:?}"), &probes, &expected);
    }
}

fn vxlan_is_used(cluster: &Cluster) {
    for node in NODES {
        for device in ["flannel.1", "flannel-v6.1"] {
            assert!(
                cluster.sent(node, device).unwrap() > 100,
                "{device} of {node} carried nothing"
            );
        }
    }
}

#[test]
fn iptables_over_vxlan() {
    if let Some(mut cluster) = cluster(Mode::Iptables, Overlay::Vxlan, true) {
        everything_is_reached(&cluster);
        backends_are_balanced(&cluster);
        vxlan_is_used(&cluster);
        backends_are_replaced(&mut cluster);
        cluster.reset().unwrap();
        let addresses = cluster.site("node-a").unwrap().addresses;
        let probes = cluster
            .probes("client", &addresses, &[Service::Tcp(30002)], "web-a")
            .unwrap();
        assert_eq!(probes.len(), 4);
        cluster.expect(
            "node ports on every address of a node",
            &probes,
            &Outcome::Reached,
        );
    }
}

#[test]
fn nftables_over_vxlan() {
    if let Some(mut cluster) = cluster(Mode::Nftables, Overlay::Vxlan, true) {
        everything_is_reached(&cluster);
        backends_are_balanced(&cluster);
        vxlan_is_used(&cluster);
        backends_are_replaced(&mut cluster);
    }
}

#[test]
fn iptables_over_host_gateway() {
    if let Some(cluster) = cluster(Mode::Iptables, Overlay::HostGateway, true) {
        everything_is_reached(&cluster);
    }
}

#[test]
fn nftables_over_host_gateway() {
    if let Some(cluster) = cluster(Mode::Nftables, Overlay::HostGateway, true) {
        everything_is_reached(&cluster);
    }
}

/// Frames between pods of one node then bypass the rules, so a reply of a backend on the client's
/// node is not translated back. Only what is masqueraded, or comes from another node, works.
#[test]
fn without_bridge_netfilter_masqueraded_and_remote_backends_are_reached() {
    for mode in [Mode::Iptables, Mode::Nftables] {
        let Some(cluster) = cluster(mode, Overlay::Vxlan, false) else {
            return;
        };
        let mut probes = all_frontends(&cluster, "client", "distant", "web-b");
        probes.extend(all_frontends(&cluster, "far", "near", "web-a"));
        probes.extend(all_frontends(&cluster, "client", "mine", "client"));
        for node in NODES {
            probes.extend(cluster.to_node_port("client", "near", node, "web-a").unwrap());
        }
        cluster.expect("no bridge netfilter", &probes, &Outcome::Reached);
    }
}

fn i1_with_agents_and_no_policy_everything_is_reached(cluster: &mut Cluster) {
    everything_is_reached(cluster);
    backends_are_balanced(cluster);
}

for_each_mode!(i1_with_agents_and_no_policy_everything_is_reached);
