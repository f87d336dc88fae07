// SPDX-License-Identifier: Apache-2.0
//! Makes the writes of a plan. A write that fails never opens anything: what depends on it keeps what it had or, having had
//! nothing, is isolated (rule L1).

use std::{collections::BTreeSet, fmt};

use netpol_common::abi::{Endpoint, POLICY_DENY, POLICY_NONE};

use super::{Memory, Plan, State, Write};

/// A write that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What was attempted, on what.
    pub write: String,
    /// The error.
    pub error: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.write, self.error)
    }
}

/// What became of a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The snapshot's revision.
    pub revision: u64,
    /// Writes made.
    pub writes: usize,
    /// Writes that failed.
    pub failures: Vec<Failure>,
    /// Interfaces that did not get their new policies: they keep the old ones or are closed.
    pub held_back: BTreeSet<u32>,
}

/// Makes the writes of `plan` with `write`, recording in `state` and `memory` what was made.
pub fn apply<E: std::error::Error>(
    plan: Plan,
    state: &mut State,
    memory: &mut Memory,
    mut write: impl FnMut(&Write) -> Result<(), E>,
) -> Report {
    let mut report = Report {
        revision: plan.revision,
        ..Report::default()
    };
    let mut incomplete: BTreeSet<u32> = BTreeSet::new();
    // Something that must come before could not be written: addresses keep their identities, and numbers in use their entries.
    let mut frozen = false;
    let mut identities_incomplete = false;
    let mut written: BTreeSet<u32> = BTreeSet::new();
    for planned in plan.writes {
        let planned = match planned {
            // Prefixes come most specific first: one that is missing must not leave its region to a wider one.
            Write::PutIdentity { .. } | Write::PutFrontend { .. } if frozen => {
                identities_incomplete = true;
                continue;
            }
            Write::RemoveIdentity(_)
            | Write::RemoveFrontend(_)
            | Write::RemovePolicy { .. }
            | Write::RemoveLocalPod(_)
            | Write::RemoveSender(_)
            | Write::RemoveGuarded(_)
            | Write::DetachDevice(_)
                if frozen =>
            {
                continue;
            }
            Write::PutEndpoint { ifindex, endpoint } => {
                let held = hold_back(&endpoint, state.endpoints.get(&ifindex), |policy| {
                    identities_incomplete || incomplete.contains(&policy)
                });
                if held != endpoint {
                    frozen = true;
                    report.held_back.insert(ifindex);
                }
                Write::PutEndpoint {
                    ifindex,
                    endpoint: held,
                }
            }
            planned => planned,
        };
        let is_config = matches!(planned, Write::Config(_));
        match write(&planned) {
            Ok(()) => {
                report.writes += 1;
                state.record(&planned);
                if let Write::PutEndpoint { ifindex, .. } = planned {
                    written.insert(ifindex);
                }
            }
            Err(error) => {
                match planned {
                    Write::PutPolicy { policy, .. } => {
                        incomplete.insert(policy);
                        frozen |= in_use(state, policy);
                    }
                    Write::PutIdentity { .. }
                    | Write::PutFrontend { .. }
                    | Write::PutLocalPod { .. }
                    | Write::PutSender { .. }
                    | Write::PutGuarded(_) => {
                        frozen = true;
                        identities_incomplete = true;
                    }
                    // It keeps what it has, which must not be taken from under it.
                    Write::PutEndpoint { .. } => frozen = true,
                    _ => {}
                }
                report.failures.push(Failure {
                    write: describe(&planned),
                    error: chain(&error),
                });
                // Numbers that are not stored as given, or an epoch that is not raised: nothing may go on.
                if is_config {
                    break;
                }
            }
        }
    }
    // What numbers mean is only known when all of them were written; without it the next plan goes by the kernel's state alone.
    if report.failures.is_empty() {
        *memory = plan.memory;
    } else {
        memory.last = None;
        memory.settled = false;
        memory.pods.extend(
            plan.memory
                .pods
                .into_iter()
                .filter(|(ifindex, _)| written.contains(ifindex)),
        );
    }
    report
}

/// The endpoint with the policies that could not be written replaced by those it has, or closed.
fn hold_back(wanted: &Endpoint, held: Option<&Endpoint>, failed: impl Fn(u32) -> bool) -> Endpoint {
    let keep = |wanted: u32, held: Option<u32>| {
        if wanted == POLICY_NONE || wanted == POLICY_DENY || !failed(wanted) {
            return wanted;
        }
        held.filter(|policy| *policy != POLICY_NONE)
            .unwrap_or(POLICY_DENY)
    };
    Endpoint {
        ingress_policy: keep(
            wanted.ingress_policy,
            held.map(|endpoint| endpoint.ingress_policy),
        ),
        egress_policy: keep(wanted.egress_policy, held.map(|endpoint| endpoint.egress_policy)),
        ..*wanted
    }
}

fn in_use(state: &State, policy: u32) -> bool {
    state
        .endpoints
        .values()
        .any(|endpoint| [endpoint.ingress_policy, endpoint.egress_policy].contains(&policy))
}

fn describe(write: &Write) -> String {
    match write {
        Write::Config(_) => "writing the configuration".into(),
        Write::PutPolicy { policy, key, .. } => {
            format!("adding an entry for identity {} to policy {policy}", key.identity)
        }
        Write::RemovePolicy { policy, key } => {
            format!(
                "removing an entry for identity {} from policy {policy}",
                key.identity
            )
        }
        Write::PutIdentity { prefix, identity } => format!("giving {prefix} identity {}", identity.identity),
        Write::RemoveIdentity(prefix) => format!("removing the identity of {prefix}"),
        Write::PutEndpoint { ifindex, endpoint } => {
            format!("writing endpoint {} of interface {ifindex}", endpoint.id)
        }
        Write::RemoveEndpoint(ifindex) => format!("removing the endpoint of interface {ifindex}"),
        Write::PutFrontend { frontend, identity } => format!(
            "giving frontend {}:{} identity {}",
            frontend.address, frontend.port, identity.identity
        ),
        Write::RemoveFrontend(frontend) => {
            format!("removing frontend {}:{}", frontend.address, frontend.port)
        }
        Write::PutLocalPod { address, ifindex } => {
            format!("telling that the pod with {address} is behind interface {ifindex}")
        }
        Write::RemoveLocalPod(address) => format!("forgetting the pod with {address}"),
        Write::PutSender {
            sender: (bridge, number),
            ifindex,
        } => format!("telling that number {number} by bridge {bridge} is the pod behind interface {ifindex}"),
        Write::RemoveSender((bridge, number)) => format!("forgetting number {number} by bridge {bridge}"),
        Write::PutGuarded(backend) => format!("guarding backend {}:{}", backend.address, backend.port),
        Write::RemoveGuarded(backend) => {
            format!("no longer guarding backend {}:{}", backend.address, backend.port)
        }
        Write::AttachDevice(ifindex) => format!("attaching a program to device {ifindex}"),
        Write::DetachDevice(ifindex) => format!("detaching a program from device {ifindex}"),
        Write::Attach(ifindex) => format!("attaching programs to interface {ifindex}"),
        Write::Detach(ifindex) => format!("detaching programs from interface {ifindex}"),
    }
}

/// An error with what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
