// SPDX-License-Identifier: Apache-2.0
//! The policies of a [`super::world::World`] as rules of the kernel's packet filters, in the usual
//! form. Packets of known connections pass first. Then each direction has a chain, with a rule for
//! each policy and a set of the addresses that it names.

use std::{fmt::Write as _, net::IpAddr};

use super::world::{PORT, group_addresses, group_port};

fn list(addresses: &[IpAddr]) -> String {
    let words: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    words.join(", ")
}

/// Returns rules for nftables.
pub fn nftables(measured: &[IpAddr], policies: u32) -> String {
    let mut rules = String::from("table inet bench {\n");
    let mut set = |name: &str, addresses: &[IpAddr]| {
        let _ = writeln!(
            rules,
            "set {name} {{ type ipv4_addr; elements = {{ {} }} }}",
            list(addresses)
        );
    };
    set("measured", measured);
    for group in 1..policies {
        set(&format!("group{group}"), &group_addresses(group));
    }
    for (chain, peer) in [("ingress_of", "saddr"), ("egress_of", "daddr")] {
        let _ = writeln!(rules, "chain {chain} {{");
        for group in 1..policies {
            let port = group_port(group);
            let _ = writeln!(rules, "ip {peer} @group{group} tcp dport {port} return");
        }
        let _ = writeln!(rules, "ip {peer} @measured tcp dport {PORT} return");
        let _ = writeln!(rules, "ip {peer} @measured udp dport {PORT} return\ndrop\n}}");
    }
    rules.push_str(
        "chain forward {\ntype filter hook forward priority 0;\nct state established,related accept\n\
         ip saddr @measured jump egress_of\nip daddr @measured jump ingress_of\n}\n}\n",
    );
    rules
}

/// Returns the inputs of `ipset restore` and of `iptables-restore`.
pub fn ipset(measured: &[IpAddr], policies: u32) -> (String, String) {
    let mut sets = String::new();
    let mut set = |name: &str, addresses: &[IpAddr]| {
        let _ = writeln!(sets, "create {name} hash:ip");
        for address in addresses {
            let _ = writeln!(sets, "add {name} {address}");
        }
    };
    set("measured", measured);
    for group in 1..policies {
        set(&format!("group{group}"), &group_addresses(group));
    }
    let mut rules = String::from("*filter\n:EGRESS-OF - [0:0]\n:INGRESS-OF - [0:0]\n");
    rules.push_str("-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n");
    for (chain, peer, own) in [("EGRESS-OF", "dst", "src"), ("INGRESS-OF", "src", "dst")] {
        let _ = writeln!(rules, "-A FORWARD -m set --match-set measured {own} -j {chain}");
        let mut rule = |set: &str, protocol: &str, port: u16| {
            let _ = writeln!(
                rules,
                "-A {chain} -p {protocol} --dport {port} -m set --match-set {set} {peer} -j RETURN"
            );
        };
        for group in 1..policies {
            rule(&format!("group{group}"), "tcp", group_port(group));
        }
        rule("measured", "tcp", PORT);
        rule("measured", "udp", PORT);
        let _ = writeln!(rules, "-A {chain} -j DROP");
    }
    rules.push_str("COMMIT\n");
    (sets, rules)
}

#[cfg(test)]
mod tests {
    use super::{ipset, nftables};

    #[test]
    fn there_is_a_rule_for_each_policy_and_direction() {
        let measured = ["10.244.0.10".parse().unwrap()];
        let rules = nftables(&measured, 3);
        let count = |text: &str, part: &str| text.lines().filter(|line| line.contains(part)).count();
        assert_eq!(count(&rules, "@group1 tcp dport 20001 return"), 2);
        assert_eq!(count(&rules, "@group2 tcp dport 20002 return"), 2);
        assert_eq!(count(&rules, "@measured udp dport 7000 return"), 2);
        assert!(!rules.contains("group3"));
        let (sets, rules) = ipset(&measured, 3);
        assert_eq!(count(&sets, "add group2 10.245.0."), 2);
        assert_eq!(count(&rules, "--dport 20002 -m set --match-set group2"), 2);
        assert_eq!(count(&rules, "-j DROP"), 2);
    }
}
