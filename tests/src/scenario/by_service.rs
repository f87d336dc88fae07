// SPDX-License-Identifier: Apache-2.0
//! Connections to a Service's frontend, so many and from new ports, that kube-proxy picks every
//! backend.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::{Context, Result};

use crate::{
    node::Site,
    probe::{MORE_PATIENCE, Outcome, Probe, Prober, Service},
};

/// With two backends, the probability to miss one is below one in 10^14.
const OFTEN: usize = 48;
/// For backends that all have the same verdict.
const SELDOM: usize = 4;

/// The backends that answer at a frontend.
#[derive(Debug, Clone)]
pub struct ByService {
    /// Source address, a pod's.
    pub source: IpAddr,
    /// The frontend's address.
    pub destination: IpAddr,
    /// Protocol and port of the frontend.
    pub service: Service,
    /// Ports that the backends listen on.
    pub targets: BTreeSet<Service>,
    /// All backends that kube-proxy chooses among.
    pub backends: BTreeSet<IpAddr>,
    /// Backends that policy allows.
    pub allowed: BTreeSet<IpAddr>,
    /// True if nobody answers, although policy allows some backends:
    /// [`crate::cases::Step::is_closed_as_a_whole`].
    pub closed: bool,
}

impl ByService {
    /// Returns the backends that must answer.
    fn answering(&self) -> BTreeSet<IpAddr> {
        if self.closed {
            BTreeSet::new()
        } else {
            self.allowed.clone()
        }
    }

    /// Returns the connections to make: enough to reach every backend. The flag is true if each
    /// must be answered.
    fn probes(&self, sites: &[Site]) -> Result<(Vec<Probe>, bool)> {
        let from = at(sites, &self.source)?;
        let probe = Probe {
            from: from.name.clone(),
            netns: from.netns.clone(),
            source: self.source,
            to: String::new(),
            destination: self.destination,
            service: self.service,
        };
        let answering = self.answering();
        let (all, none) = (answering == self.backends, answering.is_empty());
        let one_verdict = none || all && self.backends.len() < 2;
        let times = if one_verdict { SELDOM } else { OFTEN };
        Ok((vec![probe; times], all && !none))
    }

    /// Describes what is not as it must be.
    fn odd(&self, sites: &[Site], outcomes: &[Outcome]) -> Result<Option<String>> {
        let answering = self.answering();
        let mut wanted = BTreeSet::new();
        for backend in &answering {
            wanted.insert(at(sites, backend)?.name.clone());
        }
        let mut found = BTreeSet::new();
        let (mut silent, mut refused, mut odd) = (false, false, false);
        for outcome in outcomes {
            match outcome {
                Outcome::Answered(name) => drop(found.insert(name.clone())),
                Outcome::Silent => silent = true,
                Outcome::Refused => refused = true,
                Outcome::Reached | Outcome::Odd(_) => odd = true,
            }
        }
        // Without backends, kube-proxy refuses, or netpol drops (rule A5). A denied backend is
        // silent (rule A7).
        let silence_fits = self.backends.is_empty() || silent == (answering != self.backends);
        let refusal_fits = !refused || self.backends.is_empty();
        let right = found == wanted && silence_fits && refusal_fits && !odd;
        let Self {
            source,
            destination,
            service,
            ..
        } = self;
        Ok((!right).then(|| {
            format!(
                "{source} -> {destination} {service}: {outcomes:?}, must be answered by exactly {wanted:?}"
            )
        }))
    }
}

fn at<'a>(sites: &'a [Site], address: &IpAddr) -> Result<&'a Site> {
    let site = sites.iter().find(|site| site.addresses.contains(address));
    site.with_context(|| format!("nobody has address {address}"))
}

/// Makes all connections at once, and describes what is not as it must be.
///
/// # Errors
/// If nobody has an address, or sockets cannot be made.
pub fn ask(all: &[ByService], prober: &Prober, sites: &[Site]) -> Result<Vec<String>> {
    // Silence is final where some of the connections must meet it. Elsewhere the probe is repeated.
    let (mut certain, mut others) = (Vec::new(), Vec::new());
    let mut places = Vec::new();
    for wanted in all {
        let (probes, each_answered) = wanted.probes(sites)?;
        let part = if each_answered { &mut certain } else { &mut others };
        places.push((each_answered, part.len()..part.len() + probes.len()));
        part.extend(probes);
    }
    let certain = prober.probe(&certain)?;
    let others = prober.probe_once(&others, MORE_PATIENCE)?;
    let mut wrong = Vec::new();
    for (wanted, (each_answered, place)) in all.iter().zip(places) {
        let outcomes = if each_answered { &certain } else { &others };
        wrong.extend(wanted.odd(sites, &outcomes[place])?);
    }
    Ok(wrong)
}
