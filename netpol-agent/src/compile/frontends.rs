// SPDX-License-Identifier: Apache-2.0
//! Frontends of Services and their backends (rule A5). A frontend has a class like an address: all
//! frontends whose packets may end at the same classes are one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use self::reached::{Reached, node_ports, reached};
use super::{
    budget::Budget,
    class::{ClassId, FrontendClass},
    classes::Classes,
    fault::{Fault, Findings, Topic, diagnostic},
    profiles::Profiles,
    weight,
};
use crate::model::{
    Diagnostic, EndpointSlice, Frontend, Limits, Map, ObjectKey, SERVICE_RESOURCES, Set, Snapshot,
};

mod ends;
mod faults;
mod reached;
mod restricted;

pub(super) use restricted::RestrictedBackends;

/// All frontends.
#[derive(Debug)]
pub(super) struct Frontends {
    /// The class of each frontend.
    pub(super) classes: Map<Frontend, ClassId>,
    /// Frontends that are closed (rule L2).
    pub(super) closed: Set<Frontend>,
    /// The frontends of each class.
    known: BTreeMap<ClassId, BTreeSet<Frontend>>,
    ids: BTreeMap<FrontendClass, ClassId>,
    /// The frontends and backends of each Service.
    services: BTreeMap<ObjectKey, Reached>,
    /// The slices of each Service.
    slices: BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
    /// The Services of each frontend.
    by_frontend: BTreeMap<Frontend, BTreeSet<ObjectKey>>,
    /// The frontends that lead to each address, with the number of Service ports by which they do.
    by_backend: BTreeMap<IpAddr, BTreeMap<Frontend, usize>>,
    /// Frontends whose class, backends or address have changed since this was last taken.
    moved: BTreeSet<Frontend>,
    /// The Services behind the first, of frontends that several Services have.
    shared: BTreeMap<Frontend, BTreeSet<ObjectKey>>,
    /// The same by Service.
    conflicts: BTreeMap<ObjectKey, BTreeSet<Frontend>>,
    /// Virtual addresses that a pod or a node has got or lost.
    claimed: BTreeSet<IpAddr>,
    /// The addresses of the node.
    own: BTreeSet<IpAddr>,
    /// What Services may cost (rule L2).
    budget: Budget<{ SERVICE_RESOURCES.len() }>,
}

impl Frontends {
    /// None yet.
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            classes: Map::new(),
            closed: Set::new(),
            known: BTreeMap::new(),
            ids: BTreeMap::new(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            by_frontend: BTreeMap::new(),
            by_backend: BTreeMap::new(),
            moved: BTreeSet::new(),
            shared: BTreeMap::new(),
            conflicts: BTreeMap::new(),
            claimed: BTreeSet::new(),
            own: BTreeSet::new(),
            budget: Budget::new(limits.services),
        }
    }

    /// Notes that a pod or a node gets an address, or loses it.
    pub(super) fn claim(&mut self, address: IpAddr) {
        if self.at(address, address).next().is_some() {
            self.claimed.insert(address);
        }
    }

    /// Goes from one snapshot to the next; `moved` are the prefixes whose class has changed.
    pub(super) fn update(
        &mut self,
        before: &Snapshot,
        after: &Snapshot,
        (moved, profiles): (&[IpNet], &Profiles),
        classes: &mut Classes,
        findings: &mut Findings,
    ) {
        let mut touched = BTreeSet::new();
        let mut services = self.within_budget(before, after, findings);
        for service in &services {
            self.set_service(service, after, &mut touched);
        }
        for net in moved {
            let range = self.by_backend.range(net.network()..=net.broadcast());
            touched.extend(range.flat_map(|(_, frontends)| frontends.keys().copied()));
            touched.extend(self.at(net.network(), net.broadcast()));
        }
        for address in std::mem::take(&mut self.claimed) {
            touched.extend(self.at(address, address));
        }
        for frontend in &touched {
            services.extend(self.by_frontend.get(frontend).into_iter().flatten().cloned());
        }
        for service in services {
            let object = after.services.get(&service).map(AsRef::as_ref);
            self.report_refused((&service, object), profiles, findings);
        }
        let mut sharing = BTreeSet::new();
        for frontend in &touched {
            sharing.extend(self.share(*frontend));
        }
        let beside: Vec<Frontend> = touched
            .iter()
            .flat_map(|frontend| self.beside(*frontend))
            .collect();
        touched.extend(beside);
        for frontend in touched {
            // An address of a pod or of another node is theirs, whoever claims it (rule A9).
            let refused = profiles
                .owner(frontend.address)
                .is_some_and(|owner| !owner.is_here);
            self.settle(frontend, refused, classes);
        }
        for service in sharing {
            let found = self.conflict(&service).into_iter().collect();
            findings.report(Topic::Conflicts(service), found);
        }
    }

    /// The frontends at the addresses from `first` to `last`.
    fn at(&self, first: IpAddr, last: IpAddr) -> impl Iterator<Item = Frontend> {
        let end = |address, protocol, port| Frontend {
            address,
            protocol,
            port,
        };
        let range = end(first, 0, 0)..=end(last, u8::MAX, u16::MAX);
        self.by_frontend.range(range).map(|(frontend, _)| *frontend)
    }

    /// The backends that a frontend has in any of its Services. kube-proxy may choose any of them,
    /// so all of them count.
    fn backends(&self, frontend: Frontend) -> BTreeSet<Frontend> {
        let services = self.by_frontend.get(&frontend).into_iter().flatten();
        let reached = services.filter_map(|service| self.services.get(service)?.get(&frontend));
        reached.flat_map(|backends| backends.iter().copied()).collect()
    }

    /// Services that have changed, or whose slices have.
    fn changed_services(&mut self, before: &Snapshot, after: &Snapshot) -> BTreeSet<ObjectKey> {
        let services = before.services.diff(&after.services);
        let mut changed: BTreeSet<ObjectKey> = services.into_iter().map(|(key, _, _)| key.clone()).collect();
        for (key, old, new) in before.endpoint_slices.diff(&after.endpoint_slices) {
            let service = |name: &String| ObjectKey::new(key.namespace.as_str(), name.as_str());
            if let Some(service) = old.and_then(|slice| slice.service.as_ref()).map(service) {
                if let Some(slices) = self.slices.get_mut(&service) {
                    slices.remove(key);
                    if slices.is_empty() {
                        self.slices.remove(&service);
                    }
                }
                changed.insert(service);
            }
            if let Some(service) = new.and_then(|slice| slice.service.as_ref()).map(service) {
                self.slices
                    .entry(service.clone())
                    .or_default()
                    .insert(key.clone());
                changed.insert(service);
            }
        }
        changed
    }

    /// Services that have changed, whose slices have, or that are over budget now and were not, or
    /// the other way round.
    fn within_budget(
        &mut self,
        before: &Snapshot,
        after: &Snapshot,
        findings: &mut Findings,
    ) -> BTreeSet<ObjectKey> {
        let mut changed = self.changed_services(before, after);
        for key in &changed {
            let service = after.services.get(key);
            let weight = service.map(|service| weight::service(service, &self.slices_of(key, after)));
            self.budget.set(key, weight);
        }
        for key in self.budget.settle() {
            let found = self.budget.refusal(&key).map(|refusal| {
                let message = format!(
                    "{}; it opens no way to its backends, which are judged where they are reached themselves",
                    refusal.describe(&SERVICE_RESOURCES)
                );
                diagnostic(
                    "Service",
                    &key,
                    Fault::new("service-over-budget", "spec", message),
                )
            });
            findings.report(Topic::ServiceBudget(key.clone()), found.into_iter().collect());
            changed.insert(key);
        }
        changed
    }

    fn slices_of<'a>(&self, key: &ObjectKey, after: &'a Snapshot) -> Vec<&'a Arc<EndpointSlice>> {
        let slices = self.slices.get(key).into_iter().flatten();
        slices
            .filter_map(|slice| after.endpoint_slices.get(slice))
            .collect()
    }

    fn set_service(&mut self, key: &ObjectKey, after: &Snapshot, touched: &mut BTreeSet<Frontend>) {
        let service = after.services.get(key);
        let now = match service {
            None => Reached::new(),
            Some(service) if self.budget.refusal(key).is_some() => node_ports(service),
            Some(service) => reached(service, &self.slices_of(key, after)),
        };
        for (frontend, backends) in &now {
            self.by_frontend.entry(*frontend).or_default().insert(key.clone());
            for backend in backends {
                *self
                    .by_backend
                    .entry(backend.address)
                    .or_default()
                    .entry(*frontend)
                    .or_default() += 1;
            }
            touched.insert(*frontend);
        }
        let kept: BTreeSet<Frontend> = now.keys().copied().collect();
        let before = if now.is_empty() {
            self.services.remove(key)
        } else {
            self.services.insert(key.clone(), now)
        };
        for (frontend, backends) in before.unwrap_or_default() {
            if !kept.contains(&frontend)
                && let Some(services) = self.by_frontend.get_mut(&frontend)
            {
                services.remove(key);
                if services.is_empty() {
                    self.by_frontend.remove(&frontend);
                }
            }
            for backend in backends {
                self.let_go(backend.address, frontend);
            }
            touched.insert(frontend);
        }
    }

    fn let_go(&mut self, address: IpAddr, frontend: Frontend) {
        let Some(frontends) = self.by_backend.get_mut(&address) else {
            return;
        };
        if let Some(count) = frontends.get_mut(&frontend) {
            *count -= 1;
            if *count == 0 {
                frontends.remove(&frontend);
            }
        }
        if frontends.is_empty() {
            self.by_backend.remove(&address);
        }
    }

    /// Takes the Services of a frontend as they are now. Returns those that share it with another,
    /// then or now.
    fn share(&mut self, frontend: Frontend) -> BTreeSet<ObjectKey> {
        let services = self.by_frontend.get(&frontend).into_iter().flatten();
        let now: BTreeSet<ObjectKey> = services.skip(1).cloned().collect();
        let before = if now.is_empty() {
            self.shared.remove(&frontend).unwrap_or_default()
        } else {
            self.shared.insert(frontend, now.clone()).unwrap_or_default()
        };
        for service in before.difference(&now) {
            if let Some(frontends) = self.conflicts.get_mut(service) {
                frontends.remove(&frontend);
                if frontends.is_empty() {
                    self.conflicts.remove(service);
                }
            }
        }
        for service in &now {
            self.conflicts
                .entry(service.clone())
                .or_default()
                .insert(frontend);
        }
        before.union(&now).cloned().collect()
    }

    /// Reports a Service that shares frontends with others: one finding for all of them.
    fn conflict(&self, service: &ObjectKey) -> Option<Diagnostic> {
        let frontends = self.conflicts.get(service)?;
        let frontend = frontends.first()?;
        let first = self.by_frontend.get(frontend)?.first()?;
        let more = match frontends.len() - 1 {
            0 => String::new(),
            more => format!(", as are {more} others of its addresses and ports by it or others"),
        };
        let message = format!(
            "{}:{} is also reached by Service {first}{more}; both count as one, with the backends of both",
            frontend.address, frontend.port
        );
        let fault = Fault::new("frontend-conflict", "spec.ports", message);
        Some(diagnostic("Service", service, fault))
    }
}
