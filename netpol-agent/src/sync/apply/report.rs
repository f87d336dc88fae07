// SPDX-License-Identifier: Apache-2.0
//! What is told of writes that failed: a line for each kind of write and error, however many they
//! are.

use std::{collections::BTreeSet, error::Error, fmt, io};

use super::super::Write;
use crate::causes::causes;

/// Writes of one kind that failed with one error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What was attempted first, on what.
    pub write: String,
    /// The error.
    pub error: String,
    /// How many failed.
    pub count: usize,
    /// What kind they are.
    kind: std::mem::Discriminant<Write>,
}

impl Failure {
    /// Whether both tell of the same trouble.
    pub fn is_like(&self, other: &Self) -> bool {
        (self.kind, &self.error) == (other.kind, &other.error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.write, self.error)?;
        match self.count - 1 {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

/// What became of a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The snapshot's revision.
    pub revision: u64,
    /// Writes made.
    pub writes: usize,
    /// Writes that failed, by kind and error.
    pub failures: Vec<Failure>,
    /// Writes that were not tried, since they need what failed, or a map was full.
    pub left_out: usize,
    /// Interfaces that did not get all of their new policies: they keep the old ones, or are closed
    /// to what is missing or to all.
    pub held_back: BTreeSet<u32>,
}

impl Report {
    /// The number of writes that failed.
    pub fn failed(&self) -> usize {
        self.failures.iter().map(|failure| failure.count).sum()
    }

    pub(super) fn fail(&mut self, write: &Write, error: &dyn Error) {
        let (kind, error) = (std::mem::discriminant(write), causes(error));
        let same = |failure: &&mut Failure| failure.kind == kind && failure.error == error;
        match self.failures.iter_mut().find(same) {
            Some(failure) => failure.count += 1,
            None => self.failures.push(Failure {
                write: describe(write),
                error,
                count: 1,
                kind,
            }),
        }
    }
}

/// Whether an error says that there is no room.
pub(super) fn is_full(error: &(dyn Error + 'static)) -> bool {
    let errors = std::iter::successors(Some(error), |error| {
        let error: &'_ (dyn Error + 'static) = *error;
        error.source()
    });
    let mut codes = errors.filter_map(|error| error.downcast_ref::<io::Error>()?.raw_os_error());
    codes.any(|code| [libc::E2BIG, libc::ENOSPC, libc::ENOMEM].contains(&code))
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
        Write::PutForward(ifindex, prefix) => {
            format!("letting the pod behind interface {ifindex} send for {prefix}")
        }
        Write::RemoveForward(ifindex, prefix) => {
            format!("no longer letting the pod behind interface {ifindex} send for {prefix}")
        }
        Write::AttachDevice(ifindex) => format!("attaching a program to device {ifindex}"),
        Write::DetachDevice(ifindex) => format!("detaching a program from device {ifindex}"),
        Write::Attach(ifindex) => format!("attaching programs to interface {ifindex}"),
        Write::Detach(ifindex) => format!("detaching programs from interface {ifindex}"),
    }
}
