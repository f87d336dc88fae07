// SPDX-License-Identifier: Apache-2.0
//! Makes random clusters and packets from a small vocabulary, so that rules often meet. The same
//! seed makes the same cluster.

use std::{net::IpAddr, sync::Arc};

use netpol_agent::{evaluate::Packet, model::*};

mod changes;

pub use changes::{any_change, batch, change};

/// A small deterministic generator (splitmix64).
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// Returns a number below `limit`, which must not be 0.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }

    fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }

    fn many<T>(&mut self, below: usize, make: impl Fn(&mut Self) -> T) -> Vec<T> {
        (0..self.below(below)).map(|_| make(self)).collect()
    }

    fn several<T>(&mut self, count: usize, make: impl Fn(&mut Self) -> T) -> Vec<T> {
        (0..count).map(|_| make(self)).collect()
    }
}

const NAMESPACES: [&str; 3] = ["a", "b", "c"];
const PORTS: [i32; 8] = [1, 79, 80, 81, 8080, 8090, 65535, 53];
const CIDRS: [&str; 24] = [
    "0.0.0.0/0",
    "10.244.0.0/16",
    "10.244.0.9/24",
    "10.244.0.10/31",
    "10.244.0.11/32",
    "10.244.1.0/29",
    "198.51.100.0/24",
    "198.51.100.128/25",
    "::/0",
    "fd00:10:244::/64",
    "fd00:10:244::a/127",
    "2001:db8:1::/64",
    "10.0.0.0/33",
    "word",
    // Unusual ones, some of them accepted (rule P5).
    "010.244.0.0/16",
    "10.0244.0.0/016",
    "00.0.0.0/00",
    "198.051.100.0/024",
    "FD00:0010:00244::/064",
    "0::0/0",
    "::ffff:10.244.0.0/112",
    "::ffff:0:0/96",
    " 10.244.0.0/16",
    "10.244.0.0/+16",
];

/// The two nodes.
pub fn nodes() -> Vec<Node> {
    let node = |name: &str, addresses: [&str; 2]| Node {
        name: name.to_owned(),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        ..Node::default()
    };
    vec![
        node("node-a", ["10.244.0.1", "fd00:10:244::1"]),
        node("node-b", ["198.51.100.2", "2001:db8:1::2"]),
    ]
}

fn labels(random: &mut Random) -> Labels {
    let mut labels = Labels::new();
    for key in ["app", "tier"] {
        if random.below(4) > 0 {
            labels.insert(key, random.pick(&["x", "y", "z"]));
        }
    }
    labels
}

fn selector(random: &mut Random) -> LabelSelector {
    let match_labels = if random.below(2) == 0 {
        Labels::new()
    } else {
        labels(random)
    };
    let match_expressions = random.many(3, |random| {
        let operator = match random.below(20) {
            0 => "Like",
            other => ["In", "NotIn", "Exists", "DoesNotExist"][other % 4],
        };
        let wanted = matches!(operator, "In" | "NotIn") != (random.below(12) == 0);
        let count = if wanted { 1 + random.below(2) } else { 0 };
        LabelExpression {
            key: random.pick(&["app", "tier", "none"]).to_owned(),
            operator: operator.to_owned(),
            values: (0..count)
                .map(|_| random.pick(&["x", "y", "z"]).to_owned())
                .collect(),
        }
    });
    LabelSelector {
        match_labels,
        match_expressions,
    }
}

fn peer(random: &mut Random) -> Peer {
    let shape = random.below(20);
    let block = |random: &mut Random| IpBlock {
        cidr: random.pick(&CIDRS).to_owned(),
        except: random.many(3, |random| random.pick(&CIDRS).to_owned()),
    };
    Peer {
        pod_selector: matches!(shape, 0..=7 | 19).then(|| selector(random)),
        namespace_selector: matches!(shape, 4..=11).then(|| selector(random)),
        ip_block: matches!(shape, 12..=17 | 19).then(|| block(random)),
    }
}

fn port(random: &mut Random) -> PolicyPort {
    let number = |random: &mut Random| PORTS[random.below(PORTS.len())];
    PolicyPort {
        protocol: [None, Some("TCP"), Some("UDP"), Some("SCTP"), Some("tcp")][random.below(5)]
            .map(str::to_owned),
        port: match random.below(6) {
            0 => None,
            1 | 2 => Some(PortName::Name(random.pick(&["http", "dns", "nobody"]).to_owned())),
            3 if random.below(4) == 0 => Some(PortName::Number([0, -1, 65536][random.below(3)])),
            _ => Some(PortName::Number(number(random))),
        },
        end_port: (random.below(4) == 0).then(|| number(random)),
    }
}

fn rule(random: &mut Random) -> Rule {
    Rule {
        peers: random.many(4, peer),
        ports: random.many(4, port),
    }
}

fn namespace(random: &mut Random, name: &str) -> Namespace {
    let mut labels = labels(random);
    labels.insert("kubernetes.io/metadata.name", name);
    Namespace {
        name: name.to_owned(),
        labels,
        forwards: forwards(&mut Random(random.0 ^ 0xF0A6)),
    }
}

/// Returns what a namespace's pods route for (rule A6): usually nothing; sometimes ranges with
/// pods, nodes or Services, or something that is no range. Does not consume the cluster's random
/// numbers.
fn forwards(random: &mut Random) -> Option<Text> {
    const RANGES: [&str; 12] = [
        "10.8.0.0/16",
        "10.8.1.0/24",
        "fd00:8::/64",
        "192.0.2.0/24",
        "10.244.0.8/30",
        "10.244.0.0/16",
        "fd00:10:244::/56",
        "203.0.113.7/32",
        "10.96.0.0/12",
        "0.0.0.0/0",
        "10.8.0.1",
        "fe80::/64",
    ];
    if random.below(2) == 0 {
        return None;
    }
    let ranges = random.many(4, |random| random.pick(&RANGES).to_owned());
    Some(ranges.join(", ").into())
}

fn named_ports(random: &mut Random) -> Vec<NamedPort> {
    random.many(4, |random| NamedPort {
        name: random.pick(&["http", "dns"]).into(),
        protocol: Protocol::ALL[random.below(3)],
        number: PORTS[random.below(PORTS.len())] as u16,
    })
}

/// Returns budgets (rule L2): in one of three clusters so small that some objects exceed them. Does
/// not consume the cluster's random numbers.
fn limits(random: &mut Random) -> Limits {
    if random.below(3) > 0 {
        return Limits::default();
    }
    let limit = |random: &mut Random, most: usize| {
        let object = 1 + random.below(most);
        let namespace = object + random.below(most);
        Limit {
            object,
            namespace,
            all: namespace + random.below(2 * most),
        }
    };
    let everyones = Everyones {
        most: random.below(24),
        least: random.below(6),
        each: random.below(4),
    };
    // In one cluster of two, only the total budget for prefixes is small.
    let by_product = random.below(2) == 0;
    let mut limit = |most: usize| limit(&mut *random, most);
    let [pairs, prefixes, depth, requirements, wide] = [160, 8, 4, 12, 8].map(&mut limit);
    let much = Limits::default().policies;
    let policies = match by_product {
        true => [much[0], much[1], much[2], requirements, much[4]],
        false => [pairs, prefixes, depth, requirements, wide],
    };
    Limits {
        policies,
        services: [12, 30].map(limit),
        everyones,
        ..Limits::default()
    }
}

/// Returns the cluster, for two of three seeds with so little room in map `restricted` that
/// Services exceed it (rule L2). The reference evaluator does not know that budget: use it to
/// compare with what was compiled.
pub fn little_restricted_room(mut snapshot: Snapshot, seed: u64) -> Snapshot {
    let most = 1 + (seed / 3 % 6) as usize;
    if !seed.is_multiple_of(3) {
        snapshot.limits.restricted = Limit {
            object: most,
            namespace: most + 1,
            all: most + 2,
        };
    }
    snapshot
}

/// Returns a cluster: dual-stack pods on two nodes, host-network and finished ones, and policies of
/// all forms.
pub fn cluster(random: &mut Random) -> Snapshot {
    let mut snapshot = Snapshot {
        revision: 1,
        limits: limits(&mut Random(random.0 ^ 0xB0D6)),
        nodes: nodes()
            .into_iter()
            .map(|node| (node.name.clone(), Arc::new(node)))
            .collect(),
        ..Snapshot::default()
    };
    for name in NAMESPACES {
        let namespace = namespace(random, name);
        snapshot.namespaces.insert(name.to_owned(), Arc::new(namespace));
    }
    for index in 0..10 {
        let (block, host_network) = (index % 2, random.below(10) == 0);
        let node = &nodes()[block];
        let own = [
            format!("10.244.{block}.{}", 8 + index),
            format!("fd00:10:244:{block}::{:x}", 8 + index),
        ];
        let pod = Pod {
            key: ObjectKey::new(random.pick(&NAMESPACES), format!("pod-{index}")),
            uid: String::new(),
            labels: labels(random),
            node: Some(node.name.as_str().into()),
            host_network,
            terminal: random.below(10) == 0,
            terminating: false,
            static_uid: None,
            addresses: if host_network {
                node.addresses.iter().copied().collect()
            } else {
                own.iter().map(|text| text.parse().unwrap()).collect()
            },
            named_ports: named_ports(random),
            host_ports: Vec::new(),
        };
        snapshot.pods.insert(pod.key.clone(), Arc::new(pod));
    }
    for index in 0..random.below(4) {
        add_service(random, &mut snapshot, index);
    }
    for index in 0..1 + random.below(6) {
        let policy = NetworkPolicy {
            key: ObjectKey::new(random.pick(&NAMESPACES), format!("policy-{index}")),
            pod_selector: if random.below(2) == 0 {
                LabelSelector::default()
            } else {
                selector(random)
            },
            policy_types: match random.below(4) {
                0 => None,
                1 => Some(vec![Direction::Ingress]),
                2 => Some(vec![Direction::Egress]),
                _ => Some(vec![Direction::Ingress, Direction::Egress]),
            },
            ingress: random.many(4, rule),
            egress: random.many(4, rule),
        };
        snapshot.policies.insert(policy.key.clone(), Arc::new(policy));
    }
    snapshot
}

/// Adds a Service in one or both families with up to three slices: pods, nodes and strangers in all
/// states behind one or two ports. Two Services may share an external address. It may be a pod's, a
/// node's or a host's, and of a family that the Service lacks.
fn add_service(random: &mut Random, snapshot: &mut Snapshot, index: usize) {
    let key = ObjectKey::new(random.pick(&NAMESPACES), format!("service-{index}"));
    let parse = |text: &str| text.parse::<IpAddr>().unwrap();
    let external = |random: &mut Random| {
        let all = [
            "203.0.113.9",
            "203.0.113.10",
            "2001:db8:9::9",
            "198.51.100.130",
            "2001:db8:1::7",
            "10.244.0.8",
            "fd00:10:244:1::9",
            "10.244.0.1",
            "198.51.100.2",
            "2001:db8:1::2",
        ];
        random.many(3, |random| parse(random.pick(&all)))
    };
    let names: &[&str] = if random.below(2) == 0 { &[""] } else { &["a", "b"] };
    let protocols: Vec<Protocol> = names.iter().map(|_| Protocol::ALL[random.below(3)]).collect();
    let service = Service {
        key: key.clone(),
        cluster_ips: if random.below(8) == 0 {
            Vec::new()
        } else {
            let mut both = vec![
                parse(&format!("10.96.0.{index}")),
                parse(&format!("fd00:96::{index}")),
            ];
            if random.below(4) == 0 {
                both.remove(random.below(2));
            }
            both
        },
        external_ips: external(random),
        load_balancer_ips: external(random),
        ports: names
            .iter()
            .zip(&protocols)
            .enumerate()
            .map(|(nth, (name, protocol))| ServicePort {
                name: (*name).to_owned(),
                protocol: *protocol,
                port: 80 + nth as u16,
                node_port: (random.below(2) == 0).then_some(30_000 + (2 * index + nth) as u16),
            })
            .collect(),
    };
    add_slices(random, snapshot, &service);
    snapshot.services.insert(key, Arc::new(service));
}

/// Up to three slices of the Service.
fn add_slices(random: &mut Random, snapshot: &mut Snapshot, service: &Service) {
    let pods: Vec<IpAddr> = snapshot
        .pods
        .values()
        .flat_map(|pod| pod.addresses.clone())
        .collect();
    for slice in 0..random.below(4) {
        let endpoints = random.many(4, |random| SliceEndpoint {
            addresses: vec![if random.below(6) == 0 {
                random
                    .pick(&["198.51.100.2", "10.244.0.1", "203.0.113.1", "2001:db8:1::7"])
                    .parse()
                    .unwrap()
            } else {
                pods[random.below(pods.len())]
            }],
            ready: random.below(4) > 0,
            serving: random.below(2) == 0,
            terminating: random.below(2) == 0,
        });
        let ports = service.ports.iter();
        let ports = ports
            .map(|port| EndpointPort {
                name: port.name.clone(),
                protocol: port.protocol,
                number: (random.below(12) > 0).then(|| PORTS[random.below(PORTS.len())] as u16),
            })
            .collect();
        let slice = EndpointSlice {
            key: ObjectKey::new(&service.key.namespace, format!("{}-{slice}", service.key.name)),
            service: (random.below(12) > 0).then(|| service.key.name.to_string()),
            ports,
            endpoints,
        };
        snapshot
            .endpoint_slices
            .insert(slice.key.clone(), Arc::new(slice));
    }
}

/// Returns a packet from a pod to a Service; `None` without pods or Services.
pub fn service_packet(random: &mut Random, snapshot: &Snapshot) -> Option<Packet> {
    let services: Vec<_> = snapshot.services.values().collect();
    let pods: Vec<_> = snapshot.pods.values().filter(|pod| !pod.host_network).collect();
    if services.is_empty() || pods.is_empty() {
        return None;
    }
    let service = services[random.below(services.len())];
    let service_port = &service.ports[random.below(service.ports.len())];
    let node_port = service_port.node_port.filter(|_| random.below(3) == 0);
    let mut all: Vec<IpAddr> = match node_port {
        Some(_) => nodes().into_iter().flat_map(|node| node.addresses).collect(),
        None => [
            &service.cluster_ips,
            &service.external_ips,
            &service.load_balancer_ips,
        ]
        .into_iter()
        .flatten()
        .copied()
        .collect(),
    };
    all.sort_unstable();
    let destination = *all.get(random.below(all.len().max(1)))?;
    let source = pods[random.below(pods.len())]
        .addresses
        .iter()
        .find(|address| address.is_ipv4() == destination.is_ipv4())?;
    Some(Packet {
        source: *source,
        destination,
        protocol: service_port.protocol.number(),
        port: Some(node_port.unwrap_or(service_port.port)),
    })
}

/// Returns a packet of one family, usually between pods, to ports at and next to those in rules.
pub fn packet(random: &mut Random, snapshot: &Snapshot) -> Packet {
    let is_ipv4 = random.below(2) == 0;
    let mut all: Vec<IpAddr> = snapshot
        .pods
        .values()
        .flat_map(|pod| pod.addresses.clone())
        .collect();
    let others = "10.244.0.1 198.51.100.2 198.51.100.127 198.51.100.128 203.0.113.1 224.0.0.5 10.244.1.7 \
                  fd00:10:244::1 2001:db8:1::2 2001:db8:1::7 2001:db8:2::1 ff02::5";
    all.extend(
        others
            .split_whitespace()
            .map(|text| text.parse::<IpAddr>().unwrap()),
    );
    all.retain(|address| address.is_ipv4() == is_ipv4);
    let (source, destination) = (all[random.below(all.len())], all[random.below(all.len())]);
    let protocol = [6, 6, 6, 17, 132, 1, 58, 47][random.below(8)];
    let port = (PORTS[random.below(PORTS.len())] + random.below(3) as i32 - 1).clamp(1, 65535) as u16;
    Packet {
        source,
        destination,
        protocol,
        port: matches!(protocol, 6 | 17 | 132).then_some(port),
    }
}
