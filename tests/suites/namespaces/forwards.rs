// SPDX-License-Identifier: Apache-2.0
//! A pod that routes for a client behind it, as a VPN gateway does: only while its Namespace's
//! annotation says so (rule A6).

use std::{fmt::Write, net::IpAddr, sync::Arc};

use netpol_tests::{
    lab::{Lab, SERVICES},
    netns::NetNs,
    node::Site,
    probe::{Outcome, Probe, hold},
};

use crate::{bound::deny, shared::lab};

const GATEWAY: &str = "vpn/gateway";

/// Makes a client behind a pod, and the routes to and from it.
fn client(lab: &Lab) -> Site {
    let gateway = lab.site(GATEWAY).unwrap();
    let netns = Arc::new(NetNs::create(&format!("{}client", lab.node.prefix())).unwrap());
    gateway
        .netns
        .sysctl(&[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv6/conf/all/forwarding", "1"),
        ])
        .unwrap();
    let inside = format!(
        "link add tun0 type veth peer name eth0 netns {}\nlink set tun0 up\n\
         addr add 10.8.0.1/24 dev tun0\naddr add fd00:8::1/64 dev tun0 nodad\n",
        netns.name()
    );
    gateway.netns.ip(&inside).unwrap();
    netns
        .ip(
            "link set eth0 up\naddr add 10.8.0.5/24 dev eth0\naddr add fd00:8::5/64 dev eth0 nodad\n\
             route add 0.0.0.0/0 via 10.8.0.1\nroute add ::/0 via fd00:8::1\n",
        )
        .unwrap();
    let mut ways = String::new();
    for address in &gateway.addresses {
        let behind = if address.is_ipv4() {
            "10.8.0.0/16"
        } else {
            "fd00:8::/64"
        };
        writeln!(ways, "route add {behind} via {address}").unwrap();
    }
    lab.node.netns().ip(&ways).unwrap();
    let addresses = ["10.8.0.5", "fd00:8::5"].map(|text| text.parse::<IpAddr>().unwrap());
    let site = Site {
        name: "client".to_owned(),
        netns,
        addresses: addresses.to_vec(),
    };
    lab.serve(&site).unwrap();
    site
}

#[track_caller]
fn expect(lab: &Lab, from: &Site, to: &Site, outcome: &Outcome) {
    let probes: Vec<Probe> = SERVICES
        .iter()
        .flat_map(|&service| Probe::all(from, to, service))
        .collect();
    let outcomes = lab.prober.probe(&probes).unwrap();
    hold(
        &format!("{} -> {}", from.name, to.name),
        &probes,
        &outcomes,
        outcome,
    );
}

/// Asserts both directions, with a pod and with the outside.
#[track_caller]
fn expect_all(lab: &Lab, client: &Site, outcome: &Outcome) {
    for other in ["shop/a", "outside"] {
        let other = lab.site(other).unwrap();
        expect(lab, client, &other, outcome);
        expect(lab, &other, client, outcome);
    }
}

fn namespace(annotation: Option<&str>) -> String {
    let annotations = annotation.map_or_else(String::new, |text| {
        format!(", annotations: {{netpol/forwards: \"{text}\"}}")
    });
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: vpn{annotations}}}\n")
}

#[test]
fn a6_a_pod_routes_for_others_while_its_namespace_says_so() {
    let Some(mut lab) = lab(&[]) else {
        return;
    };
    lab.add_pod(GATEWAY, "app: gateway").unwrap();
    let client = client(&lab);
    let say = |lab: &Lab, annotation: Option<&str>| lab.apply("vpn.yaml", &namespace(annotation)).unwrap();
    expect_all(&lab, &client, &Outcome::Silent);
    say(&lab, Some("10.9.0.0/16, fd00:9::/64"));
    expect_all(&lab, &client, &Outcome::Silent);
    say(&lab, Some("10.8.0.0/16, fd00:8::/64"));
    expect_all(&lab, &client, &Outcome::Reached);
    // The kernel does it, not the agent.
    lab.agent.stop().unwrap();
    expect_all(&lab, &client, &Outcome::Reached);
    lab.agent.restart().unwrap();
    expect_all(&lab, &client, &Outcome::Reached);
    // The gateway's policy also applies to what it forwards.
    lab.apply("deny.yaml", &deny("vpn", "app: gateway")).unwrap();
    expect_all(&lab, &client, &Outcome::Silent);
    lab.apply("deny.yaml", &deny("vpn", "app: nobody")).unwrap();
    expect_all(&lab, &client, &Outcome::Reached);
    // Ranges that contain others' addresses are refused; the rest stay.
    for (more, code) in [
        ("10.244.0.0/16", "forwards-refused"),
        ("fe80::/64", "forwards-invalid"),
    ] {
        let seen = lab.agent.log_length();
        say(&lab, Some(&format!("10.8.0.0/16, {more}, fd00:8::/64")));
        lab.agent.wait_for_line(seen, code).unwrap();
        expect_all(&lab, &client, &Outcome::Reached);
    }
    // A new node with an address within a range closes it.
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: node-z}\n\
                status: {addresses: [{type: InternalIP, address: 10.8.7.7}, {type: InternalIP, address: \"fd00:8::7\"}]}\n";
    lab.apply("node.yaml", node).unwrap();
    expect_all(&lab, &client, &Outcome::Silent);
    lab.apply(
        "node.yaml",
        &node
            .replace("10.8.7.7", "198.51.100.77")
            .replace("fd00:8::7", "2001:db8::7"),
    )
    .unwrap();
    expect_all(&lab, &client, &Outcome::Reached);
    say(&lab, None);
    expect_all(&lab, &client, &Outcome::Silent);
}
