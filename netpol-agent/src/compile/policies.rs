// SPDX-License-Identifier: Apache-2.0
//! The policies of this node's endpoints, each distinct one once.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    active::{ActivePolicies, Local},
    compiled::Endpoint,
    policy::{Policy, PolicyId},
    rule::Action,
};
use crate::model::{Direction, Map, ObjectKey, PortKey};

/// The endpoints, and what applies to them.
#[derive(Debug, Default)]
pub(super) struct Policies {
    /// The policies by number.
    pub(super) list: Map<PolicyId, Arc<Policy>>,
    /// The endpoints, with their policies.
    pub(super) endpoints: BTreeMap<ObjectKey, Endpoint>,
    ids: BTreeMap<Arc<Policy>, PolicyId>,
    next: PolicyId,
}

impl Policies {
    /// Takes the endpoints, and the policies that select them, as they are now.
    pub(super) fn update(&mut self, active: &ActivePolicies) {
        let mut before = std::mem::take(&mut self.ids);
        let mut endpoints = BTreeMap::new();
        for (key, local) in &active.endpoints {
            let mut number = |direction| Some(self.number(policy_of(active, local, direction)?, &mut before));
            let endpoint = Endpoint {
                uid: local.pod.uid.to_string(),
                ingress: number(Direction::Ingress),
                egress: number(Direction::Egress),
                addresses: local.pod.distinct_addresses().into_iter().collect(),
                forwards: Arc::default(),
            };
            endpoints.insert(key.clone(), endpoint);
        }
        for gone in before.into_values() {
            self.list.remove(&gone);
        }
        self.endpoints = endpoints;
    }

    fn number(&mut self, policy: Policy, before: &mut BTreeMap<Arc<Policy>, PolicyId>) -> PolicyId {
        if let Some(id) = self.ids.get(&policy) {
            return *id;
        }
        let (policy, id) = match before.remove_entry(&policy) {
            Some(known) => known,
            None => {
                let (policy, id) = (Arc::new(policy), self.next);
                self.next += 1;
                self.list.insert(id, policy.clone());
                (policy, id)
            }
        };
        self.ids.insert(policy, id);
        id
    }
}

/// What applies to a pod in a direction; `None` if nothing isolates it (rule I1).
fn policy_of(active: &ActivePolicies, local: &Local, direction: Direction) -> Option<Policy> {
    let rules = active.isolation(local, direction)?;
    let mut named_ports = BTreeMap::new();
    if direction == Direction::Ingress {
        let named = rules.iter().flat_map(|rule| rule.ports.named());
        let given = PortKey::numbers_of(&local.pod);
        named_ports.extend(named.filter_map(|(_, port)| Some((port.clone(), *given.get(port)?))));
    }
    Some(Policy::new(direction, Action::Deny, rules, named_ports))
}
