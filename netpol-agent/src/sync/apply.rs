// SPDX-License-Identifier: Apache-2.0
//! Makes the writes of a plan. A write that fails concerns what depends on it, and nothing else
//! (rules L1, L2):
//!
//! - An entry of a policy that is missing is closed. An endpoint that was to get a number with such
//!   a hole keeps the number that it has, if that allows nothing that the new one does not; else it
//!   is closed.
//! - An address that could not get its identity keeps the one that it has. Endpoints whose policy
//!   says more of that than it was to say are closed, all others have their new policies. A prefix
//!   around it waits, should it have no entry of its own, so that it falls to none that it never
//!   had.
//! - A frontend that is missing is an address like any other. A pod whose post-DNAT check (rule A5)
//!   is not in place gets no new egress policy.
//! - A pod that could go on to send for whom it may no longer sends for nobody (rule A6).
//! - What is removed is removed, but for entries that someone who was held back still goes by.
//!
//! A write waits for the programs that began before its stage, whatever failed (rule B4).
//!
//! Once a map is full, only entries that it has already are written to it.

mod narrow;
mod report;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
};

use ipnet::{IpNet, Ipv6Net};
use netpol_common::abi::{
    ACTION_DEFER, Config, ENDPOINT_FORWARDS, Endpoint, POLICY_DENY, POLICY_UNRESTRICTED, SENDER_AMBIGUOUS,
};

use self::narrow::{Differences, carried, is_within};
pub use self::report::{Failure, Report};
use super::{
    Memory, Plan, Put, Remove, Stage, State, Write,
    tables::{Part, Room},
};
use crate::model::Direction;

/// The kernel, as a plan changes it.
pub trait Kernel {
    /// Why a write failed.
    type Error: Error + 'static;

    /// Makes a write.
    ///
    /// # Errors
    /// The kernel refuses it; nothing changed.
    fn write(&mut self, write: &Write) -> Result<(), Self::Error>;

    /// Waits until every program that began before has ended. `next` is the stage that is about to
    /// begin.
    fn wait(&mut self, next: Stage);
}

/// Makes the writes of `plan`, recording in `state` and `memory` what was made. Between two stages
/// the kernel waits, if something was written before and something is written after.
pub fn apply(plan: Plan, state: &mut State, memory: &mut Memory, kernel: &mut impl Kernel) -> Report {
    let mut turn = Turn {
        state,
        kernel,
        report: Report {
            revision: plan.revision,
            ..Report::default()
        },
        stage: Stage::Separate,
        running: false,
        waits: false,
        intended: None,
        full: BTreeSet::new(),
        lost: BTreeMap::new(),
        bare: BTreeSet::new(),
        incomplete: BTreeSet::new(),
        stuck: BTreeSet::new(),
        unseen: BTreeSet::new(),
        all_unseen: false,
        unrestricted: false,
        overgranted: BTreeSet::new(),
        kept: None,
        written: BTreeSet::new(),
    };
    for (stage, writes) in plan.stages {
        turn.stage = stage;
        turn.waits = turn.running;
        if !writes.into_iter().all(|planned| turn.make(planned)) {
            break;
        }
        // Not later: the wait of the next stage takes milliseconds.
        turn.close_what_is_wider();
    }
    let Turn {
        report,
        intended,
        written,
        ..
    } = turn;
    // What numbers mean is only known when all of them were written; without it the next plan goes
    // by the kernel's state alone.
    if intended.is_none() {
        *memory = plan.memory;
    } else {
        memory.last = None;
        memory.settled = false;
        let pods = plan.memory.pods.into_iter();
        memory
            .pods
            .extend(pods.filter(|(ifindex, _)| written.contains(ifindex)));
    }
    report
}

/// One plan on its way into the kernel.
struct Turn<'a, K> {
    state: &'a mut State,
    kernel: &'a mut K,
    report: Report,
    /// The stage of the write.
    stage: Stage,
    /// A program may have begun before the last write that was made, and still run.
    running: bool,
    /// The next write waits for such programs: it is the first of its stage.
    waits: bool,
    /// What the state would be without failures, from the first one on.
    intended: Option<State>,
    full: BTreeSet<Room>,
    /// Prefixes that did not get their identity, or did not lose it, as the map has them.
    lost: BTreeMap<Ipv6Net, IpNet>,
    /// Those of them without an entry.
    bare: BTreeSet<Ipv6Net>,
    /// Policy numbers with missing entries.
    incomplete: BTreeSet<u32>,
    /// Policy numbers that an endpoint could not leave: nothing may be added to them.
    stuck: BTreeSet<u32>,
    /// Interfaces of pods that the post-DNAT check does not know.
    unseen: BTreeSet<u32>,
    /// The post-DNAT check is not in place.
    all_unseen: bool,
    /// Some backends are not restricted.
    unrestricted: bool,
    /// Interfaces of pods that could still send and receive for more than they may.
    overgranted: BTreeSet<u32>,
    /// Once entries are removed after a failure: what must stay.
    kept: Option<Kept>,
    /// Endpoints that were written.
    written: BTreeSet<u32>,
}

impl<K: Kernel> Turn<'_, K> {
    /// Makes a planned write, if what it needs is there. False: nothing may follow.
    fn make(&mut self, planned: Write) -> bool {
        if let Some(intended) = &mut self.intended {
            intended.record(&planned);
            if matches!(planned, Write::Policies(Remove(_))) && self.kept.is_none() {
                self.kept = Some(Kept::new(self.state, intended));
            }
        }
        if !self.is_ready(&planned) {
            self.miss(&planned);
            self.report.left_out += 1;
            return true;
        }
        let planned = match planned {
            Write::Endpoints(Put(ifindex, endpoint)) => {
                let held = self.hold_back(ifindex, &endpoint);
                if held != endpoint {
                    self.report.held_back.insert(ifindex);
                }
                Write::Endpoints(Put(ifindex, held))
            }
            planned => planned,
        };
        if self.attempt(&planned) {
            return true;
        }
        if let Write::Endpoints(Put(ifindex, _)) = planned {
            self.report.held_back.insert(ifindex);
            if self.stage == Stage::Separate
                && let Some(held) = self.state.endpoints.get(&ifindex)
            {
                self.stuck.extend([held.ingress_policy, held.egress_policy]);
            }
        }
        self.miss(&planned);
        // Numbers that are not stored as given, or an epoch that is not raised: nothing may go on.
        !matches!(planned, Write::Config(_))
    }

    /// Makes a write. False if it failed.
    fn attempt(&mut self, planned: &Write) -> bool {
        if std::mem::take(&mut self.waits) {
            self.kernel.wait(self.stage);
            self.running = false;
        }
        match self.kernel.write(planned) {
            Ok(()) => {
                self.running = true;
                self.report.writes += 1;
                self.state.record(planned);
                if let Write::Endpoints(Put(ifindex, _)) = planned {
                    self.written.insert(*ifindex);
                }
                true
            }
            Err(error) => {
                if report::is_full(&error) {
                    self.full.extend(planned.room());
                }
                self.report.fail(planned, &error);
                false
            }
        }
    }

    /// Whether a write may be made, by what is missing before it.
    fn is_ready(&self, planned: &Write) -> bool {
        let is_full = planned.room().is_some_and(|room| self.full.contains(&room));
        if is_full && !self.state.has(planned) {
            return false;
        }
        match planned {
            Write::Policies(Put((policy, _), value)) => {
                let unrestricted = self.unrestricted && value.action == ACTION_DEFER;
                !unrestricted && !self.stuck.contains(policy)
            }
            // In order, what is within a prefix follows it.
            Write::Identities(Put(prefix, _)) => {
                let net = mapped(*prefix);
                let within = self.bare.range(net..).take_while(|bare| net.contains(*bare));
                !within.take(2).any(|bare| *bare != net)
            }
            Write::Frontends(Put(..)) => !self.unrestricted,
            Write::Identities(Remove(prefix)) => self.lost.is_empty() || !self.is_within_lost(*prefix),
            Write::Policies(Remove((policy, key))) => {
                let kept = self.kept.as_ref();
                kept.is_none_or(|kept| !kept.needs(*policy, key.identity))
            }
            _ if planned.table().part() == Some(Part::PostDnat) => {
                planned.is_put() || self.report.held_back.is_empty()
            }
            _ => true,
        }
    }

    /// Whether a prefix is within one that did not get its identity: it would fall to that.
    fn is_within_lost(&self, prefix: IpNet) -> bool {
        let net = mapped(prefix);
        let around = std::iter::successors(net.supernet(), Ipv6Net::supernet);
        let mut lost = around.filter(|net| self.lost.contains_key(&net.trunc()));
        lost.next().is_some()
    }

    /// Takes it that a write was not made.
    fn miss(&mut self, planned: &Write) {
        self.intend(planned);
        match planned {
            Write::Policies(Put((policy, _), _)) => {
                self.incomplete.insert(*policy);
            }
            Write::Identities(Put(prefix, _)) => {
                self.lost.insert(mapped(*prefix), *prefix);
                if !self.state.identities.contains_key(prefix) {
                    self.bare.insert(mapped(*prefix));
                }
            }
            Write::Identities(Remove(prefix)) => {
                self.lost.insert(mapped(*prefix), *prefix);
            }
            Write::Senders(Put(_, SENDER_AMBIGUOUS)) => self.all_unseen = true,
            Write::LocalPods(Put(_, ifindex)) | Write::Senders(Put(_, ifindex)) => {
                self.unseen.insert(*ifindex);
            }
            Write::Restricted(Put(..)) => self.unrestricted = true,
            Write::Forwards(Remove((ifindex, _))) => {
                self.overgranted.insert(*ifindex);
            }
            _ => {}
        }
    }

    /// Notes what was to be.
    fn intend(&mut self, planned: &Write) {
        let state = &*self.state;
        self.intended.get_or_insert_with(|| state.clone()).record(planned);
    }

    /// The endpoint with those policies that it may have.
    fn hold_back(&mut self, ifindex: u32, wanted: &Endpoint) -> Endpoint {
        if self.intended.is_none() {
            return *wanted;
        }
        let separates = self.stage == Stage::Separate;
        let held = self.state.endpoints.get(&ifindex).copied();
        let blind = self.all_unseen || self.unseen.contains(&ifindex);
        let mut keep = |wanted: u32, held: Option<u32>, fails: bool| {
            let closes = wanted == POLICY_UNRESTRICTED || wanted == POLICY_DENY;
            if closes || Some(wanted) == held || !(fails || self.incomplete.contains(&wanted)) {
                return wanted;
            }
            let Some(held) = held.filter(|held| ![POLICY_UNRESTRICTED, POLICY_DENY].contains(held)) else {
                return POLICY_DENY;
            };
            if separates {
                self.stuck.insert(held);
                return held;
            }
            let intended = self.intended.as_ref().unwrap_or(self.state);
            if is_within(self.state, (held, wanted), intended, &carried(self.state)) {
                held
            } else {
                POLICY_DENY
            }
        };
        let flags = if self.overgranted.contains(&ifindex) {
            wanted.flags & !ENDPOINT_FORWARDS
        } else {
            wanted.flags
        };
        Endpoint {
            flags,
            ingress_policy: keep(
                wanted.ingress_policy,
                held.map(|endpoint| endpoint.ingress_policy),
                false,
            ),
            egress_policy: keep(
                wanted.egress_policy,
                held.map(|endpoint| endpoint.egress_policy),
                blind,
            ),
            ..*wanted
        }
    }

    /// Closes endpoints whose policy says more of what addresses are than it was to say of what
    /// they were to be.
    fn close_what_is_wider(&mut self) {
        let Some(intended) = self.intended.take() else {
            return;
        };
        for ifindex in std::mem::take(&mut self.overgranted) {
            let held = self.state.endpoints.get(&ifindex).copied();
            let Some(held) = held.filter(|held| held.flags & ENDPOINT_FORWARDS != 0) else {
                continue;
            };
            self.report.held_back.insert(ifindex);
            let endpoint = Endpoint {
                flags: held.flags & !ENDPOINT_FORWARDS,
                ..held
            };
            self.attempt(&Write::Endpoints(Put(ifindex, endpoint)));
        }
        let has_holes = |endpoint: &Endpoint| {
            let policies = [endpoint.ingress_policy, endpoint.egress_policy];
            policies.iter().any(|policy| self.incomplete.contains(policy))
        };
        let endpoints = self.state.endpoints.iter();
        let with_holes = endpoints.filter(|(_, endpoint)| has_holes(endpoint));
        self.report
            .held_back
            .extend(with_holes.map(|(ifindex, _)| *ifindex));
        if !self.lost.is_empty() {
            let differences = Differences::new(self.state, &intended, self.lost.values());
            let mut narrower = Vec::new();
            for (ifindex, endpoint) in &self.state.endpoints {
                let Some(meant) = intended.endpoints.get(ifindex) else {
                    continue;
                };
                let close = |is, meant, direction| {
                    let wider = differences.widen((self.state, is), (&intended, meant), direction);
                    if wider { POLICY_DENY } else { is }
                };
                let closed = Endpoint {
                    ingress_policy: close(endpoint.ingress_policy, meant.ingress_policy, Direction::Ingress),
                    egress_policy: close(endpoint.egress_policy, meant.egress_policy, Direction::Egress),
                    ..*endpoint
                };
                if closed != *endpoint {
                    narrower.push((*ifindex, closed));
                }
            }
            let before = self.state.endpoints.clone();
            for (ifindex, endpoint) in narrower {
                self.report.held_back.insert(ifindex);
                self.attempt(&Write::Endpoints(Put(ifindex, endpoint)));
            }
            // Connections that other endpoints received were judged under the policy of the pod
            // that opened them, too (rules A5, C2).
            let egress = |(ifindex, endpoint): (&u32, &Endpoint)| {
                before.get(ifindex).map(|before| before.egress_policy) != Some(endpoint.egress_policy)
            };
            if self.state.endpoints.iter().any(egress) {
                self.attempt(&Write::Config(Config {
                    epoch: self.state.config.epoch.wrapping_add(1),
                    ..self.state.config
                }));
            }
        }
        self.intended = Some(intended);
    }
}

/// What must stay of policies, though it was to be removed.
struct Kept {
    /// Numbers that an endpoint has.
    used: BTreeSet<u32>,
    /// Those of them that none was to have any more.
    left: BTreeSet<u32>,
    /// Identities that are carried.
    carried: BTreeSet<u32>,
}

impl Kept {
    fn new(state: &State, intended: &State) -> Self {
        let used: BTreeSet<u32> = state.policies_in_use().collect();
        let meant: BTreeSet<u32> = intended.policies_in_use().collect();
        Self {
            left: used.difference(&meant).copied().collect(),
            used,
            carried: carried(state),
        }
    }

    fn needs(&self, policy: u32, identity: u32) -> bool {
        self.left.contains(&policy) || self.used.contains(&policy) && self.carried.contains(&identity)
    }
}

/// The prefix as the map has it: IPv4 is mapped into IPv6.
fn mapped(prefix: IpNet) -> Ipv6Net {
    let (address, length) = match prefix {
        IpNet::V4(net) => (net.network().to_ipv6_mapped(), net.prefix_len() + 96),
        IpNet::V6(net) => (net.network(), net.prefix_len()),
    };
    // No IPv4 prefix is longer than 32.
    Ipv6Net::new_assert(address, length)
}
