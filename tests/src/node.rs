// SPDX-License-Identifier: Apache-2.0
//! A node as Flannel sets it up, with pods: a bridge with both families, forwarding, a veth pair
//! per pod with the host's end on the bridge, and an uplink to a namespace that plays every host
//! outside.

mod plan;
mod pods;

use std::{
    collections::BTreeMap,
    fmt::Write,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Result, ensure};

use crate::netns::{self, NetNs};

pub use plan::{Plan, member};

use pods::Pod;

/// The outside's bridge, which connects the nodes.
const WIRE: &str = "eth0";

/// A place that probes start from and end at.
#[derive(Debug, Clone)]
pub struct Site {
    /// Its name in results, e.g. `shop/frontend`.
    pub name: String,
    /// Its network namespace.
    pub netns: Arc<NetNs>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

impl Site {
    /// Returns its first address of the family of `like`.
    pub fn address_like(&self, like: IpAddr) -> Option<IpAddr> {
        self.addresses
            .iter()
            .copied()
            .find(|address| address.is_ipv4() == like.is_ipv4())
    }
}

/// A node with its pods and its outside. Everything is removed on drop.
#[derive(Debug)]
pub struct Node {
    plan: Plan,
    prefix: String,
    netns: Arc<NetNs>,
    outside: Arc<NetNs>,
    external: Vec<IpAddr>,
    pods: BTreeMap<String, Pod>,
    next_pod: u32,
}

impl Node {
    /// Makes the node and its outside, named after this process.
    ///
    /// # Errors
    /// Without root, or iproute2, or a kernel with bridges and veth pairs.
    pub fn new(plan: Plan) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{}{number}-", netns::prefix_of(std::process::id()));
        Self::with_prefix(plan, prefix)
    }

    /// Like [`Node::new`]; the namespaces' names start with `prefix`.
    ///
    /// # Errors
    /// As [`Node::new`].
    pub fn with_prefix(plan: Plan, prefix: String) -> Result<Self> {
        netns::sweep();
        let outside = Arc::new(outside(&plan, &prefix)?);
        Self::join(plan, prefix, outside)
    }

    /// Makes a node with the same outside, on the same wire. Only the outside routes to its pods:
    /// see [`crate::overlay`].
    ///
    /// # Errors
    /// As [`Node::new`], or if the plan has the index of a node that is there.
    pub fn beside(&self, plan: Plan) -> Result<Self> {
        Self::join(plan, self.prefix.clone(), Arc::clone(&self.outside))
    }

    fn join(plan: Plan, prefix: String, outside: Arc<NetNs>) -> Result<Self> {
        let netns = Arc::new(NetNs::create(&format!("{prefix}{}", plan.name))?);
        netns.sysctl(&[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv6/conf/default/forwarding", "1"),
        ])?;
        let mut node = String::from("link add cni0 type bridge mcast_snooping 0\nlink set cni0 up\n");
        let port = format!("port{}", plan.index);
        writeln!(
            node,
            "link add uplink0 type veth peer name {port} netns {}",
            outside.name()
        )?;
        node.push_str("link set uplink0 up\n");
        for net in plan.pod_networks() {
            writeln!(node, "addr add {} dev cni0 nodad", member(net, 1))?;
        }
        let mut external = Vec::new();
        let mut far = format!("link set {port} master {WIRE} up\n");
        let networks = plan.uplink_networks().into_iter().zip(plan.pod_networks());
        for ((net, pods), own) in networks.zip(plan.uplink_addresses()) {
            let host = member(net, 10).addr();
            let length = net.prefix_len();
            let everything = if own.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            writeln!(node, "addr add {own}/{length} dev uplink0 nodad")?;
            writeln!(node, "route add {everything} via {host}")?;
            // The first node is the route to everything that is not another node's.
            if plan.index == 0 {
                writeln!(far, "route add {everything} via {own}")?;
            } else {
                writeln!(far, "route add {pods} via {own}")?;
            }
            external.push(host);
        }
        netns.ip(&node)?;
        outside.ip(&far)?;
        outside.wait_until_up(WIRE)?;
        netns.wait_until_up("uplink0")?;
        Ok(Self {
            plan,
            prefix,
            netns,
            outside,
            external,
            pods: BTreeMap::new(),
            next_pod: 1,
        })
    }

    /// Returns its address plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Keeps everything when this is dropped.
    pub fn keep(&self) {
        let pods = self.pods.values().map(|pod| &pod.site.netns);
        pods.chain([&self.netns, &self.outside])
            .for_each(|netns| netns.keep());
    }

    /// Returns its network namespace.
    pub fn netns(&self) -> &Arc<NetNs> {
        &self.netns
    }

    /// Returns the prefix of all its namespaces' names.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns the node itself: addresses on the bridge, then on the uplink.
    pub fn site(&self) -> Site {
        let bridge = self.plan.pod_networks().map(|net| member(net, 1).addr());
        Site {
            name: self.plan.name.clone(),
            netns: Arc::clone(&self.netns),
            addresses: bridge.into_iter().chain(self.plan.uplink_addresses()).collect(),
        }
    }

    /// Returns the outside, with all its addresses.
    pub fn outside(&self) -> Site {
        Site {
            name: "outside".to_owned(),
            netns: Arc::clone(&self.outside),
            addresses: self.external.clone(),
        }
    }

    /// Adds `address` to the outside.
    ///
    /// # Errors
    /// If the address is one of the node's or its pods', or cannot be set.
    pub fn add_external(&mut self, address: IpAddr) -> Result<()> {
        if self.external.contains(&address) {
            return Ok(());
        }
        let inside = self.plan.pod_networks().iter().any(|net| net.contains(&address))
            || self.site().addresses.contains(&address);
        ensure!(!inside, "external address {address} belongs to the node");
        let length = if address.is_ipv4() { 32 } else { 128 };
        self.outside
            .ip(&format!("addr add {address}/{length} dev {WIRE} nodad\n"))?;
        self.external.push(address);
        Ok(())
    }
}

/// Makes a namespace that plays every host outside, with the switch that connects the nodes.
fn outside(plan: &Plan, prefix: &str) -> Result<NetNs> {
    let outside = NetNs::create(&format!("{prefix}outside"))?;
    // A fixed MAC address: a bridge without one changes it with its ports.
    let mut batch = format!(
        "link add {WIRE} address 02:00:c6:33:64:0a type bridge mcast_snooping 0\nlink set {WIRE} up\n"
    );
    for net in plan.uplink_networks() {
        writeln!(batch, "addr add {} dev {WIRE} nodad", member(net, 10))?;
    }
    outside.ip(&batch)?;
    Ok(outside)
}
