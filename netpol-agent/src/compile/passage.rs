// SPDX-License-Identifier: Apache-2.0
//! What an egress policy says of a Service's frontend: what it says of all backends (rule A5).

use std::collections::BTreeSet;

use super::{
    class::{Class, Target},
    matches::Matches,
    policy::Policy,
    rule::Action,
};
use crate::model::Direction;

/// What a policy says of a frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Passage {
    /// It accepts all backends, one of them by the rule of this number (0: none was needed).
    Accept(u32),
    /// It accepts some backends: the packet is judged again after translation, when its backend is
    /// known.
    Defer,
    /// The frontend is closed, even if the policy accepts its address and nobody translates it
    /// (rule L2).
    Refuse,
}

impl Policy {
    /// What it says of a frontend with these backends; `None`: it denies all of them.
    ///
    /// A frontend without backends leads nowhere, and what kube-proxy answers may come.
    pub fn passage<'a>(&'a self, targets: &BTreeSet<Target>, matches: &Matches<'a>) -> Option<Passage> {
        if self.direction == Direction::Ingress {
            return None;
        }
        if let Some(rule) = self.accepts_all() {
            return Some(Passage::Accept(rule));
        }
        let mut accepted = None;
        let mut denied = false;
        for target in targets {
            let entry = matches.entry_for(self, target);
            let rule = (entry.action == Action::Accept).then_some(entry.rule);
            denied |= rule.is_none();
            // The pod reaches its own node anyway (rule A2). But another node may choose the
            // backend, and there this is no reason to let the packet pass.
            accepted = accepted.max(rule.or(target.node.then_some(0)));
        }
        match (accepted, denied) {
            (Some(rule), false) => Some(Passage::Accept(rule)),
            (None, true) => None,
            (Some(_), true) | (None, false) => Some(Passage::Defer),
        }
    }

    /// What it says of a class of frontends; `None` also for a class of addresses.
    pub fn passage_of<'a>(&'a self, class: &Class, matches: &Matches<'a>) -> Option<Passage> {
        let passage = self.passage(class.frontend.as_ref()?, matches);
        if !class.closed || self.direction == Direction::Ingress {
            return passage;
        }
        match passage {
            Some(Passage::Accept(rule)) => Some(Passage::Accept(rule)),
            _ => Some(Passage::Refuse),
        }
    }

    /// Whether an egress policy, or rule A2, lets a packet go to an address itself.
    pub(super) fn reaches<'a>(&'a self, target: &Target, matches: &Matches<'a>) -> bool {
        let accepts = || matches.entry_for(self, target).action == Action::Accept;
        self.direction == Direction::Egress && (target.node || accepts())
    }
}
