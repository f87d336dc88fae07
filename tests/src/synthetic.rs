// SPDX-License-Identifier: Apache-2.0
//! Makes clusters of any size from a seed, for measurements: namespaces of teams, ReplicaSets and
//! StatefulSets with typical labels, policies of the usual kinds, and single-object changes.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use netpol_agent::model::*;

use crate::random::Random;

/// Size of a cluster.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Pods of the cluster.
    pub pods: usize,
    /// Pods of node [`NODE`], included in `pods`.
    pub local: usize,
    /// NetworkPolicies.
    pub policies: usize,
    /// Namespaces.
    pub namespaces: usize,
}

/// The measured node.
pub const NODE: &str = "node-0";
const TEAMS: usize = 25;
const APPS: usize = 12;

fn word(prefix: &str, number: usize) -> String {
    format!("{prefix}-{number}")
}

fn pairs(of: &[(&str, String)]) -> Labels {
    of.iter()
        .map(|(key, value)| ((*key).to_owned(), value.clone()))
        .collect()
}

fn namespace(index: usize, tier: usize) -> Namespace {
    let name = word("ns", index);
    let labels = pairs(&[
        ("kubernetes.io/metadata.name", name.clone()),
        ("team", word("team", index % TEAMS)),
        ("tier", word("tier", tier)),
    ]);
    Namespace {
        name,
        labels,
        forwards: None,
    }
}

/// Returns pod number `index`: every sixth belongs to a StatefulSet, and has its own name as a
/// label.
pub fn pod(random: &mut Random, size: &Size, index: usize) -> Pod {
    let namespace = word("ns", index % size.namespaces);
    let app = random.below(APPS);
    let name = format!("app-{app}-{index}");
    let mut labels = vec![
        ("app.kubernetes.io/name", word("app", app)),
        ("app", word("app", app)),
        ("app.kubernetes.io/instance", format!("{namespace}-app-{app}")),
        ("version", word("v", app % 3)),
    ];
    if index.is_multiple_of(6) {
        labels.push(("statefulset.kubernetes.io/pod-name", name.clone()));
    } else {
        labels.push((
            "pod-template-hash",
            format!("{app:x}5d9f7c8b{}", index % size.namespaces),
        ));
    }
    let local = index < size.local;
    let node = if local {
        NODE.to_owned()
    } else {
        word("node", 1 + index / 110)
    };
    let address =
        0x0a00_0000 + 0x100 * (if local { 0 } else { 1 + index / 110 }) as u32 + (index % 110 + 2) as u32;
    Pod {
        key: ObjectKey::new(namespace, name),
        uid: format!("{index:08x}-0000-4000-8000-000000000000"),
        labels: pairs(&labels),
        node: Some(node.into()),
        host_network: false,
        terminal: false,
        terminating: false,
        static_uid: None,
        addresses: vec![IpAddr::V4(Ipv4Addr::from(address))],
        named_ports: vec![NamedPort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            number: 8080 + (app % 2) as u16,
        }],
        host_ports: Vec::new(),
    }
}

fn labelled(key: &str, value: String) -> Option<LabelSelector> {
    Some(LabelSelector {
        match_labels: pairs(&[(key, value)]),
        ..LabelSelector::default()
    })
}

fn peer(random: &mut Random) -> Peer {
    match random.below(10) {
        0..=4 => Peer {
            pod_selector: labelled("app", word("app", random.below(APPS))),
            ..Peer::default()
        },
        5 => Peer {
            namespace_selector: labelled("team", word("team", random.below(TEAMS))),
            ..Peer::default()
        },
        6 | 7 => Peer {
            namespace_selector: labelled("team", word("team", random.below(TEAMS))),
            pod_selector: labelled("app.kubernetes.io/name", word("app", random.below(APPS))),
            ..Peer::default()
        },
        8 => Peer {
            namespace_selector: labelled("kubernetes.io/metadata.name", word("ns", random.below(50))),
            ..Peer::default()
        },
        _ => Peer {
            ip_block: Some(if random.below(3) == 0 {
                IpBlock {
                    cidr: "0.0.0.0/0".to_owned(),
                    except: vec!["10.0.0.0/8".to_owned(), "192.168.0.0/16".to_owned()],
                }
            } else {
                IpBlock {
                    cidr: format!("203.0.{}.0/24", random.below(200)),
                    except: Vec::new(),
                }
            }),
            ..Peer::default()
        },
    }
}

fn port(random: &mut Random) -> PolicyPort {
    let port = match random.below(6) {
        0 => PortName::Name("http".to_owned()),
        other => PortName::Number([80, 443, 8080, 5432, 53][other - 1]),
    };
    PolicyPort {
        protocol: None,
        port: Some(port),
        end_port: None,
    }
}

fn rule(random: &mut Random) -> Rule {
    Rule {
        peers: (0..1 + random.below(3)).map(|_| peer(random)).collect(),
        ports: (0..random.below(3)).map(|_| port(random)).collect(),
    }
}

/// Returns a policy of a namespace: one in ten is a default deny, the others are for an app.
pub fn policy(random: &mut Random, size: &Size, index: usize) -> NetworkPolicy {
    let deny = random.below(10) == 0;
    let egress = random.below(3) == 0;
    NetworkPolicy {
        key: ObjectKey::new(word("ns", index % size.namespaces), word("policy", index)),
        pod_selector: if deny {
            LabelSelector::default()
        } else {
            labelled("app", word("app", random.below(APPS))).unwrap_or_default()
        },
        policy_types: Some(if egress {
            vec![Direction::Ingress, Direction::Egress]
        } else {
            vec![Direction::Ingress]
        }),
        ingress: if deny {
            Vec::new()
        } else {
            (0..1 + random.below(2)).map(|_| rule(random)).collect()
        },
        egress: if deny || !egress {
            Vec::new()
        } else {
            (0..1 + random.below(2)).map(|_| rule(random)).collect()
        },
    }
}

/// Returns a cluster.
pub fn cluster(random: &mut Random, size: &Size) -> Snapshot {
    let mut snapshot = Snapshot {
        revision: 1,
        ..Snapshot::default()
    };
    snapshot.namespaces = (0..size.namespaces)
        .map(|index| namespace(index, index % 3))
        .map(|o| (o.name.clone(), Arc::new(o)))
        .collect();
    snapshot.pods = (0..size.pods)
        .map(|index| pod(random, size, index))
        .map(|o| (o.key.clone(), Arc::new(o)))
        .collect();
    snapshot.policies = (0..size.policies)
        .map(|index| policy(random, size, index))
        .map(|o| (o.key.clone(), Arc::new(o)))
        .collect();
    snapshot
}

/// All kinds of changes.
pub const CHANGES: [&str; 7] = [
    "policy added",
    "policy changed",
    "policy deleted",
    "pod added",
    "pod relabelled",
    "pod deleted",
    "namespace relabelled",
];

/// Makes a change of a kind; half of those to policies and pods concern the node's own namespaces.
pub fn change(random: &mut Random, size: &Size, snapshot: &mut Snapshot, kind: &str, nth: usize) {
    snapshot.revision += 1;
    let space = if random.below(2) == 0 {
        size.local.min(size.namespaces)
    } else {
        size.namespaces
    };
    let space = random.below(space);
    let in_space = |name: &ObjectKey| name.namespace == word("ns", space);
    let some_pod = |random: &mut Random, snapshot: &Snapshot| {
        let pods: Vec<_> = snapshot
            .pods
            .values()
            .filter(|pod| in_space(&pod.key))
            .cloned()
            .collect();
        pods[random.below(pods.len())].clone()
    };
    match kind {
        "policy added" => {
            let added = policy(random, size, size.policies + nth * size.namespaces + space);
            snapshot.policies.insert(added.key.clone(), Arc::new(added));
        }
        "policy changed" | "policy deleted" => {
            let policies: Vec<_> = snapshot
                .policies
                .keys()
                .filter(|key| in_space(key))
                .cloned()
                .collect();
            let Some(key) = policies.get(random.below(policies.len().max(1))).cloned() else {
                return;
            };
            if kind == "policy deleted" {
                snapshot.policies.remove(&key);
            } else {
                let changed = NetworkPolicy {
                    key: key.clone(),
                    ..policy(random, size, 0)
                };
                snapshot.policies.insert(key, Arc::new(changed));
            }
        }
        "pod added" => {
            let mut added = pod(random, size, 400_000 + nth * size.namespaces + space);
            added.addresses = vec![IpAddr::V4(Ipv4Addr::from(
                0x0b00_0000 + (nth * 1000 + space) as u32,
            ))];
            snapshot.pods.insert(added.key.clone(), Arc::new(added));
        }
        "pod relabelled" => {
            let mut changed = Pod::clone(&some_pod(random, snapshot));
            let like = random.below(1000);
            changed.labels = pod(random, size, like).labels;
            snapshot.pods.insert(changed.key.clone(), Arc::new(changed));
        }
        "pod deleted" => {
            let key = some_pod(random, snapshot).key.clone();
            snapshot.pods.remove(&key);
        }
        _ => {
            let mut changed = namespace(space, random.below(3));
            changed.labels.insert("team", word("team", random.below(TEAMS)));
            snapshot
                .namespaces
                .insert(changed.name.clone(), Arc::new(changed));
        }
    }
}
