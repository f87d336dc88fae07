// SPDX-License-Identifier: Apache-2.0
//! The pods of a node: each has a namespace and a veth pair, as a CNI plugin makes them.

use std::{fmt::Write, net::IpAddr, sync::Arc};

use anyhow::{Context, Result, ensure};

use super::{Node, Site, member};
use crate::netns::NetNs;

#[derive(Debug)]
pub(super) struct Pod {
    pub(super) site: Site,
    veth: String,
}

impl Node {
    /// Makes one pod.
    ///
    /// # Errors
    /// As [`Node::add_pods`].
    pub fn add_pod(&mut self, name: &str, addresses: &[IpAddr]) -> Result<Site> {
        self.add_pods(&[(name.to_owned(), addresses.to_vec())])?;
        self.pod(name)
    }

    /// Makes pods of the given names (`namespace/name`) and addresses.
    ///
    /// # Errors
    /// If an address is not in the node's pod networks, a name is taken, or the kernel refuses.
    pub fn add_pods(&mut self, pods: &[(String, Vec<IpAddr>)]) -> Result<()> {
        let networks = self.plan.pod_networks();
        let mut node = String::new();
        let mut made = Vec::new();
        for (name, addresses) in pods {
            ensure!(!self.pods.contains_key(name), "pod {name} exists already");
            let netns = NetNs::create(&format!("{}{}", self.prefix, name.replace('/', "-")))?;
            let veth = format!("veth{:08x}", self.next_pod);
            self.next_pod += 1;
            writeln!(
                node,
                "link add {veth} type veth peer name eth0 netns {}",
                netns.name()
            )?;
            writeln!(node, "link set {veth} master cni0")?;
            writeln!(node, "link set {veth} type bridge_slave hairpin on")?;
            writeln!(node, "link set {veth} up")?;
            let site = Site {
                name: name.clone(),
                netns: Arc::new(netns),
                addresses: addresses.clone(),
            };
            made.push(Pod { site, veth });
        }
        self.netns.ip(&node)?;
        for pod in made {
            let mut batch = String::from("link set eth0 up\n");
            for address in &pod.site.addresses {
                let net = networks.iter().find(|net| net.contains(address));
                let net =
                    net.with_context(|| format!("{address} of pod {} is in no pod network", pod.site.name))?;
                writeln!(batch, "addr add {address}/{} dev eth0 nodad", net.prefix_len())?;
                let all = if address.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
                writeln!(batch, "route replace {all} via {}", member(*net, 1).addr())?;
            }
            pod.site.netns.ip(&batch)?;
            self.pods.insert(pod.site.name.clone(), pod);
        }
        self.netns.wait_until_up("cni0")
    }

    /// Removes a pod: its veth pair and its namespace, as a CNI plugin does.
    ///
    /// # Errors
    /// If there is no such pod.
    pub fn remove_pod(&mut self, name: &str) -> Result<()> {
        let pod = self.pods.remove(name).with_context(|| format!("no pod {name}"))?;
        self.netns.ip(&format!("link del {}\n", pod.veth))
    }

    /// Returns a pod by name.
    ///
    /// # Errors
    /// If there is no such pod.
    pub fn pod(&self, name: &str) -> Result<Site> {
        let pod = self.pods.get(name).with_context(|| format!("no pod {name}"))?;
        Ok(pod.site.clone())
    }

    /// Moves a pod elsewhere: its real content is behind its network namespace. Returns the old
    /// site.
    ///
    /// # Errors
    /// If there is no such pod.
    pub fn replace_site(&mut self, name: &str, site: Site) -> Result<Site> {
        let pod = self
            .pods
            .get_mut(name)
            .with_context(|| format!("no pod {name}"))?;
        Ok(std::mem::replace(&mut pod.site, site))
    }

    /// Returns all pods, sorted by name.
    pub fn pods(&self) -> Vec<Site> {
        self.pods.values().map(|pod| pod.site.clone()).collect()
    }

    /// Returns the name of the host's end of a pod's veth pair.
    ///
    /// # Errors
    /// If there is no such pod.
    pub fn veth(&self, name: &str) -> Result<&str> {
        let pod = self.pods.get(name).with_context(|| format!("no pod {name}"))?;
        Ok(&pod.veth)
    }
}
