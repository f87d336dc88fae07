// SPDX-License-Identifier: Apache-2.0
//! Connections to a Service's frontend: asked often enough, from new ports, that kube-proxy leads to every backend.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::{Context, Result};

use crate::{
    node::Site,
    probe::{MORE_PATIENCE, Outcome, Probe, Prober, Service},
};

/// Of two backends one is missed with a probability below one in 10^14.
const OFTEN: usize = 48;
/// Where every backend has one verdict.
const SELDOM: usize = 4;

/// Who answers at a frontend.
#[derive(Debug, Clone)]
pub struct ByService {
    /// Source address: of a pod.
    pub source: IpAddr,
    /// The frontend's address.
    pub destination: IpAddr,
    /// Protocol and port of the frontend.
    pub service: Service,
    /// Ports that the backends listen on.
    pub targets: BTreeSet<Service>,
    /// All backends that kube-proxy chooses among.
    pub backends: BTreeSet<IpAddr>,
    /// Those that policy allows.
    pub allowed: BTreeSet<IpAddr>,
    /// Nobody answers, although policy allows some: [`crate::cases::Step::is_closed_as_a_whole`].
    pub closed: bool,
}

impl ByService {
    /// The backends that must answer.
    fn answering(&self) -> BTreeSet<IpAddr> {
        if self.closed {
            BTreeSet::new()
        } else {
            self.allowed.clone()
        }
    }

    /// Asks, and gives what is not as it must be, in words.
    ///
    /// # Errors
    /// If nobody has an address, or sockets cannot be made.
    pub fn ask(&self, prober: &Prober, sites: &[Site]) -> Result<Option<String>> {
        let at = |address: &IpAddr| {
            let site = sites.iter().find(|site| site.addresses.contains(address));
            site.with_context(|| format!("nobody has address {address}"))
        };
        let from = at(&self.source)?;
        let answering = self.answering();
        let probe = Probe {
            from: from.name.clone(),
            netns: from.netns.clone(),
            source: self.source,
            to: String::new(),
            destination: self.destination,
            service: self.service,
        };
        let (all, none) = (answering == self.backends, answering.is_empty());
        let times = if all && self.backends.len() < 2 || none {
            SELDOM
        } else {
            OFTEN
        };
        let probes = vec![probe.clone(); times];
        let outcomes = if all && !none {
            prober.probe(&probes)?
        } else {
            prober.probe_once(&probes, MORE_PATIENCE)?
        };
        let mut wanted = BTreeSet::new();
        for backend in &answering {
            wanted.insert(at(backend)?.name.clone());
        }
        let mut found = BTreeSet::new();
        let (mut silent, mut refused, mut odd) = (false, false, false);
        for outcome in &outcomes {
            match outcome {
                Outcome::Answered(name) => drop(found.insert(name.clone())),
                Outcome::Silent => silent = true,
                Outcome::Refused => refused = true,
                Outcome::Reached | Outcome::Odd(_) => odd = true,
            }
        }
        // Without backends kube-proxy refuses, or netpol says nothing (rule A5); a denied backend is silence (rule A7).
        let silence_fits = self.backends.is_empty() || silent != all;
        let refusal_fits = !refused || self.backends.is_empty();
        let right = found == wanted && silence_fits && refusal_fits && !odd;
        Ok((!right).then(|| format!("{probe}: {outcomes:?}, must be answered by exactly {wanted:?}")))
    }
}
