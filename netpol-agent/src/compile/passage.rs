// SPDX-License-Identifier: Apache-2.0
//! What an egress policy says of a Service's frontend: what it says of all backends (rule A5), and
//! of the frontend's own address (rule A9).

use std::collections::BTreeSet;

use super::{
    class::{Class, FrontendClass, Target, Untranslated},
    matches::Matches,
    policy::Policy,
    rule::Action,
};
use crate::model::Direction;

/// What a policy says of a frontend that it does not deny.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Passage {
    /// It accepts all backends, one of them by the rule of this number (0: none was needed).
    Accept(u32),
    /// It accepts some backends, or the frontend's own address: the packet is judged again when it
    /// is known where it ends.
    Defer,
}

impl Policy {
    /// What it says of a class of frontends; `None`: it denies them. `None` also for a class of
    /// addresses.
    pub fn passage<'a>(&'a self, class: &Class, matches: &Matches<'a>) -> Option<Passage> {
        self.passage_if(class.frontend.as_ref()?, |frontend| frontend.closed, matches)
    }

    /// What it would say if no frontend were closed (rule L2).
    pub(super) fn open_passage<'a>(
        &'a self,
        frontend: &FrontendClass,
        matches: &Matches<'a>,
    ) -> Option<Passage> {
        self.passage_if(frontend, |_| false, matches)
    }

    /// A Service can only add a way (rule A9). If the policy denies all backends, the packet may
    /// still go where it ends without kube-proxy's rules: nobody here knows whether they are there.
    fn passage_if<'a>(
        &'a self,
        frontend: &FrontendClass,
        is_closed: fn(&FrontendClass) -> bool,
        matches: &Matches<'a>,
    ) -> Option<Passage> {
        if self.direction == Direction::Ingress {
            return None;
        }
        let of_backends = self.passage_over(&frontend.backends, matches);
        let passage = of_backends.or_else(|| {
            let passes = match frontend.untranslated.as_ref()? {
                Untranslated::Address(target) => self.reaches(target, matches),
                Untranslated::NodePort(other) => self.passage_if(other, is_closed, matches).is_some(),
            };
            passes.then_some(Passage::Defer)
        });
        passage.filter(|passage| *passage != Passage::Defer || !is_closed(frontend))
    }

    /// What it says of these backends; `None`: it denies all of them.
    ///
    /// A frontend without backends leads nowhere, and what kube-proxy answers may come.
    pub(super) fn passage_over<'a>(
        &'a self,
        backends: &BTreeSet<Target>,
        matches: &Matches<'a>,
    ) -> Option<Passage> {
        if let Some(rule) = self.accepts_all() {
            return Some(Passage::Accept(rule));
        }
        let mut accepted = None;
        let mut denied = false;
        for target in backends {
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

    /// Whether it, or rule A2, lets a packet go to an address.
    fn reaches<'a>(&'a self, target: &Target, matches: &Matches<'a>) -> bool {
        target.node || matches.entry_for(self, target).action == Action::Accept
    }
}
