// SPDX-License-Identifier: Apache-2.0
//! Compiled policies without the compiler's own numbers, for comparison.

use std::collections::{BTreeMap, BTreeSet};

use netpol_agent::{
    compile::{
        Action, Class, ClassId, Compiled, FrontendClass, Passage, PolicyId, RuleRef, Target, Untranslated,
    },
    model::{Frontend, ProtocolMatch},
};

/// A class by its content: its peers as text, its named ports and, for a class of frontends, where
/// their packets may end.
pub type Said = (BTreeSet<String>, BTreeMap<String, u16>, Option<Ends>);

/// Where packets to a frontend may end: whether it is closed, its backends, and what is there
/// without kube-proxy's rules: an address, or a NodePort.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ends {
    closed: bool,
    backends: BTreeSet<SaidTarget>,
    address: Option<SaidTarget>,
    node_port: Option<Box<Ends>>,
}

/// An address by the content of its class, whether it is the node's, the protocol and the port.
type SaidTarget = (BTreeSet<String>, BTreeMap<String, u16>, bool, u8, u16);

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
                    Passage::Accept(number) => ("accept", rule(number)),
                    Passage::Defer => ("defer", None),
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
    let frontend = class.frontend.as_ref();
    (
        peers(compiled, class),
        named_ports(class),
        frontend.map(|frontend| ends(compiled, frontend)),
    )
}

fn peers(compiled: &Compiled, class: &Class) -> BTreeSet<String> {
    let peers = class.peers.iter();
    peers.map(|peer| compiled.peers[&peer].to_string()).collect()
}

fn named_ports(class: &Class) -> BTreeMap<String, u16> {
    let ports = class.named_ports.iter();
    ports.map(|(port, number)| (port.to_string(), *number)).collect()
}

fn ends(compiled: &Compiled, frontend: &FrontendClass) -> Ends {
    let target = |target: &Target| {
        let class = &compiled.classes[&target.class];
        (
            peers(compiled, class),
            named_ports(class),
            target.node,
            target.protocol,
            target.port,
        )
    };
    let (address, node_port) = match &frontend.untranslated {
        None => (None, None),
        Some(Untranslated::Address(address)) => (Some(target(address)), None),
        Some(Untranslated::NodePort(other)) => (None, Some(Box::new(ends(compiled, other)))),
    };
    Ends {
        closed: frontend.closed,
        backends: frontend.backends.iter().map(target).collect(),
        address,
        node_port,
    }
}
