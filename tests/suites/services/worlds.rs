// SPDX-License-Identifier: Apache-2.0
//! The rules for Services in worlds that are set up otherwise: routes in place of VXLAN, and no rules for bridged frames.

use netpol_tests::{
    overlay::Overlay,
    privilege::can_enforce,
    probe::Outcome,
    proxy::Mode,
    two_nodes::{Cluster, World},
};

use crate::{
    egress::{TO_WEB, all_frontends, only},
    ingress::a1_a_pod_behind_its_own_service_needs_both_directions,
    shared::egress,
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
    for mode in [Mode::Iptables, Mode::Nftables] {
        if !can_enforce("services") {
            return;
        }
        let mut cluster = Cluster::with_agents(World {
            overlay: Overlay::HostGateway,
            ..World::usual(mode)
        })
        .unwrap();
        backends_on_the_other_node(&mut cluster);
    }
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
    for mode in [Mode::Iptables, Mode::Nftables] {
        if !can_enforce("services") {
            return;
        }
        let mut cluster = Cluster::with_agents(World {
            bridge_netfilter: false,
            ..World::usual(mode)
        })
        .unwrap();
        test(&mut cluster);
    }
}
