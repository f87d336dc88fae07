// SPDX-License-Identifier: Apache-2.0
//! The pod network between nodes, as Flannel sets it up: VXLAN or plain routes, and masquerade
//! rules.

use std::{fmt::Write, net::IpAddr};

use anyhow::Result;
use ipnet::IpNet;

use crate::node::{Node, Plan};

/// Networks of all pods, IPv4 and IPv6: Flannel's `Network` and `IPv6Network`, kube-proxy's
/// `--cluster-cidr`.
pub const CLUSTER_NETWORKS: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/48"];

/// How packets get from one node's pods to another's: the `Type` of Flannel's backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlay {
    /// Encapsulated, by `flannel.1` and `flannel-v6.1`.
    Vxlan,
    /// Routed through the nodes' own addresses.
    HostGateway,
}

/// Connects the pod networks of the nodes, and writes Flannel's masquerade rules on each.
///
/// # Errors
/// If the kernel refuses.
pub fn connect(nodes: &[&Node], overlay: Overlay) -> Result<()> {
    for node in nodes {
        let mut links = String::new();
        let mut ip = String::new();
        let mut forwarding = String::new();
        if overlay == Overlay::Vxlan {
            links = tunnels(node.plan())?;
        }
        for peer in nodes.iter().map(|peer| peer.plan()) {
            if peer.index == node.plan().index {
                continue;
            }
            match overlay {
                Overlay::Vxlan => tunnel_to(peer, &mut ip, &mut forwarding)?,
                Overlay::HostGateway => route_to(peer, &mut ip)?,
            }
        }
        node.netns().ip(&(links + &ip))?;
        if !forwarding.is_empty() {
            node.netns().feed("bridge", &["-batch", "-"], &forwarding)?;
        }
        for (number, program) in ["iptables-restore", "ip6tables-restore"].into_iter().enumerate() {
            let rules = masquerade(CLUSTER_NETWORKS[number], node.plan().pod_networks()[number]);
            node.netns().feed(program, &["--noflush"], &rules)?;
        }
    }
    Ok(())
}

/// Returns the name of a family's device.
fn device(ipv4: bool) -> &'static str {
    if ipv4 { "flannel.1" } else { "flannel-v6.1" }
}

/// Returns the device's MAC address, derived from family and node; a daemon would draw it at
/// random.
fn mac(ipv4: bool, index: u8) -> String {
    let family = if ipv4 { 4 } else { 6 };
    format!("02:f1:a0:00:{family:02x}:{index:02x}")
}

/// Makes both devices of a node, each with the first address of the node's pod network.
fn tunnels(plan: &Plan) -> Result<String> {
    let mut batch = String::new();
    for (pods, local) in plan.pod_networks().into_iter().zip(plan.uplink_addresses()) {
        let (device, mac) = (device(local.is_ipv4()), mac(local.is_ipv4(), plan.index));
        writeln!(
            batch,
            "link add {device} address {mac} type vxlan id 1 dev uplink0 local {local} dstport 8472 nolearning"
        )?;
        writeln!(batch, "link set {device} up")?;
        let length = pods.max_prefix_len();
        writeln!(batch, "addr add {}/{length} dev {device} nodad", pods.network())?;
    }
    Ok(batch)
}

/// Adds the neighbour, route and forwarding entry of each family for another node.
fn tunnel_to(peer: &Plan, ip: &mut String, forwarding: &mut String) -> Result<()> {
    for (pods, underlay) in peer.pod_networks().into_iter().zip(peer.uplink_addresses()) {
        let (device, mac) = (device(underlay.is_ipv4()), mac(underlay.is_ipv4(), peer.index));
        let gateway: IpAddr = pods.network();
        writeln!(
            ip,
            "neigh replace {gateway} lladdr {mac} dev {device} nud permanent"
        )?;
        writeln!(ip, "route replace {pods} via {gateway} dev {device} onlink")?;
        writeln!(
            forwarding,
            "fdb replace {mac} dev {device} dst {underlay} self permanent"
        )?;
    }
    Ok(())
}

fn route_to(peer: &Plan, ip: &mut String) -> Result<()> {
    for (pods, gateway) in peer.pod_networks().into_iter().zip(peer.uplink_addresses()) {
        writeln!(ip, "route replace {pods} via {gateway} dev uplink0")?;
    }
    Ok(())
}

/// Returns Flannel's rules of one family. Packets that kube-proxy marked are left to it. Traffic
/// within the cluster, and to the node's own pods, keeps its source.
fn masquerade(cluster: &str, pods: IpNet) -> String {
    let multicast = if pods.addr().is_ipv4() {
        "224.0.0.0/4"
    } else {
        "ff00::/8"
    };
    let mut rules = String::from("*nat\n:FLANNEL-POSTRTG - [0:0]\n");
    let comment = "-m comment --comment \"flanneld masq\"";
    let mut rule = |chain: &str, matches: &str, target: &str| {
        rules.push_str(&format!("-A {chain} {matches} {comment} -j {target}\n"));
    };
    let chain = "FLANNEL-POSTRTG";
    rule("POSTROUTING", "", chain);
    rule(chain, "-m mark --mark 0x4000/0x4000", "RETURN");
    rule(chain, &format!("-s {pods} -d {cluster}"), "RETURN");
    rule(chain, &format!("-s {cluster} -d {pods}"), "RETURN");
    rule(chain, &format!("! -s {cluster} -d {pods}"), "RETURN");
    let masquerade = "MASQUERADE --random-fully";
    rule(chain, &format!("-s {cluster} ! -d {multicast}"), masquerade);
    rule(chain, &format!("! -s {cluster} -d {cluster}"), masquerade);
    rules.push_str("COMMIT\n");
    rules
}
