// SPDX-License-Identifier: Apache-2.0
//! Rules of iptables mode, as input for `iptables-restore --noflush`.

use std::{collections::BTreeSet, fmt::Write, net::SocketAddr};

use super::{
    Family,
    ports::{Port, digest},
};

/// Returns the program that reads the rules of a family.
pub(super) fn program(family: Family) -> &'static str {
    if family.ipv4 {
        "iptables-restore"
    } else {
        "ip6tables-restore"
    }
}

const NAT_CHAINS: [&str; 2] = ["KUBE-SERVICES", "KUBE-NODEPORTS"];
const FILTER_CHAINS: [&str; 2] = ["KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES"];

/// Returns the rules that do not depend on Services: the jumps into kube-proxy's chains, and the
/// permanent chains.
pub(super) fn base() -> String {
    let portals = "-m comment --comment \"kubernetes service portals\"";
    let new = format!("-m conntrack --ctstate NEW {portals}");
    format!(
        "*filter\n\
         :KUBE-SERVICES - [0:0]\n\
         :KUBE-EXTERNAL-SERVICES - [0:0]\n\
         :KUBE-FORWARD - [0:0]\n\
         -A INPUT {new} -j KUBE-EXTERNAL-SERVICES\n\
         -A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD\n\
         -A FORWARD {new} -j KUBE-SERVICES\n\
         -A FORWARD {new} -j KUBE-EXTERNAL-SERVICES\n\
         -A OUTPUT {new} -j KUBE-SERVICES\n\
         -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
         -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         COMMIT\n\
         *nat\n\
         :KUBE-SERVICES - [0:0]\n\
         :KUBE-NODEPORTS - [0:0]\n\
         :KUBE-MARK-MASQ - [0:0]\n\
         :KUBE-POSTROUTING - [0:0]\n\
         -A PREROUTING {portals} -j KUBE-SERVICES\n\
         -A OUTPUT {portals} -j KUBE-SERVICES\n\
         -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
         -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n\
         COMMIT\n"
    )
}

/// Returns the rules for all ports, and their chains. `before` are the previous chains: those no
/// longer needed are removed.
pub(super) fn rules(ports: &[Port], family: Family, before: &BTreeSet<String>) -> (String, BTreeSet<String>) {
    let mut filter = String::new();
    let mut nat = String::new();
    let mut chains = BTreeSet::new();
    for port in ports {
        if port.backends.is_empty() {
            reject(&mut filter, port);
        } else {
            translate(&mut nat, &mut chains, port, family);
        }
    }
    // Node ports come last: an address of the node may be an ExternalIP.
    nat.push_str("-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n");
    let declared = |names: &mut dyn Iterator<Item = &str>| {
        names.fold(String::new(), |mut text, name| {
            let _ = writeln!(text, ":{name} - [0:0]");
            text
        })
    };
    let kept = chains.iter().chain(before).map(String::as_str);
    let mut text = format!(
        "*filter\n{}{filter}COMMIT\n*nat\n{}{nat}",
        declared(&mut FILTER_CHAINS.into_iter()),
        declared(&mut NAT_CHAINS.into_iter().chain(kept.collect::<BTreeSet<_>>())),
    );
    for name in before.difference(&chains) {
        let _ = writeln!(text, "-X {name}");
    }
    text.push_str("COMMIT\n");
    (text, chains)
}

/// Rejects packets to a Service without endpoints, everywhere where it is reached.
fn reject(filter: &mut String, port: &Port) {
    let Port {
        name,
        protocol,
        port: number,
        ..
    } = port;
    let why = format!("-m comment --comment \"{name} has no endpoints\"");
    for ip in &port.cluster_ips {
        let _ = writeln!(
            filter,
            "-A KUBE-SERVICES {why} -m {protocol} -p {protocol} -d {ip} --dport {number} -j REJECT"
        );
    }
    for ip in &port.external_ips {
        let _ = writeln!(
            filter,
            "-A KUBE-EXTERNAL-SERVICES {why} -m {protocol} -p {protocol} -d {ip} --dport {number} -j REJECT"
        );
    }
    if let Some(node_port) = port.node_port {
        let _ = writeln!(
            filter,
            "-A KUBE-EXTERNAL-SERVICES {why} -m addrtype --dst-type LOCAL -m {protocol} -p {protocol} --dport {node_port} \
             -j REJECT"
        );
    }
}

fn translate(nat: &mut String, chains: &mut BTreeSet<String>, port: &Port, family: Family) {
    let Port {
        name,
        protocol,
        port: number,
        ..
    } = port;
    let hash = digest(&[&port.path]);
    let (to_backends, from_outside) = (format!("KUBE-SVC-{hash}"), format!("KUBE-EXT-{hash}"));
    let comment = format!("-m comment --comment \"{name}\"");
    chains.insert(to_backends.clone());
    for ip in &port.cluster_ips {
        let matches = format!("{comment} -m {protocol} -p {protocol} -d {ip} --dport {number}");
        let _ = writeln!(nat, "-A KUBE-SERVICES {matches} -j {to_backends}");
        let _ = writeln!(
            nat,
            "-A {to_backends} {matches} {} -j KUBE-MARK-MASQ",
            family.masqueraded("! -s")
        );
    }
    for ip in &port.external_ips {
        let _ = writeln!(
            nat,
            "-A KUBE-SERVICES {comment} -m {protocol} -p {protocol} -d {ip} --dport {number} -j {from_outside}"
        );
    }
    if let Some(node_port) = port.node_port {
        let _ = writeln!(
            nat,
            "-A KUBE-NODEPORTS {comment} -m {protocol} -p {protocol} --dport {node_port} -j {from_outside}"
        );
    }
    if port.is_external() {
        chains.insert(from_outside.clone());
        let _ = writeln!(nat, "-A {from_outside} {comment} -j KUBE-MARK-MASQ");
        let _ = writeln!(nat, "-A {from_outside} -j {to_backends}");
    }
    for (index, backend) in port.backends.iter().enumerate() {
        let endpoint = format!("KUBE-SEP-{}", digest(&[&port.path, &backend.to_string()]));
        let left = port.backends.len() - index;
        let _ = writeln!(
            nat,
            "-A {to_backends} {comment}{} -j {endpoint}",
            probability(left)
        );
        endpoint_rules(nat, &endpoint, &comment, protocol, *backend);
        chains.insert(endpoint);
    }
}

/// Gives each of the remaining backends the same share.
fn probability(left: usize) -> String {
    if left == 1 {
        return String::new();
    }
    #[expect(clippy::cast_precision_loss, reason = "a handful of backends")]
    let share = 1.0 / left as f64;
    format!(" -m statistic --mode random --probability {share:.10}")
}

/// A backend that connects to itself must see another source, or it would answer itself directly.
fn endpoint_rules(nat: &mut String, chain: &str, comment: &str, protocol: &str, backend: SocketAddr) {
    let _ = writeln!(nat, "-A {chain} {comment} -s {} -j KUBE-MARK-MASQ", backend.ip());
    let _ = writeln!(
        nat,
        "-A {chain} {comment} -m {protocol} -p {protocol} -j DNAT --to-destination {backend}"
    );
}
