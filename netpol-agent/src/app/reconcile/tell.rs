// SPDX-License-Identifier: Apache-2.0
//! Reports: in the log once each, and in the status that metrics, readiness and explain read.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use tracing::{debug, error, info, warn};

use super::{
    super::{
        bind::{Bound, Standing},
        troubles,
    },
    Reconciler, Turn,
};
use crate::{
    explain::Held,
    model::{Diagnostic, ObjectKey, Pod, Set, Snapshot},
    observe::status::{GRACE, Unenforced},
    sync::Report,
    verify,
};

/// Number of node names that are listed if this node's is not among them.
const NAMES: usize = 10;
/// Suffix of the codes of diagnostics about a budget (rule L2).
const OVER_BUDGET: &str = "-over-budget";

impl Reconciler {
    /// Logs the interfaces that this turn closes because nobody was found behind them.
    pub(super) fn tell_closed(&self, closed: &BTreeSet<u32>, bound: &Bound) {
        let is_new =
            |ifindex: &&u32| self.state.endpoints.contains_key(ifindex) && !bound.pods.contains_key(ifindex);
        for ifindex in closed.iter().filter(is_new) {
            let interface = self.datapath.name(*ifindex);
            warn!(
                interface,
                ifindex,
                "closed to all but the node: no pod was found behind it, and a pod of this node is on no interface"
            );
        }
    }

    /// Logs pods that are not enforced on, once each.
    pub(super) fn tell_unenforced(&mut self, bound: &Bound) {
        let now = Instant::now();
        let mut before = std::mem::take(&mut self.unenforced);
        for (key, standing) in &bound.standing {
            let Standing::Not(why) = standing else { continue };
            // Whoever asked for a self-test is told. No pod is astray by it.
            if &*key.namespace == verify::NAMESPACE {
                continue;
            }
            let why = why.to_string();
            let known = before.remove(key);
            let mut pod = Unenforced {
                since: known.as_ref().map_or(now, |known| known.since),
                overdue: known
                    .as_ref()
                    .is_some_and(|known| known.overdue && known.why == why),
                why,
            };
            if !pod.overdue && now.duration_since(pod.since) >= GRACE {
                pod.overdue = true;
                warn!(
                    namespace = &*key.namespace,
                    pod = &*key.name,
                    why = pod.why,
                    "a pod is not enforced on"
                );
            }
            self.unenforced.insert(key.clone(), pod);
        }
        for (key, _) in before.iter().filter(|(_, pod)| pod.overdue) {
            if matches!(bound.standing.get(key), Some(Standing::Bound(_))) {
                info!(
                    namespace = &*key.namespace,
                    pod = &*key.name,
                    "a pod is enforced on now"
                );
            }
        }
    }

    /// Logs once if nothing in the cluster uses this node's name: then no pod here is enforced on.
    pub(super) fn check_name(&mut self, snapshot: &Snapshot) {
        let named = |pod: &Arc<Pod>| {
            pod.node.as_deref() == Some(self.options.node_name.as_str())
                && &*pod.key.namespace != verify::NAMESPACE
        };
        // Scratch pods have whatever name the agent was given.
        let of_cluster = |key: &ObjectKey| &*key.namespace != verify::NAMESPACE;
        let known = self.locals.pods.keys().any(of_cluster)
            || snapshot.nodes.get(&self.options.node_name).is_some()
            || snapshot.pods.values().any(named);
        if known {
            self.misnamed = None;
            return;
        }
        let of_pods = snapshot
            .pods
            .values()
            .filter_map(|pod| Some(pod.node.as_deref()?.to_owned()));
        let names: BTreeSet<String> = snapshot.nodes.keys().cloned().chain(of_pods).collect();
        if self.misnamed.as_ref() == Some(&names) {
            return;
        }
        let mut listed = names.iter().take(NAMES).cloned().collect::<Vec<_>>().join(", ");
        if names.len() > NAMES {
            listed += &format!(" and {} more", names.len() - NAMES);
        }
        error!(
            node = self.options.node_name,
            names = listed,
            "no node and no pod has the name of --node-name: no pod of this node is enforced on"
        );
        self.misnamed = Some(names);
    }

    pub(super) fn log(&mut self, report: &Report, turn: &Turn) {
        self.troubles.tell(report, |ifindex| self.datapath.name(ifindex));
        if self.applied == Some(report.revision) && turn.routine {
            return;
        }
        self.applied = Some(report.revision);
        info!(
            revision = report.revision,
            endpoints = self.state.endpoints.len(),
            waiting = turn.waiting,
            policies = self.state.policies.len(),
            identities = self.state.identities.len(),
            writes = report.writes,
            failures = report.failed(),
            duration_ms = turn.duration.as_millis() as u64,
            waited_us = turn.waited.as_micros() as u64,
            delay_us = turn.delay.map(|delay| delay.as_micros() as u64),
            "revision applied"
        );
    }

    pub(super) fn report_diagnostics(&mut self, diagnostics: &Set<Diagnostic>) {
        let mut new = BTreeSet::new();
        for (diagnostic, _, now) in self.reported.diff(diagnostics) {
            let count = self.by_code.entry(diagnostic.code).or_default();
            let of_budget = diagnostic.code.ends_with(OVER_BUDGET);
            if now.is_some() {
                *count += 1;
                if of_budget {
                    self.over_budget.insert(diagnostic.clone(), ());
                }
                new.insert(diagnostic);
            } else {
                *count -= 1;
                if of_budget {
                    self.over_budget.remove(diagnostic);
                }
                debug!(
                    code = diagnostic.code,
                    object = diagnostic.object,
                    field = diagnostic.field,
                    "no longer wrong"
                );
            }
        }
        troubles::tell_diagnostics(new);
        self.by_code.retain(|_, count| *count > 0);
        self.reported = diagnostics.clone();
    }

    pub(super) fn publish(&self, report: &Report, turn: &Turn, held: Held) {
        let endpoints: BTreeMap<u32, _> = self
            .state
            .endpoints
            .iter()
            .filter_map(|(ifindex, endpoint)| Some((endpoint.id, self.memory.pods.get(ifindex)?.0.clone())))
            .collect();
        let pod = |ifindex: &u32| Some((*ifindex, self.memory.pods.get(ifindex)?.0.clone()));
        let interfaces = self.state.endpoints.keys().filter_map(pod).collect();
        self.status.send_modify(|status| {
            let status = Arc::make_mut(status);
            status.interfaces = interfaces;
            status.scratch_refused.clone_from(&self.scratch_refused);
            status.held = held;
            status.attached.clone_from(&self.state.attached);
            status.attached_devices.clone_from(&self.state.attached_devices);
            status.revision = report.revision;
            status.ready |= report.failures.is_empty();
            status.endpoints = endpoints;
            status.endpoints_waiting = turn.waiting;
            status.unenforced.clone_from(&self.unenforced);
            status.misnamed = self.misnamed.is_some();
            status.endpoints_held_back = report.held_back.len();
            status.policies = self.state.policies.len();
            status.identities = self.state.identities.len();
            status.over_budget.clone_from(&self.over_budget);
            status.diagnostics.clone_from(&self.by_code);
            status.write_failures += report.failed() as u64;
            status.writes += report.writes as u64;
            status.last_duration = turn.duration;
            if let Some(delay) = turn.delay {
                status.delays.observe(delay);
            }
        });
    }
}
