// SPDX-License-Identifier: Apache-2.0
//! Ingress policy of backends, and pods that reach themselves through a Service.

use netpol_tests::{
    probe::{Outcome, Service},
    services::Frontend,
    two_nodes::Cluster,
};

use crate::{
    for_each_mode,
    shared::{egress, ingress},
};

const FROM_CLIENT: &str = "{from: [{podSelector: {matchLabels: {app: client}}}]}";
const TO_CLIENT: &str = "{to: [{podSelector: {matchLabels: {app: client}}}]}";

/// Inside the cluster kube-proxy keeps the source, so the backend's policy sees the client.
fn i5_a_backend_sees_the_client_behind_a_cluster_ip(cluster: &mut Cluster) {
    cluster.set_policies(&[ingress("web", FROM_CLIENT)]).unwrap();
    for (service, backend) in [("near", "web-a"), ("distant", "web-b")] {
        let by = |from| {
            cluster
                .to_service(from, service, Frontend::ClusterIp, backend)
                .unwrap()
        };
        let open = [by("client"), by("far")].concat();
        cluster.expect("clients that are allowed", &open, &Outcome::Reached);
        let closed = [by("bad-a"), by("bad-b")].concat();
        cluster.expect("others", &closed, &Outcome::Silent);
    }
}

/// A client outside arrives with an address of the node that forwarded it, but is not that node.
fn a3_a4_a_masqueraded_client_is_not_the_node(cluster: &mut Cluster) {
    cluster.set_policies(&[ingress("web", "")]).unwrap();
    let mut closed = Vec::new();
    for (service, backend) in [("near", "web-a"), ("distant", "web-b")] {
        for node in ["node-a", "node-b"] {
            closed.extend(cluster.to_node_port("outside", service, node, backend).unwrap());
        }
        for frontend in Frontend::ALL {
            closed.extend(cluster.to_service("outside", service, frontend, backend).unwrap());
        }
    }
    cluster.expect("clients outside", &closed, &Outcome::Silent);

    // The nodes' addresses on the pod network: the bridge's towards the node's own pods, the
    // tunnel's towards others.
    let blocks = |addresses: [&str; 2]| {
        let rule = format!(
            "{{from: [{{ipBlock: {{cidr: {}/32}}}}, {{ipBlock: {{cidr: \"{}/128\"}}}}]}}",
            addresses[0], addresses[1]
        );
        ingress("web", &rule)
    };
    let near_by = |node| cluster.to_node_port("outside", "near", node, "web-a").unwrap();
    let (by_own, by_other) = (near_by("node-a"), near_by("node-b"));
    cluster
        .set_policies(&[blocks(["10.244.0.1", "fd00:10:244::1"])])
        .unwrap();
    cluster.expect("the bridge's address allowed", &by_own, &Outcome::Reached);
    cluster.expect("forwarded by the other node", &by_other, &Outcome::Silent);
    cluster
        .set_policies(&[blocks(["10.244.1.0", "fd00:10:244:1::"])])
        .unwrap();
    cluster.expect("forwarded by the pod's own node", &by_own, &Outcome::Silent);
    cluster.expect("the other node's address allowed", &by_other, &Outcome::Reached);
}

/// The node itself, in contrast, may reach its pods also through their Services.
fn a2_a4_a_node_reaches_its_own_pods_through_services_but_not_other_nodes_pods(cluster: &mut Cluster) {
    cluster.set_policies(&[ingress("web", "")]).unwrap();
    let mut own = Vec::new();
    let mut other = Vec::new();
    for frontend in Frontend::ALL {
        own.extend(cluster.to_service("node-a", "near", frontend, "web-a").unwrap());
        own.extend(
            cluster
                .to_service("node-b", "distant", frontend, "web-b")
                .unwrap(),
        );
        other.extend(
            cluster
                .to_service("node-a", "distant", frontend, "web-b")
                .unwrap(),
        );
        other.extend(cluster.to_service("node-b", "near", frontend, "web-a").unwrap());
    }
    cluster.expect("a node and its own pods", &own, &Outcome::Reached);
    cluster.expect("a node and the other's pods", &other, &Outcome::Silent);
}

pub fn a1_a_pod_behind_its_own_service_needs_both_directions(cluster: &mut Cluster) {
    let mut through = Vec::new();
    for frontend in Frontend::ALL {
        through.extend(cluster.to_service("client", "mine", frontend, "client").unwrap());
    }
    through.extend(
        cluster
            .to_node_port("client", "mine", "node-a", "client")
            .unwrap(),
    );
    let own = [Service::Tcp(8080), Service::Udp(5353), Service::Echo];
    let directly = cluster.to_site("client", "client", &own).unwrap();
    cluster.expect("no policy", &through, &Outcome::Reached);
    for (what, policies, expected) in [
        ("egress denied", vec![egress("client", "")], Outcome::Silent),
        ("ingress denied", vec![ingress("client", "")], Outcome::Silent),
        (
            "ingress denied, egress allowed",
            vec![egress("client", TO_CLIENT), ingress("client", "")],
            Outcome::Silent,
        ),
        (
            "egress denied, ingress allowed",
            vec![egress("client", ""), ingress("client", FROM_CLIENT)],
            Outcome::Silent,
        ),
        (
            "egress allowed, ingress not isolated",
            vec![egress("client", TO_CLIENT)],
            Outcome::Reached,
        ),
        (
            "both allowed",
            vec![egress("client", TO_CLIENT), ingress("client", FROM_CLIENT)],
            Outcome::Reached,
        ),
    ] {
        cluster.set_policies(&policies).unwrap();
        cluster.expect(what, &through, &expected);
        cluster.expect("itself directly", &directly, &Outcome::Reached);
    }
}

for_each_mode!(
    i5_a_backend_sees_the_client_behind_a_cluster_ip,
    a3_a4_a_masqueraded_client_is_not_the_node,
    a2_a4_a_node_reaches_its_own_pods_through_services_but_not_other_nodes_pods,
);

for_each_mode!(a1_a_pod_behind_its_own_service_needs_both_directions,);
