// SPDX-License-Identifier: Apache-2.0
//! Compiled policies without the compiler's own numbers, for comparison.

use std::collections::{BTreeMap, BTreeSet};

use netpol_agent::{
    compile::{Action, Class, ClassId, Compiled, PolicyId, RuleRef},
    model::{Frontend, ProtocolMatch},
};

/// A class by its content: its peers as text, its named ports and, for a class of frontends,
/// whether they are closed, and the backends in the same form.
pub type Said = (
    BTreeSet<String>,
    BTreeMap<String, u16>,
    Option<(
        bool,
        BTreeSet<(BTreeSet<String>, BTreeMap<String, u16>, bool, u8, u16)>,
    )>,
);

/// What a policy allows for a class, with the rules: by protocol and port, and by frontend.
type Allowed = (
    BTreeMap<Option<ProtocolMatch>, (Action, Option<RuleRef>)>,
    Option<(&'static str, Option<RuleRef>)>,
);

/// UID of a pod, its addresses, and what each class is allowed, ingress first; `None` if the pod is
/// not isolated.
type Pod = (String, Vec<String>, [Option<BTreeMap<Said, Allowed>>; 2]);

/// Everything that the kernel can observe, and what is reported.
#[derive(Debug, PartialEq, Eq)]
pub struct Canonical {
    endpoints: BTreeMap<String, Pod>,
    addresses: BTreeMap<String, (Said, bool, bool)>,
    frontends: BTreeMap<Frontend, Said>,
    restricted: BTreeSet<Frontend>,
    peers: BTreeSet<String>,
    rules: BTreeSet<RuleRef>,
    diagnostics: Vec<String>,
}

impl Canonical {
    /// Converts a compiled node.
    ///
    /// # Panics
    /// If two classes have the same content, a class is unused, or a number has no meaning.
    pub fn of(compiled: &Compiled) -> Self {
        let said: BTreeMap<ClassId, Said> = compiled
            .classes
            .iter()
            .map(|(id, class)| (*id, say(compiled, class)))
            .collect();
        assert_eq!(
            said.values().collect::<BTreeSet<_>>().len(),
            said.len(),
            "{said:#?}"
        );
        let addresses = compiled.addresses.values().map(|address| address.class);
        let used: BTreeSet<ClassId> = addresses
            .chain(compiled.frontends.values().copied())
            .chain([0])
            .collect();
        assert!(said.keys().eq(&used), "{used:?} of {said:#?}");
        let policies: BTreeSet<PolicyId> = compiled
            .endpoints
            .values()
            .flat_map(|pod| [pod.ingress, pod.egress])
            .flatten()
            .collect();
        assert!(compiled.policies.keys().eq(&policies));
        let rule = |number: u32| (number != 0).then(|| compiled.rules[&number].clone());
        let allowed = |policy: PolicyId| {
            let of_class = |(id, said): (&ClassId, &Said)| {
                let entries = compiled.entries(policy, *id).into_iter();
                let entries = entries.map(|(matched, entry)| (matched, (entry.action, rule(entry.rule))));
                let passage = compiled.passage(policy, *id).map(|passage| match passage {
                    netpol_agent::compile::Passage::Accept(number) => ("accept", rule(number)),
                    netpol_agent::compile::Passage::Defer => ("defer", None),
                    netpol_agent::compile::Passage::Refuse => ("refuse", None),
                });
                (said.clone(), (entries.collect(), passage))
            };
            said.iter().map(of_class).collect()
        };
        let endpoint = |pod: &netpol_agent::compile::Endpoint| {
            let forwards = pod.forwards.iter().map(ToString::to_string);
            let addresses = pod
                .addresses
                .iter()
                .map(ToString::to_string)
                .chain(forwards)
                .collect();
            (
                pod.uid.clone(),
                addresses,
                [pod.ingress, pod.egress].map(|policy| policy.map(&allowed)),
            )
        };
        Self {
            endpoints: compiled
                .endpoints
                .iter()
                .map(|(key, pod)| (key.to_string(), endpoint(pod)))
                .collect(),
            addresses: compiled
                .addresses
                .iter()
                .map(|(net, address)| {
                    (
                        net.to_string(),
                        (said[&address.class].clone(), address.node, address.remote_node),
                    )
                })
                .collect(),
            frontends: compiled
                .frontends
                .iter()
                .map(|(frontend, class)| (*frontend, said[class].clone()))
                .collect(),
            restricted: compiled.restricted.keys().copied().collect(),
            peers: compiled.peers.values().map(ToString::to_string).collect(),
            rules: compiled.rules.values().cloned().collect(),
            diagnostics: compiled.diagnostics.keys().map(ToString::to_string).collect(),
        }
    }
}

/// Returns the content of a class.
pub fn say(compiled: &Compiled, class: &Class) -> Said {
    let texts = |class: &Class| {
        class
            .peers
            .iter()
            .map(|peer| compiled.peers[&peer].to_string())
            .collect()
    };
    let ports = |class: &Class| {
        class
            .named_ports
            .iter()
            .map(|(port, number)| (port.to_string(), *number))
            .collect()
    };
    let backends = class.frontend.as_ref().map(|targets| {
        let backend = |target: &netpol_agent::compile::Target| {
            let class = &compiled.classes[&target.class];
            (
                texts(class),
                ports(class),
                target.node,
                target.protocol,
                target.port,
            )
        };
        (class.closed, targets.iter().map(backend).collect())
    });
    (texts(class), ports(class), backends)
}
