// SPDX-License-Identifier: Apache-2.0
//! The compiler's result, as plain data.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    class::{Address, Class, ClassId},
    matches::Matches,
    passage::Passage,
    peer_set::PeerId,
    policy::{Entries, Policy, PolicyId},
    rule::RuleRef,
};
use crate::model::{Diagnostic, Frontend, Map, ObjectKey, Set};

/// The desired state of this node, without the numbers that the kernel maps use: [`crate::sync`]
/// gives them. A copy is cheap.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Compiled {
    /// The snapshot's revision.
    pub revision: u64,
    /// The compiler whose numbers these are.
    pub origin: Origin,
    /// Local pods that policy is enforced on.
    pub endpoints: BTreeMap<ObjectKey, Endpoint>,
    /// The distinct policies of these endpoints.
    pub policies: Map<PolicyId, Arc<Policy>>,
    /// The classes of addresses, and those of frontends.
    pub classes: Map<ClassId, Arc<Class>>,
    /// The class of each address. The longest prefix wins; an address that no prefix covers has
    /// class [`NO_PEER`](super::NO_PEER).
    pub addresses: Map<IpNet, Address>,
    /// The class of each frontend of a Service (rule A5).
    pub frontends: Map<Frontend, ClassId>,
    /// Restricted backends: those of frontends of which some policy accepts a part of the backends
    /// only.
    pub restricted: Set<Frontend>,
    /// Frontends that are closed to pods that may reach only some of their backends, because
    /// restricting these is over budget (rule L2).
    pub closed: Set<Frontend>,
    /// Canonical text of every peer of the active policies, whether an address matches it or not.
    pub peers: Map<PeerId, Arc<str>>,
    /// The rules by the number that policy entries carry.
    pub rules: Map<u32, RuleRef>,
    /// What is wrong with the objects of the snapshot.
    pub diagnostics: Set<Diagnostic>,
}

/// Tells the numbers of one compiler from those of another, which have nothing in common. It is
/// not part of what was compiled, so any two are equal.
#[derive(Debug, Clone, Default)]
pub struct Origin(Arc<()>);

impl Origin {
    /// Whether both are of one compiler.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl PartialEq for Origin {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Origin {}

/// A local pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `metadata.uid` of the pod.
    pub uid: String,
    /// Addresses of the pod.
    pub addresses: Vec<IpAddr>,
    /// Its ingress policy; `None` if nothing restricts what it receives (rule I1).
    pub ingress: Option<PolicyId>,
    /// Its egress policy; `None` if nothing restricts what it sends.
    pub egress: Option<PolicyId>,
    /// Prefixes that it sends and receives for beside its own addresses (rule A6).
    pub forwards: Arc<BTreeSet<IpNet>>,
}

impl Compiled {
    /// What a policy says of a class of addresses.
    pub fn entries(&self, policy: PolicyId, class: ClassId) -> Entries {
        let known = self.policies.get(&policy).zip(self.classes.get(&class));
        known
            .map(|(policy, class)| policy.entries(class))
            .unwrap_or_default()
    }

    /// What an egress policy says of a class of frontends.
    pub fn passage(&self, policy: PolicyId, class: ClassId) -> Option<Passage> {
        let class = self.classes.get(&class)?;
        self.policies
            .get(&policy)?
            .passage(class, &Matches::among(&self.classes))
    }
}
