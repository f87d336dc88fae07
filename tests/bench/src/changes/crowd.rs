// SPDX-License-Identifier: Apache-2.0
//! A cluster of any size, reproducible from its numbers: pods on many nodes, a few of them on the
//! measured node, and policies as teams write them, most of which select no pod of that node.

mod object;
mod policy;

use serde_json::Value;

use netpol_tests::{apiserver::etcd::Stored, random::Random};

pub use object::{Pod, address, app_name, labels, near_name, pod, team};

use object::{far_name, namespace, node, node_name};
use policy::policy;

/// Pods of the measured node: a kubelet's default maximum.
pub const LOCAL: usize = 110;
/// Apps of a namespace.
pub const APPS: usize = 18;
/// Policies of a full namespace: those for all of its pods, and one for each app.
const POLICIES: usize = APPS + 2;
/// Pods of a namespace, except the large one.
const PODS: usize = 200;
/// One pod in this many is in the large namespace.
const LARGE: usize = 20;
/// Size of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Crowd {
    /// Pods, including those of the measured node; at least [`LOCAL`].
    pub pods: usize,
    /// Policies, spread over the namespaces of the pods.
    pub policies: usize,
    /// Additional policies, in namespaces without pods.
    pub elsewhere: usize,
}

impl Crowd {
    /// Returns the number of namespaces with pods.
    fn populated(&self) -> usize {
        (self.pods / PODS).clamp(5, 500)
    }

    /// Returns the number of namespaces, without those for policies that select nothing.
    fn namespaces(&self) -> usize {
        self.populated().max(self.policies.div_ceil(POLICIES))
    }

    /// Returns the number of nodes beside the measured one.
    fn nodes(&self) -> usize {
        self.pods.saturating_sub(LOCAL).div_ceil(LOCAL)
    }

    /// Returns all objects, referenced ones first.
    pub fn objects(self) -> impl Iterator<Item = Stored> {
        self.setting().chain(self.pods())
    }

    /// Returns its pods, those of the measured node first.
    pub fn pods(self) -> impl Iterator<Item = Stored> {
        (0..self.pods.max(LOCAL)).map(move |index| stored("pods", self.pod(index)))
    }

    /// Returns nodes, namespaces and policies.
    pub fn setting(self) -> impl Iterator<Item = Stored> {
        let far = self.elsewhere.div_ceil(POLICIES);
        let nodes = (0..self.nodes()).map(|index| stored("minions", node(index)));
        let namespaces = (0..self.namespaces()).map(|index| namespace(&near_name(index), index));
        let others = (0..far).map(|index| namespace(&far_name(index), index));
        let namespaces = namespaces
            .chain(others)
            .map(|object| stored("namespaces", object));
        let policies = (0..self.policies).map(|index| policy(&near_name(index / POLICIES), index));
        let others = (0..self.elsewhere).map(|index| policy(&far_name(index / POLICIES), index));
        let policies = policies
            .chain(others)
            .map(|object| stored("networkpolicies", object));
        nodes.chain(namespaces).chain(policies)
    }

    /// Returns pod `index`; those below [`LOCAL`] are on the measured node.
    pub fn pod(&self, index: usize) -> Value {
        let (namespace, app) = self.place(index);
        let node = match index.checked_sub(LOCAL) {
            None => crate::changes::NODE.to_owned(),
            Some(remote) => node_name(remote / LOCAL),
        };
        pod(&Pod {
            namespace: near_name(namespace),
            name: format!("app-{app}-{index:06}"),
            app,
            node,
            address: address(index),
        })
    }

    /// Returns namespace and app of a pod. Every app has a local pod in the first namespace, so
    /// that all of its policies are active.
    fn place(&self, index: usize) -> (usize, usize) {
        if index < APPS {
            return (0, index);
        }
        let mut random = Random(index as u64);
        let app = random.below(APPS);
        if index % LARGE == LARGE - 1 {
            return (1, app);
        }
        (random.below(self.populated()), app)
    }

    /// Returns the number of pods of the first namespace, the large one and the third, which the
    /// measured changes concern.
    pub fn population(&self) -> [usize; 3] {
        let mut pods = [0; 3];
        for index in 0..self.pods.max(LOCAL) {
            if let Some(count) = pods.get_mut(self.place(index).0) {
                *count += 1;
            }
        }
        pods
    }
}

fn stored(resource: &str, object: Value) -> Stored {
    (key(resource, &object), object)
}

/// Returns an object's key in etcd.
pub fn key(resource: &str, object: &Value) -> String {
    let part = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    match (part("namespace"), part("name")) {
        ("", name) => format!("/registry/{resource}/{name}"),
        (namespace, name) => format!("/registry/{resource}/{namespace}/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    const SMALL: Crowd = Crowd {
        pods: 1000,
        policies: 100,
        elsewhere: 40,
    };

    fn of_kind<'a>(objects: &'a BTreeMap<String, Value>, kind: &str) -> Vec<&'a Value> {
        objects.values().filter(|object| object["kind"] == kind).collect()
    }

    #[test]
    fn the_same_numbers_give_the_same_cluster_and_no_key_or_address_twice() {
        let objects: Vec<Stored> = SMALL.objects().collect();
        assert_eq!(objects, SMALL.objects().collect::<Vec<_>>());
        let by_key: BTreeMap<String, Value> = objects.iter().cloned().collect();
        assert_eq!(by_key.len(), objects.len());
        let addresses: BTreeSet<&str> = of_kind(&by_key, "Pod")
            .iter()
            .filter_map(|pod| pod["status"]["podIP"].as_str())
            .collect();
        assert_eq!(addresses.len(), 1000);
        assert_eq!(of_kind(&by_key, "NetworkPolicy").len(), 140);
        assert_eq!(of_kind(&by_key, "Namespace").len(), 7);
    }

    #[test]
    fn so_many_pods_are_local_and_what_is_elsewhere_selects_none() {
        let objects: BTreeMap<String, Value> = SMALL.objects().collect();
        let pods = of_kind(&objects, "Pod");
        let local = |pod: &&&Value| pod["spec"]["nodeName"] == crate::changes::NODE;
        assert_eq!(pods.iter().filter(local).count(), LOCAL);
        let populated: BTreeSet<&str> = pods
            .iter()
            .filter_map(|pod| pod["metadata"]["namespace"].as_str())
            .collect();
        let policies = of_kind(&objects, "NetworkPolicy");
        let in_force = |policy: &&&Value| {
            let namespace = policy["metadata"]["namespace"].as_str();
            namespace.is_some_and(|namespace| populated.contains(namespace))
        };
        assert_eq!(policies.iter().filter(in_force).count(), 100);
    }

    #[test]
    fn a_larger_cluster_has_the_policies_of_a_smaller_one() {
        let policies = |crowd: Crowd| -> BTreeMap<String, Value> {
            crowd
                .objects()
                .filter(|(_, object)| object["kind"] == "NetworkPolicy")
                .collect()
        };
        let (small, large) = (
            policies(SMALL),
            policies(Crowd {
                policies: 1000,
                ..SMALL
            }),
        );
        assert!(small.iter().all(|(key, policy)| large.get(key) == Some(policy)));
    }
}
