// SPDX-License-Identifier: Apache-2.0
//! One copy of what many objects have in common: labels, and the texts in them.

use std::{collections::HashSet, sync::Arc};

use super::object::Object;
use crate::model::{Labels, NetworkPolicy, Pod};

/// Number of texts and of labels below which nobody looks for those that no object has any more.
const FEW: usize = 1024;

/// What is known.
#[derive(Debug, Clone, Default)]
pub(super) struct Shared {
    labels: HashSet<Labels>,
    texts: HashSet<Arc<str>>,
    /// Number of both after the last look.
    kept: usize,
}

impl Shared {
    /// Gives an object the texts and labels that the others have.
    pub(super) fn object(&mut self, object: &mut Object) {
        match object {
            Object::Pod(pod) => Arc::get_mut(pod).into_iter().for_each(|pod| self.pod(pod)),
            Object::NetworkPolicy(policy) => {
                let policy = Arc::get_mut(policy);
                policy.into_iter().for_each(|policy| self.policy(policy));
            }
            _ => {}
        }
    }

    /// Gives a pod the texts and labels that the others have.
    fn pod(&mut self, pod: &mut Pod) {
        self.forget();
        let ports = pod.named_ports.iter_mut().map(|port| &mut port.name);
        for text in ports.chain(&mut pod.node).chain([&mut pod.key.namespace]) {
            *text = self.text(text.shared()).into();
        }
        pod.labels = self.labels(&pod.labels);
    }

    /// Gives the selectors of a policy the labels that the others have.
    fn policy(&mut self, policy: &mut NetworkPolicy) {
        self.forget();
        let rules = policy.ingress.iter_mut().chain(&mut policy.egress);
        let peers = rules.flat_map(|rule| &mut rule.peers);
        let of_peers =
            peers.flat_map(|peer| peer.pod_selector.iter_mut().chain(&mut peer.namespace_selector));
        for selector in of_peers.chain([&mut policy.pod_selector]) {
            selector.match_labels = self.labels(&selector.match_labels);
        }
    }

    /// The copy of these labels that the others have.
    fn labels(&mut self, labels: &Labels) -> Labels {
        if let Some(known) = self.labels.get(labels) {
            return known.clone();
        }
        let labels = labels.with_texts(|text| self.text(text));
        self.labels.insert(labels.clone());
        labels
    }

    /// Forgets what no object has any more, once there may be much of it.
    fn forget(&mut self) {
        if self.labels.len() + self.texts.len() > FEW.max(2 * self.kept) {
            self.labels.retain(Labels::is_shared);
            self.texts.retain(|text| Arc::strong_count(text) > 1);
            self.kept = self.labels.len() + self.texts.len();
        }
    }

    fn text(&mut self, text: &Arc<str>) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        self.texts.insert(text.clone());
        text.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{NamedPort, ObjectKey, Protocol};

    /// A pod with a label of one value and a port of another name.
    fn pod(label: &str, port: &str) -> Pod {
        Pod {
            key: ObjectKey::new("ns", "pod"),
            uid: String::new(),
            labels: Labels::from([("app".to_owned(), label.to_owned())]),
            node: None,
            host_network: false,
            terminal: false,
            terminating: false,
            static_uid: None,
            addresses: Vec::new(),
            named_ports: vec![NamedPort {
                name: port.into(),
                protocol: Protocol::Tcp,
                number: 80,
            }],
            host_ports: Vec::new(),
        }
    }

    #[test]
    fn labels_are_kept_once_and_as_long_as_someone_has_them() {
        let mut shared = Shared::default();
        let of = |shared: &mut Shared, number: usize| {
            let mut pod = pod(&format!("app-{number}"), "http");
            shared.pod(&mut pod);
            pod.labels
        };
        let first = of(&mut shared, 0);
        for number in 1..3 * FEW {
            of(&mut shared, number);
            assert!(shared.labels.len() + shared.texts.len() <= FEW + 6);
        }
        let again = of(&mut shared, 0);
        let text = |labels: &Labels| labels["app"].as_ptr();
        assert_eq!((&again, text(&again)), (&first, text(&first)));
    }

    #[test]
    fn texts_are_forgotten_though_the_labels_are_always_the_same() {
        let mut shared = Shared::default();
        for number in 0..3 * FEW {
            shared.pod(&mut pod("app", &format!("port-{number}")));
            assert!(shared.texts.len() <= FEW + 6, "{}", shared.texts.len());
        }
    }
}
