// SPDX-License-Identifier: Apache-2.0
//! The class of each frontend, by where its packets may end: its backends, and its own address or
//! the NodePort there (rules A5, A9).

use std::{
    collections::BTreeSet,
    iter,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use super::Frontends;
use crate::{
    compile::{
        class::{Class, ClassId, FrontendClass, Target, Untranslated},
        classes::Classes,
    },
    model::Frontend,
};

impl Frontends {
    /// Takes the addresses of the node. Those that come or go must be claimed, too.
    pub(in crate::compile) fn set_own(&mut self, own: &BTreeSet<IpAddr>) {
        self.own = own.iter().map(IpAddr::to_canonical).collect();
    }

    /// The frontends at the node's addresses that have the number of this NodePort.
    pub(super) fn beside(&self, frontend: Frontend) -> impl Iterator<Item = Frontend> {
        let own = self.own.iter().filter(move |own| {
            frontend.address.is_unspecified() && own.is_ipv4() == frontend.address.is_ipv4()
        });
        own.map(move |own| Frontend {
            address: *own,
            ..frontend
        })
        .filter(|beside| self.by_frontend.contains_key(beside))
    }

    /// Gives a frontend its class, or takes it away if no Service has the frontend any more, or if
    /// it is `refused`.
    pub(super) fn settle(&mut self, frontend: Frontend, refused: bool, classes: &mut Classes) {
        let there = self.by_frontend.contains_key(&frontend) && !refused;
        let class = there.then(|| {
            let class = FrontendClass {
                untranslated: self.untranslated(frontend, classes),
                ..self.translated(frontend, classes)
            };
            self.class(class, classes)
        });
        self.moved.insert(frontend);
        let old = match class {
            Some(class) => {
                self.known.entry(class).or_default().insert(frontend);
                self.classes.insert(frontend, class)
            }
            None => {
                self.closed.remove(&frontend);
                self.classes.remove(&frontend)
            }
        };
        if let Some(old) = old.filter(|old| Some(*old) != class) {
            self.leave(old, frontend, classes);
        }
    }

    /// Where kube-proxy leads packets to a frontend.
    fn translated(&self, frontend: Frontend, classes: &Classes) -> FrontendClass {
        let backends = self.backends(frontend).into_iter();
        FrontendClass {
            backends: backends.map(|backend| target(backend, classes)).collect(),
            untranslated: None,
            closed: self.closed.contains_key(&frontend),
        }
    }

    /// Where packets to a frontend end if kube-proxy has no rules for it.
    fn untranslated(&self, frontend: Frontend, classes: &Classes) -> Option<Untranslated> {
        if frontend.address.is_unspecified() {
            return None;
        }
        let itself = target(frontend, classes);
        let node_port = Frontend {
            address: match frontend.address {
                IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            },
            ..frontend
        };
        if itself.node && self.by_frontend.contains_key(&node_port) {
            let node_port = self.translated(node_port, classes);
            return Some(Untranslated::NodePort(Box::new(node_port)));
        }
        Some(Untranslated::Address(itself))
    }

    fn class(&mut self, frontend: FrontendClass, classes: &mut Classes) -> ClassId {
        if let Some(class) = self.ids.get(&frontend) {
            return *class;
        }
        let id = classes.take_id();
        let class = Class {
            frontend: Some(frontend.clone()),
            ..Class::default()
        };
        classes.list.insert(id, Arc::new(class));
        self.ids.insert(frontend, id);
        id
    }

    fn leave(&mut self, class: ClassId, frontend: Frontend, classes: &mut Classes) {
        let Some(frontends) = self.known.get_mut(&class) else {
            return;
        };
        frontends.remove(&frontend);
        if frontends.is_empty() {
            self.known.remove(&class);
            let gone = classes.list.remove(&class);
            if let Some(frontend) = gone.as_ref().and_then(|class| class.frontend.as_ref()) {
                self.ids.remove(frontend);
            }
        }
    }

    /// Closes a frontend, or opens it again (rule L2): it gets the class of equal ones.
    pub(super) fn set_closed(&mut self, frontend: Frontend, closed: bool, classes: &mut Classes) {
        if !self.classes.contains_key(&frontend) {
            return;
        }
        let changed = if closed {
            self.closed.insert(frontend, ()).is_none()
        } else {
            self.closed.remove(&frontend).is_some()
        };
        if changed {
            let beside: Vec<Frontend> = self.beside(frontend).collect();
            let known = |frontend: &Frontend| self.classes.contains_key(frontend);
            let settled: Vec<Frontend> = iter::once(frontend)
                .chain(beside.into_iter().filter(known))
                .collect();
            for frontend in settled {
                self.settle(frontend, false, classes);
            }
        }
    }
}

fn target(at: Frontend, classes: &Classes) -> Target {
    let address = classes.address_at(at.address);
    Target {
        class: address.class,
        node: address.node,
        protocol: at.protocol,
        port: at.port,
    }
}
