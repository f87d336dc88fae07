// SPDX-License-Identifier: Apache-2.0
//! The table of nftables mode, as input for `nft -f -`, which replaces it in one transaction.

use std::{collections::BTreeSet, fmt::Write, net::IpAddr};

use super::{
    Family,
    ports::{Port, digest},
};

/// Rules for Services, to add to the permanent chains.
#[derive(Default)]
struct Parts {
    cluster_ips: BTreeSet<String>,
    service_ips: Vec<String>,
    node_ports: Vec<String>,
    rejected_services: Vec<String>,
    rejected_node_ports: Vec<String>,
    chains: String,
}

/// Returns the whole table. `primary` is the address at which node ports are open.
pub(super) fn rules(ports: &[Port], family: Family, primary: IpAddr) -> String {
    let ip = if family.ipv4 { "ip" } else { "ip6" };
    let kind = if family.ipv4 { "ipv4_addr" } else { "ipv6_addr" };
    let mut parts = Parts::default();
    for port in ports {
        parts.add(port, family, ip);
    }
    let mut text =
        format!("add table {ip} kube-proxy\ndelete table {ip} kube-proxy\ntable {ip} kube-proxy {{\n");
    let mut set = |name: &str, declaration: &str, elements: &[String]| {
        let _ = writeln!(text, "  {name} {{\n    {declaration}");
        if !elements.is_empty() {
            let _ = writeln!(text, "    elements = {{ {} }}", elements.join(", "));
        }
        text.push_str("  }\n");
    };
    let address_and_port = format!("type {kind} . inet_proto . inet_service : verdict");
    let port = "type inet_proto . inet_service : verdict";
    set(
        "set cluster-ips",
        &format!("type {kind}"),
        &Vec::from_iter(parts.cluster_ips),
    );
    set(
        "set nodeport-ips",
        &format!("type {kind}"),
        &[primary.to_string()],
    );
    set(
        "map no-endpoint-services",
        &address_and_port,
        &parts.rejected_services,
    );
    set("map no-endpoint-nodeports", port, &parts.rejected_node_ports);
    set("map service-ips", &address_and_port, &parts.service_ips);
    set("map service-nodeports", port, &parts.node_ports);
    text.push_str(&base(ip, family));
    text.push_str(&parts.chains);
    text.push_str("}\n");
    text
}

/// Returns the chains that do not depend on Services.
fn base(ip: &str, family: Family) -> String {
    let by_address = format!("{ip} daddr . meta l4proto . th dport vmap");
    let by_port = format!("{ip} daddr @nodeport-ips meta l4proto . th dport vmap");
    let hooked = |name: &str, kind: &str, hook: &str, priority: i32, rules: &[&str]| {
        format!(
            "  chain {name} {{\n    type {kind} hook {hook} priority {priority};\n    {}\n  }}\n",
            rules.join("\n    ")
        )
    };
    let endpoints = "ct state new jump service-endpoints-check";
    let ips = "ct state new jump cluster-ips-check";
    let node_ports = "ct state new jump nodeport-endpoints-check";
    let hooks = [
        hooked("filter-input", "filter", "input", 0, &[node_ports, endpoints]),
        hooked("filter-forward", "filter", "forward", 0, &[endpoints, ips]),
        hooked("filter-output", "filter", "output", 0, &[endpoints, ips]),
        hooked("nat-prerouting", "nat", "prerouting", -100, &["jump services"]),
        hooked("nat-output", "nat", "output", -100, &["jump services"]),
        hooked(
            "nat-postrouting",
            "nat",
            "postrouting",
            100,
            &["jump masquerading"],
        ),
    ];
    format!(
        "  chain reject-chain {{ reject; }}\n\
         \x20 chain mark-for-masquerade {{ meta mark set meta mark or 0x4000; }}\n\
         \x20 chain masquerading {{\n\
         \x20   meta mark and 0x4000 == 0 return\n\
         \x20   meta mark set meta mark xor 0x4000\n\
         \x20   masquerade fully-random\n\
         \x20 }}\n\
         \x20 chain cluster-ips-check {{\n\
         \x20   {ip} daddr @cluster-ips reject\n\
         \x20   {ip} daddr {{ {} }} drop\n\
         \x20 }}\n\
         \x20 chain service-endpoints-check {{ {by_address} @no-endpoint-services; }}\n\
         \x20 chain nodeport-endpoints-check {{ {by_port} @no-endpoint-nodeports; }}\n\
         \x20 chain services {{\n\
         \x20   {by_address} @service-ips\n\
         \x20   {by_port} @service-nodeports\n\
         \x20 }}\n\
         {}",
        family.services,
        hooks.concat()
    )
}

impl Parts {
    fn add(&mut self, port: &Port, family: Family, ip: &str) {
        let Port {
            path,
            protocol,
            port: number,
            ..
        } = port;
        self.cluster_ips
            .extend(port.cluster_ips.iter().map(IpAddr::to_string));
        let name = |kind: &str| format!("{kind}-{}-{path}", &digest(&[path])[..8]);
        let (to_backends, from_outside) = (name("service"), name("external"));
        let rejected = port.backends.is_empty();
        let (internal, external) = if rejected {
            ("reject-chain", "reject-chain")
        } else {
            (to_backends.as_str(), from_outside.as_str())
        };
        let ips = port.cluster_ips.iter().map(|ip| (ip, internal));
        let ips = ips.chain(port.external_ips.iter().map(|ip| (ip, external)));
        let by_address = ips.map(|(ip, target)| format!("{ip} . {protocol} . {number} : goto {target}"));
        let by_port = port
            .node_port
            .map(|number| format!("{protocol} . {number} : goto {external}"));
        if rejected {
            self.rejected_services.extend(by_address);
            self.rejected_node_ports.extend(by_port);
            return;
        }
        self.service_ips.extend(by_address);
        self.node_ports.extend(by_port);

        let mut shares = Vec::new();
        for (index, backend) in port.backends.iter().enumerate() {
            let text = backend.to_string();
            let place = format!("{}/{}", backend.ip(), backend.port()).replace(':', ".");
            let endpoint = format!("endpoint-{}-{path}__{place}", &digest(&[path, &text])[..8]);
            let _ = writeln!(
                self.chains,
                "  chain {endpoint} {{\n    {ip} saddr {} jump mark-for-masquerade\n    meta l4proto {protocol} dnat to {text}\n  }}",
                backend.ip()
            );
            shares.push(format!("{index} : goto {endpoint}"));
        }
        let _ = writeln!(self.chains, "  chain {to_backends} {{");
        for address in &port.cluster_ips {
            let _ = writeln!(
                self.chains,
                "    {ip} daddr {address} {} jump mark-for-masquerade",
                family.masqueraded(&format!("{ip} saddr !="))
            );
        }
        let _ = writeln!(
            self.chains,
            "    numgen random mod {} vmap {{ {} }}\n  }}",
            shares.len(),
            shares.join(", ")
        );
        if port.is_external() {
            let _ = writeln!(
                self.chains,
                "  chain {from_outside} {{\n    jump mark-for-masquerade\n    goto {to_backends}\n  }}"
            );
        }
    }
}
