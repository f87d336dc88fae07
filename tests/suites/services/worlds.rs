// SPDX-License-Identifier: Apache-2.0
//! The rules for Services in other set-ups: routes instead of VXLAN, and no rules for bridged
//! frames.

use netpol_tests::{
    overlay::Overlay,
    privilege::can_enforce,
    probe::{Outcome, Service},
    proxy::Mode,
    services::Frontend,
    two_nodes::{Cluster, World},
};

use crate::{
    egress::{TO_WEB, all_frontends, answered_by, only},
    ingress::a1_a_pod_behind_its_own_service_needs_both_directions,
    shared::{egress, ingress},
};

fn backends_on_the_other_node(cluster: &mut Cluster) {
    cluster.set_policies(&[egress("client", TO_WEB)]).unwrap();
    only(cluster, "client", "mixed-distant", "web-b");
    only(cluster, "far", "mixed-near", "web-a");
    let abroad = all_frontends(cluster, "client", "abroad", "outside");
    cluster.expect("a backend that is not allowed", &abroad, &Outcome::Silent);
    cluster.set_policies(&[egress("client", "")]).unwrap();
    let distant = all_frontends(cluster, "client", "distant", "web-b");
    cluster.expect("egress isolated", &distant, &Outcome::Silent);
}

#[test]
fn a5_over_host_gateway() {
    in_worlds(backends_on_the_other_node, |world| World {
        overlay: Overlay::HostGateway,
        ..world
    });
}

#[test]
fn a5_without_bridge_netfilter() {
    without_bridge_netfilter(backends_on_the_other_node);
}

#[test]
fn a1_without_bridge_netfilter() {
    without_bridge_netfilter(a1_a_pod_behind_its_own_service_needs_both_directions);
}

fn without_bridge_netfilter(test: fn(&mut Cluster)) {
    in_worlds(test, |world| World {
        bridge_netfilter: false,
        ..world
    });
}

#[test]
fn a5_with_everything_masqueraded() {
    in_worlds(
        |cluster| {
            cluster.set_policies(&[egress("client", TO_WEB)]).unwrap();
            only(cluster, "client", "mixed-near", "web-a");
            only(cluster, "client", "mixed-distant", "web-b");
        },
        |world| World {
            masquerade_all: true,
            ..world
        },
    );
}

/// Another's filter overwrites the tag on the client's packets. The client is still known by its
/// address. If masquerading hides that too, backends that are not open to everyone are closed.
#[test]
fn a5_a_tag_that_is_lost_opens_nothing() {
    in_worlds(
        |cluster| {
            cluster.set_policies(&[egress("client", TO_WEB)]).unwrap();
            cluster.overwrite_tags("client").unwrap();
            for (service, allowed) in [("mixed-near", "web-a"), ("mixed-distant", "web-b")] {
                let by = |frontend| cluster.to_service("client", service, frontend, allowed).unwrap();
                answered_by(cluster, &by(Frontend::ClusterIp), allowed);
                let masqueraded = [by(Frontend::ExternalIp), by(Frontend::LoadBalancerIp)].concat();
                for (probe, found) in masqueraded
                    .iter()
                    .zip(cluster.repeated(&masqueraded, 12).unwrap())
                {
                    let closed = |(outcome, _): &(Outcome, usize)| *outcome == Outcome::Silent;
                    let by_interface = |(outcome, _): &(Outcome, usize)| *outcome == Outcome::Reached;
                    // A bridge tells by which port a packet came, if the backend is behind another
                    // port.
                    let near = service == "mixed-near";
                    assert!(
                        found
                            .iter()
                            .all(|entry| closed(entry) || near && by_interface(entry)),
                        "{probe}: {found:?}"
                    );
                }
            }
            let open = cluster.to_service("client", "distant", Frontend::ExternalIp, "web-b");
            cluster.expect(
                "a backend that another Service leads to in part",
                &open.unwrap(),
                &Outcome::Silent,
            );
        },
        |world| world,
    );
}

/// The nodes share a kernel, so a packet reaches the second node with the first node's tag, and the
/// numbers of both begin at 1.
#[test]
fn a3_a_tag_of_another_node_names_no_pod_of_this_one() {
    in_worlds(
        |cluster| {
            let [v4, v6] = <[_; 2]>::try_from(cluster.site("web-a").unwrap().addresses).unwrap();
            let own =
                format!("{{from: [{{ipBlock: {{cidr: {v4}/32}}}}, {{ipBlock: {{cidr: \"{v6}/128\"}}}}]}}");
            cluster.set_policies(&[ingress("web", &own)]).unwrap();
            let closed = cluster.to_site("web-b", "web-a", &[Service::Tcp(8080), Service::Udp(5353)]);
            cluster.expect(
                "another pod of the same number",
                &closed.unwrap(),
                &Outcome::Silent,
            );
            let open = cluster.to_site("web-a", "web-b", &[Service::Tcp(8080), Service::Udp(5353)]);
            cluster.expect("the pod in the block", &open.unwrap(), &Outcome::Reached);
        },
        |world| World {
            overlay: Overlay::HostGateway,
            ..world
        },
    );
}

/// Runs a test in a world of each mode.
fn in_worlds(test: fn(&mut Cluster), world: fn(World) -> World) {
    for mode in [Mode::Iptables, Mode::Nftables] {
        if !can_enforce("services") {
            return;
        }
        let mut cluster = Cluster::with_agents(world(World::usual(mode))).unwrap();
        test(&mut cluster);
    }
}
