// SPDX-License-Identifier: Apache-2.0
//! Which address another node has on packets to a pod: its tunnel's, not its own (rule A4).
//! Compares the agent's answer with connections that the other node makes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netpol_tests::{
    privilege::can_enforce,
    probe::{Outcome, Probe, Service},
    proxy::Mode,
    two_nodes::{Cluster, World},
};
use serde_json::Value;

use crate::shared::{netpol, stderr, stdout};

/// Returns exit code and text of the agent on the pod's node.
fn ask(cluster: &Cluster, from: IpAddr) -> (i32, String) {
    let family = if from.is_ipv4() { "ipv4" } else { "ipv6" };
    let socket = cluster.agent("node-a").unwrap().socket();
    let output = netpol(&[
        "explain",
        "--socket",
        socket.to_str().unwrap(),
        "--family",
        family,
        "-o",
        "json",
        &from.to_string(),
        "shop/web-a",
        "8080/TCP",
    ]);
    (output.status.code().unwrap(), stdout(&output) + &stderr(&output))
}

/// Returns true if the other node reaches the pod with this address, or with the one that its
/// kernel uses.
fn reaches(cluster: &Cluster, source: IpAddr) -> bool {
    let [node, pod] = ["node-b", "web-a"].map(|name| cluster.site(name).unwrap());
    let to = pod.address_like(source).unwrap();
    let probe = Probe {
        source,
        ..Probe::new(&node, &pod, to, Service::Tcp(8080)).unwrap()
    };
    cluster.prober.probe(&[probe]).unwrap() == [Outcome::Reached]
}

#[test]
fn a4_another_node_is_explained_by_the_addresses_that_it_may_have() {
    if !can_enforce("explain") {
        return;
    }
    let mut cluster = Cluster::with_agents(World::usual(Mode::Iptables)).unwrap();
    let own = cluster.site("node-b").unwrap().addresses;
    // Bridge, uplink and tunnel, of both families.
    let tunnels: [IpAddr; 2] = [
        Ipv4Addr::new(10, 244, 1, 0).into(),
        Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 0).into(),
    ];
    let mut unsure = 0;
    for family in 0..2 {
        let [bridge, uplink, tunnel] = [own[family], own[2 + family], tunnels[family]];
        let unspecified: IpAddr = match bridge {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let all = [bridge, uplink, tunnel];
        for allowed in [&all[..0], &all[..1], &all[1..2], &all[2..], &all] {
            let length = if bridge.is_ipv4() { 32 } else { 128 };
            let block = |address: &IpAddr| format!("{{ipBlock: {{cidr: \"{address}/{length}\"}}}}");
            let blocks: Vec<String> = allowed.iter().map(block).collect();
            let rules = match blocks.is_empty() {
                true => String::new(),
                false => format!("{{from: [{}]}}", blocks.join(", ")),
            };
            let policy = format!(
                "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{namespace: shop, name: web}}\n\
                 spec: {{podSelector: {{matchLabels: {{app: web}}}}, policyTypes: [Ingress], ingress: [{rules}]}}\n"
            );
            cluster.set_policies(&[policy]).unwrap();
            // The address on the wire has a certain answer.
            for address in [bridge, tunnel] {
                let (code, text) = ask(&cluster, address);
                let reached = reaches(&cluster, address);
                assert_eq!(
                    code,
                    i32::from(!reached),
                    "{address}, allowed {allowed:?}:\n{text}"
                );
            }
            // The node's own address may be replaced by the tunnel's. The answer is certain if that
            // does not matter.
            let (code, text) = ask(&cluster, uplink);
            let differs = all
                .iter()
                .any(|address| allowed.contains(address) != allowed.contains(&all[0]));
            assert_eq!(code == 3, differs, "allowed {allowed:?}:\n{text}");
            let reached = reaches(&cluster, unspecified);
            assert_eq!(
                reached,
                allowed.contains(&tunnel),
                "the kernel takes the tunnel's address"
            );
            if code == 3 {
                unsure += 1;
                let answer: Value = serde_json::from_str(&text).unwrap();
                assert_eq!(answer["verdicts"][0]["ingress"]["reason"], "address-on-arrival");
            } else {
                assert_eq!(code, i32::from(!reached), "allowed {allowed:?}:\n{text}");
            }
        }
    }
    assert_eq!(unsure, 6);
}
