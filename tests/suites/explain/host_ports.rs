// SPDX-License-Identifier: Apache-2.0
//! A node's port that is a pod's host port: `explain` must say what connections meet there (rules
//! A2, A3, A5).

use std::{fmt::Write as _, net::IpAddr};

use netpol_tests::{
    lab::Lab,
    privilege::can_enforce,
    probe::{Outcome, Probe, Service},
};
use serde_json::Value;

use crate::shared::{netpol, stderr, stdout};

const HOST_PORT: u16 = 9000;
const UDP_PORT: u16 = 9001;
const SERVICES: [Service; 2] = [Service::Tcp(HOST_PORT), Service::Udp(UDP_PORT)];
const PODS: [&str; 3] = ["shop/client", "shop/web", "shop/other"];

/// Returns the pods; web has the host port.
fn pods(lab: &Lab) -> String {
    let pod = |key: &&str| {
        let (namespace, name) = key.split_once('/').unwrap();
        let ips: Vec<String> = lab
            .site(key)
            .unwrap()
            .addresses
            .iter()
            .map(|ip| format!("{{ip: \"{ip}\"}}"))
            .collect();
        let ports = match name {
            "web" => format!(
                ", ports: [{{containerPort: 8080, hostPort: {HOST_PORT}}}, \
                 {{containerPort: 5353, hostPort: {UDP_PORT}, protocol: UDP}}]"
            ),
            _ => String::new(),
        };
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: {namespace}, name: {name}, labels: {{app: {name}}}}}\n\
             spec: {{nodeName: node-a, containers: [{{name: main, image: example{ports}}}]}}\n\
             status: {{phase: Running, podIPs: [{}]}}\n",
            ips.join(", ")
        )
    };
    PODS.iter().map(pod).collect::<Vec<_>>().join("---\n")
}

/// Writes the rules of the CNI plugin portmap for the host port: translation at all addresses of
/// the node, and masquerade for pods of the node's range.
fn port_map(lab: &Lab) {
    let web = lab.site("shop/web").unwrap();
    for (address, range) in web.addresses.iter().zip(lab.node.plan().pod_networks()) {
        let (program, backend) = match address {
            IpAddr::V4(address) => ("iptables-restore", address.to_string()),
            IpAddr::V6(address) => ("ip6tables-restore", format!("[{address}]")),
        };
        let mut ports = String::new();
        for (protocol, port, target) in [("tcp", HOST_PORT, 8080), ("udp", UDP_PORT, 5353)] {
            writeln!(
                ports,
                "-A CNI-HOSTPORT-DNAT -p {protocol} -m multiport --dports {port} -j CNI-DN-web\n\
                 -A CNI-DN-web -s {range} -p {protocol} -m {protocol} --dport {port} -j CNI-HOSTPORT-SETMARK\n\
                 -A CNI-DN-web -p {protocol} -m {protocol} --dport {port} -j DNAT --to-destination {backend}:{target}"
            )
            .unwrap();
        }
        let rules = format!(
            "*nat\n:CNI-HOSTPORT-SETMARK - [0:0]\n:CNI-HOSTPORT-MASQ - [0:0]\n:CNI-HOSTPORT-DNAT - [0:0]\n:CNI-DN-web - [0:0]\n\
             -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n\
             -A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n\
             -A POSTROUTING -j CNI-HOSTPORT-MASQ\n\
             -A CNI-HOSTPORT-SETMARK -j MARK --set-xmark 0x2000/0x2000\n\
             -A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE\n\
             {ports}COMMIT\n"
        );
        lab.node.netns().feed(program, &["--noflush"], &rules).unwrap();
    }
}

fn policy(app: &str, types: &str, rules: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{namespace: shop, name: {app}}}\n\
         spec: {{podSelector: {{matchLabels: {{app: {app}}}}}, policyTypes: [{types}], {rules}}}\n"
    )
}

fn ask(lab: &Lab, from: &str, to: &str, port: &str) -> (i32, String) {
    let socket = lab.agent.socket();
    let output = netpol(&[
        "explain",
        "--socket",
        socket.to_str().unwrap(),
        "-o",
        "json",
        from,
        to,
        port,
    ]);
    (output.status.code().unwrap(), stdout(&output) + &stderr(&output))
}

/// Returns the last drops that the agent reported.
fn drops(lab: &Lab) -> String {
    let log = lab.agent.log();
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("packet dropped"))
        .collect();
    lines[lines.len().saturating_sub(4)..].join("\n")
}

#[expect(clippy::too_many_lines, reason = "one node, asked about each of its ports")]
#[test]
fn a5_a_host_port_is_explained_by_where_it_ends() {
    if !can_enforce("explain") {
        return;
    }
    let labels = PODS.map(|pod| (pod, if pod == "shop/web" { "app: web" } else { "app: any" }));
    let lab = Lab::new(&labels, &[]).unwrap();
    lab.apply("pods.yaml", &pods(&lab)).unwrap();
    port_map(&lab);
    let selects = |app: &str| format!("{{podSelector: {{matchLabels: {{app: {app}}}}}}}");
    let [bridge, bridge6] = lab
        .node
        .plan()
        .pod_networks()
        .map(|net| netpol_tests::node::member(net, 1).addr());
    let outside = lab.site("outside").unwrap().addresses;
    let blocks = |addresses: &[IpAddr]| {
        let block = |address: &IpAddr| {
            format!(
                "{{ipBlock: {{cidr: \"{address}/{}\"}}}}",
                if address.is_ipv4() { 32 } else { 128 }
            )
        };
        addresses.iter().map(block).collect::<Vec<_>>().join(", ")
    };
    // Columns: policies, and the sources for which masquerading by the CNI is unknown.
    let table: Vec<(String, &[&str])> = vec![
        (String::new(), &[]),
        (policy("web", "Ingress", "ingress: []"), &[]),
        (
            policy(
                "web",
                "Ingress",
                &format!("ingress: [{{from: [{}]}}]", selects("client")),
            ),
            &["shop/client"],
        ),
        (
            policy(
                "web",
                "Ingress",
                &format!("ingress: [{{from: [{}]}}]", selects("web")),
            ),
            &[],
        ),
        (
            policy(
                "web",
                "Ingress",
                &format!("ingress: [{{from: [{}]}}]", blocks(&[bridge, bridge6])),
            ),
            &["shop/client", "shop/other"],
        ),
        (
            policy(
                "web",
                "Ingress",
                &format!("ingress: [{{from: [{}]}}]", blocks(&outside)),
            ),
            &[],
        ),
        (policy("client", "Egress", "egress: []"), &[]),
        (
            policy(
                "client",
                "Egress",
                &format!("egress: [{{to: [{}]}}]", selects("web")),
            ),
            &[],
        ),
        (
            policy(
                "client",
                "Egress",
                &format!(
                    "egress: [{{to: [{}], ports: [{{port: 8080}}, {{port: 5353, protocol: UDP}}]}}]",
                    selects("web")
                ),
            ),
            &[],
        ),
        (
            policy(
                "client",
                "Egress",
                &format!(
                    "egress: [{{to: [{}], ports: [{{port: 9000}}, {{port: 9001, protocol: UDP}}]}}]",
                    selects("web")
                ),
            ),
            &[],
        ),
        // The server and the client, each isolated in the direction of the replies (rule C1).
        (policy("web", "Egress", "egress: []"), &[]),
        (policy("client", "Ingress", "ingress: []"), &[]),
        (
            policy("web", "Egress", "egress: []") + "---\n" + &policy("client", "Ingress", "ingress: []"),
            &[],
        ),
    ];
    let node = lab.site("node").unwrap();
    let web = lab.site("shop/web").unwrap();
    for (policies, unsure) in table {
        match policies.is_empty() {
            true => {}
            false => lab.apply("policy.yaml", &policies).unwrap(),
        }
        for from in ["shop/client", "shop/other", "shop/web", "outside", "node"] {
            let site = lab.site(from).unwrap();
            let asked = || {
                SERVICES
                    .iter()
                    .flat_map(|service| node.addresses.iter().map(move |to| (*service, *to)))
            };
            let probes: Vec<Probe> = asked()
                .filter_map(|(service, to)| Probe::new(&site, &web, to, service))
                .collect();
            let outcomes = lab.prober.probe(&probes).unwrap();
            for ((service, to), outcome) in asked().zip(outcomes) {
                let source = site.address_like(to).unwrap().to_string();
                let port = match service {
                    Service::Udp(port) => format!("{port}/UDP"),
                    _ => format!("{HOST_PORT}/TCP"),
                };
                let (code, text) = ask(&lab, &source, &to.to_string(), &port);
                let expected = match (unsure.contains(&from), &outcome) {
                    (true, _) => 3,
                    (false, Outcome::Reached) => 0,
                    (false, _) => 1,
                };
                assert_eq!(
                    code,
                    expected,
                    "{from} -> {to} {port}, which is {outcome:?}, under\n{policies}\n{text}\n{}",
                    drops(&lab)
                );
                let answer: Value = serde_json::from_str(&text).unwrap();
                assert_eq!(answer["verdicts"][0]["destination"]["name"], "shop/web", "{text}");
            }
        }
    }
    // At other ports, the node is the node. Without a listener there is no answer.
    let (code, text) = ask(&lab, "shop/client", &node.addresses[0].to_string(), "8080/TCP");
    assert_eq!(code, 0, "{text}");
}
