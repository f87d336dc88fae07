// SPDX-License-Identifier: Apache-2.0
//! Node.

use std::{collections::BTreeSet, sync::Arc};

use super::{Faults, taken};
use crate::{
    model::Node,
    watch::{
        kinds::OfKind as _,
        object::{Entry, Object},
        wire::{self, BACKEND, Wire},
    },
};

impl Wire for wire::Node {
    fn convert(self) -> Entry {
        let backend = self
            .metadata
            .annotations
            .get(BACKEND)
            .unwrap_or_default()
            .to_owned();
        let (id, _, _) = taken(Self::KIND, self.metadata);
        let mut faults = Faults::of(&id);
        let mut addresses = BTreeSet::new();
        let given = self
            .status
            .and_then(|status| status.addresses)
            .unwrap_or_default();
        for (index, given) in given.into_iter().enumerate() {
            if matches!(given.kind.as_deref(), Some("InternalIP" | "ExternalIP")) {
                let text = given.address.unwrap_or_default();
                addresses.extend(faults.address(|| format!("status.addresses[{index}].address"), &text));
            }
        }
        // What the kernel enforces does not depend on them, so what does not parse is left out
        // without a word.
        let pod_cidrs = self.spec.and_then(|spec| spec.pod_cidrs).unwrap_or_default();
        let node = Node {
            name: id.key.name.to_string(),
            addresses,
            pod_cidrs: pod_cidrs.iter().filter_map(|text| text.parse().ok()).collect(),
            backend,
            ..Node::default()
        };
        Entry {
            object: Object::Node(Arc::new(node)),
            diagnostics: faults.found,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::watch::convert::{codes, converted};

    #[test]
    fn a4_a_node_has_its_addresses_and_no_names() {
        let entry = converted::<wire::Node>(json!({
            "metadata": {"name": "node-b", "annotations": {BACKEND: "vxlan", "x": "y"}},
            "spec": {"podCIDRs": ["10.244.1.0/24", "no range", "fd00:244:1::/64"]},
            "status": {"addresses": [
                {"type": "InternalIP", "address": "192.0.2.2"}, {"type": "InternalIP", "address": "2001:db8::2"},
                {"type": "ExternalIP", "address": "x"}, {"type": "Hostname", "address": "node-b"},
            ]},
        }));
        assert_eq!(
            codes(&entry),
            [("address-invalid", "status.addresses[2].address")]
        );
        let Object::Node(node) = &entry.object else {
            panic!("not a node")
        };
        let addresses = ["192.0.2.2", "2001:db8::2"].map(|text| text.parse().unwrap());
        assert_eq!(
            (node.name.as_str(), &node.addresses),
            ("node-b", &BTreeSet::from(addresses))
        );
        let cidrs = ["10.244.1.0/24", "fd00:244:1::/64"].map(|text| text.parse().unwrap());
        assert_eq!(
            (node.backend.as_str(), node.pod_cidrs.as_slice()),
            ("vxlan", &cidrs[..])
        );
        assert_eq!(entry.object.id().to_string(), "Node node-b");
    }
}
