// SPDX-License-Identifier: Apache-2.0
//! Terse builders of objects, and questions to what was compiled.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use super::super::{ClassId, Compiled, Entry, compile};
use crate::model::*;

pub(super) const A: &str = "10.0.0.1";
pub(super) const B: &str = "10.0.0.2";
pub(super) const C: &str = "10.0.0.3";

pub(super) fn labels(text: &str) -> Labels {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

pub(super) fn selector(text: &str) -> LabelSelector {
    LabelSelector {
        match_labels: labels(text),
        ..Default::default()
    }
}

pub(super) fn expression(operator: &str, values: &[&str]) -> LabelSelector {
    LabelSelector {
        match_expressions: vec![LabelExpression {
            key: "app".into(),
            operator: operator.into(),
            values: values.iter().map(|value| (*value).to_owned()).collect(),
        }],
        ..Default::default()
    }
}

pub(super) fn pod(namespace: &str, name: &str, text: &str, address: &str) -> Pod {
    Pod {
        key: ObjectKey::new(namespace, name),
        uid: String::new(),
        labels: labels(text),
        node: Some("n1".into()),
        host_network: false,
        terminal: false,
        terminating: false,
        static_uid: None,
        addresses: vec![address.parse().unwrap()],
        named_ports: Vec::new(),
        host_ports: Vec::new(),
    }
}

pub(super) fn named(mut pod: Pod, name: &str, number: u16) -> Pod {
    pod.named_ports.push(NamedPort {
        name: name.into(),
        protocol: Protocol::Tcp,
        number,
    });
    pod
}

pub(super) fn policy(text: &str, ingress: Vec<Rule>, egress: Vec<Rule>) -> NetworkPolicy {
    NetworkPolicy {
        key: ObjectKey::new("shop", "p"),
        pod_selector: selector(text),
        policy_types: None,
        ingress,
        egress,
    }
}

pub(super) fn rule(peers: Vec<Peer>, ports: Vec<PolicyPort>) -> Rule {
    Rule { peers, ports }
}

pub(super) fn pods(selector: LabelSelector) -> Peer {
    Peer {
        pod_selector: Some(selector),
        ..Default::default()
    }
}

pub(super) fn namespaces(selector: LabelSelector) -> Peer {
    Peer {
        namespace_selector: Some(selector),
        ..Default::default()
    }
}

pub(super) fn block(cidr: &str, except: &[&str]) -> Peer {
    Peer {
        ip_block: Some(IpBlock {
            cidr: cidr.into(),
            except: except.iter().map(|net| (*net).to_owned()).collect(),
        }),
        ..Default::default()
    }
}

pub(super) fn port(number: i32, end_port: Option<i32>) -> PolicyPort {
    PolicyPort {
        port: Some(PortName::Number(number)),
        end_port,
        ..Default::default()
    }
}

pub(super) fn port_name(name: &str) -> PolicyPort {
    PolicyPort {
        port: Some(PortName::Name(name.into())),
        ..Default::default()
    }
}

pub(super) fn snapshot(pods: Vec<Pod>, policies: Vec<NetworkPolicy>) -> Snapshot {
    Snapshot {
        pods: pods
            .into_iter()
            .map(|pod| (pod.key.clone(), Arc::new(pod)))
            .collect(),
        policies: policies
            .into_iter()
            .map(|policy| (policy.key.clone(), Arc::new(policy)))
            .collect(),
        ..Default::default()
    }
}

pub(super) fn node() -> Node {
    Node {
        name: "n1".into(),
        addresses: BTreeSet::from(["192.168.0.1".parse().unwrap()]),
        ..Node::default()
    }
}

pub(super) fn compiled(pods: Vec<Pod>, policies: Vec<NetworkPolicy>) -> Compiled {
    let (snapshot, node) = (snapshot(pods, policies), node());
    let first = compile(&snapshot, &node);
    assert_eq!(first, compile(&snapshot, &node), "compiling twice gives the same");
    for address in first.addresses.values() {
        assert!(first.classes.contains_key(&address.class));
    }
    first
}

pub(super) fn class_of(compiled: &Compiled, address: &str) -> ClassId {
    let address: IpAddr = address.parse().unwrap();
    let covering = compiled
        .addresses
        .iter()
        .filter(|(net, _)| net.contains(&address));
    covering
        .max_by_key(|(net, _)| net.prefix_len())
        .map_or(0, |(_, found)| found.class)
}

/// Whether endpoint `shop/name` allows the packet in this direction, looked up as the kernel does.
pub(super) fn allows(
    compiled: &Compiled,
    direction: Direction,
    name: &str,
    peer: &str,
    protocol: u8,
    port: u16,
) -> bool {
    let endpoint = &compiled.endpoints[&ObjectKey::new("shop", name)];
    let index = match direction {
        Direction::Ingress => endpoint.ingress,
        Direction::Egress => endpoint.egress,
    };
    let Some(index) = index else { return true };
    let class = class_of(compiled, peer);
    compiled.entries(index, class).iter().any(|(entry, value)| {
        assert!(compiled.rules.contains_key(&value.rule));
        entry.is_none_or(|found| {
            let mask = u16::MAX
                .checked_shl(16 - u32::from(found.prefix_len))
                .unwrap_or(0);
            found.protocol == protocol && port & mask == found.port
        })
    })
}

pub(super) fn ingress(compiled: &Compiled, peer: &str, port: u16) -> bool {
    allows(compiled, Direction::Ingress, "web", peer, 6, port)
}

pub(super) fn egress(compiled: &Compiled, peer: &str, port: u16) -> bool {
    allows(compiled, Direction::Egress, "web", peer, 6, port)
}

pub(super) fn codes(compiled: &Compiled) -> Vec<(&'static str, &str)> {
    compiled
        .diagnostics
        .keys()
        .map(|found| (found.code, found.field.as_str()))
        .collect()
}

pub(super) fn web() -> Pod {
    pod("shop", "web", "app=web", A)
}

pub(super) fn db() -> Pod {
    pod("shop", "db", "app=db", B)
}

pub(super) fn other() -> Pod {
    pod("other", "db", "app=db", C)
}

/// All entries of the only policy.
pub(super) fn entries(compiled: &Compiled) -> Vec<(Option<crate::model::ProtocolMatch>, Entry)> {
    assert_eq!(compiled.policies.len(), 1);
    let classes = compiled.classes.keys();
    classes.flat_map(|class| compiled.entries(0, *class)).collect()
}

/// The first diagnostic.
pub(super) fn first(compiled: &Compiled) -> &Diagnostic {
    compiled.diagnostics.keys().next().unwrap()
}
