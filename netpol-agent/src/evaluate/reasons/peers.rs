// SPDX-License-Identifier: Apache-2.0
//! Explains why a peer does not match the other end (rules P2, P5, I6, I7).

use super::{Missing, selectors};
use crate::{
    evaluate::{
        Question,
        peer::{Cidr, block_holds, namespace_labels, selects_pod},
    },
    model::{IpBlock, NetworkPolicy, Peer, Pod},
};

impl Question<'_> {
    /// Lists what a peer, written at `field`, lacks to match the other end. Empty exactly if it
    /// matches, whatever the ports.
    pub(super) fn missing_for_peer(&self, policy: &NetworkPolicy, peer: &Peer, field: &str) -> Vec<Missing> {
        let selects = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
        let whole = |message: String| vec![Missing::new(field, message)];
        match &peer.ip_block {
            Some(_) if selects => {
                whole("ipBlock together with a selector: this peer matches nothing".to_owned())
            }
            Some(block) => self.missing_for_block(block, &format!("{field}.ipBlock")),
            None if !selects => whole("no field is set: this peer matches nothing".to_owned()),
            None if self.remotes.is_empty() => whole(self.why_no_pod()),
            None => {
                let namespace = &policy.key.namespace;
                let unselected = self
                    .remotes
                    .iter()
                    .find(|pod| !selects_pod(self.snapshot, namespace, peer, pod));
                unselected.map_or_else(Vec::new, |pod| self.missing_for_pod(namespace, peer, pod, field))
            }
        }
    }

    fn missing_for_pod(&self, namespace: &str, peer: &Peer, pod: &Pod, field: &str) -> Vec<Missing> {
        let mut missing = Vec::new();
        let own = &pod.key.namespace;
        if let Some(selector) = &peer.namespace_selector {
            let labels = namespace_labels(self.snapshot, own);
            let object = format!("namespace `{own}`");
            let field = format!("{field}.namespaceSelector");
            missing.extend(selectors::missing(selector, &labels, &object, &field));
        } else if own != namespace {
            let message = format!(
                "pod `{}` is in another namespace: without a namespaceSelector only pods of namespace `{namespace}` match",
                pod.key
            );
            missing.push(Missing::new(field, message));
        }
        if let Some(selector) = &peer.pod_selector {
            let object = format!("pod `{}`", pod.key);
            let field = format!("{field}.podSelector");
            missing.extend(selectors::missing(selector, &pod.labels, &object, &field));
        }
        missing
    }

    /// Explains why the other end is not a pod that a selector can match.
    fn why_no_pod(&self) -> String {
        let address = self.remote_address;
        let claimant = self
            .snapshot
            .pods
            .values()
            .find(|pod| pod.addresses.contains(&address));
        match claimant {
            Some(pod) if pod.host_network => {
                format!(
                    "pod `{}` uses the network of its node, so only an ipBlock matches it",
                    pod.key
                )
            }
            Some(pod) => format!("pod `{}` has ended, so no selector matches it", pod.key),
            None => format!("{address} is no pod, so no selector matches it"),
        }
    }

    fn missing_for_block(&self, block: &IpBlock, field: &str) -> Vec<Missing> {
        let Some(address) = self.blocks_hold else {
            let message = format!(
                "{} is a link-local address that no pod with an IPv6 address has alone: no block holds it",
                self.remote_address
            );
            return vec![Missing::new(format!("{field}.cidr"), message)];
        };
        if block_holds(block, address) {
            return Vec::new();
        }
        let Some(cidr) = Cidr::parse(&block.cidr) else {
            let message = format!("`{}` is not a CIDR: this peer matches nothing", block.cidr);
            return vec![Missing::new(format!("{field}.cidr"), message)];
        };
        let mut missing = Vec::new();
        for (index, text) in block.except.iter().enumerate() {
            let problem = match Cidr::parse(text) {
                None => format!("`{text}` is not a CIDR: this peer matches nothing"),
                Some(except) if !cidr.contains(&except) => {
                    format!("{text} is not within {}: this peer matches nothing", block.cidr)
                }
                Some(except) if except.holds(address) => format!("{address} is in except {text}"),
                Some(_) => continue,
            };
            missing.push(Missing::new(format!("{field}.except[{index}]"), problem));
        }
        if !cidr.holds(address) {
            let message = format!("{address} is not in {}", block.cidr);
            missing.push(Missing::new(format!("{field}.cidr"), message));
        }
        missing
    }
}
