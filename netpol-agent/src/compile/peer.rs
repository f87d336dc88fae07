// SPDX-License-Identifier: Apache-2.0
//! Peers in normal form (rules P2, P5).

use std::{collections::BTreeSet, fmt};

use ipnet::IpNet;

use super::{
    fault::Fault,
    selector::{Selector, Word},
};
use crate::model::{IpBlock, Peer, parse_cidr};

/// What enforcement does with an invalid peer.
const MATCHES_NOTHING: &str = "this peer matches nothing";

/// A valid peer. Its text is canonical: equal peers of different policies have one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PeerSpec {
    /// Pods by their labels and the namespace they are in.
    Pods {
        /// The namespaces that it selects.
        namespaces: Namespaces,
        /// The pods that it selects in them.
        pods: Selector,
    },
    /// Addresses (rule P5).
    Block {
        /// Addresses that match, host bits masked.
        cidr: IpNet,
        /// Addresses within `cidr` that do not match, host bits masked.
        except: BTreeSet<IpNet>,
    },
}

/// The namespaces that a selector peer selects (rule P2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Namespaces {
    /// The policy's own.
    Named(String),
    /// Those with matching labels.
    Selected(Selector),
}

impl PeerSpec {
    /// The peer of a policy in `namespace`, and what is wrong with it. `None`, with at least one
    /// fault, is a peer that matches nothing. Field paths begin below the peer.
    pub(super) fn parse(peer: &Peer, namespace: &str) -> (Option<Self>, Vec<Fault>) {
        let selects = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
        match &peer.ip_block {
            Some(_) if selects => {
                let message = format!("ipBlock together with a selector; {MATCHES_NOTHING}");
                (None, vec![Fault::new("peer-conflict", "", message)])
            }
            Some(block) => parse_block(block),
            None if selects => Self::parse_selectors(peer, namespace),
            None => {
                let message = format!("no podSelector, namespaceSelector or ipBlock; {MATCHES_NOTHING}");
                (None, vec![Fault::new("peer-empty", "", message)])
            }
        }
    }

    fn parse_selectors(peer: &Peer, namespace: &str) -> (Option<Self>, Vec<Fault>) {
        let mut faults = Vec::new();
        let mut parse = |selector, field| match Selector::parse(selector, MATCHES_NOTHING) {
            Ok(parsed) => {
                let remarks = parsed.remarks(selector);
                faults.extend(remarks.into_iter().map(|fault| fault.below(field)));
                Some(parsed)
            }
            Err(found) => {
                faults.extend(found.into_iter().map(|fault| fault.below(field)));
                None
            }
        };
        let pods = match &peer.pod_selector {
            Some(selector) => parse(selector, ".podSelector"),
            None => Some(Selector::default()),
        };
        let namespaces = match &peer.namespace_selector {
            Some(selector) => parse(selector, ".namespaceSelector").map(Namespaces::Selected),
            None => Some(Namespaces::Named(namespace.to_owned())),
        };
        let spec = namespaces
            .zip(pods)
            .map(|(namespaces, pods)| Self::Pods { namespaces, pods });
        (spec, faults)
    }
}

fn parse_block(block: &IpBlock) -> (Option<PeerSpec>, Vec<Fault>) {
    let mut faults = Vec::new();
    let mut usable = true;
    let cidr = match parse_cidr(&block.cidr) {
        Ok(cidr) => Some(cidr),
        Err(problem) => {
            let message = format!("{:?} {problem}; {MATCHES_NOTHING}", block.cidr);
            faults.push(Fault::new("cidr-invalid", ".ipBlock.cidr", message));
            None
        }
    };
    let mut except = BTreeSet::new();
    for (index, text) in block.except.iter().enumerate() {
        let field = format!(".ipBlock.except[{index}]");
        let net = match parse_cidr(text) {
            Ok(net) => net,
            Err(problem) => {
                let message = format!("{text:?} {problem}; {MATCHES_NOTHING}");
                faults.push(Fault::new("cidr-invalid", field, message));
                usable = false;
                continue;
            }
        };
        let Some(cidr) = cidr else { continue };
        if let Some(problem) = outside(&cidr, &net) {
            let message = format!("{net} {problem} {cidr}; {MATCHES_NOTHING}");
            faults.push(Fault::new("except-outside-cidr", field, message));
            usable = false;
        }
        except.insert(net);
    }
    let spec = cidr
        .filter(|_| usable)
        .map(|cidr| PeerSpec::Block { cidr, except });
    (spec, faults)
}

/// How `except` fails to be strictly within `cidr`, if it does.
fn outside(cidr: &IpNet, except: &IpNet) -> Option<&'static str> {
    if cidr.addr().is_ipv4() != except.addr().is_ipv4() {
        Some("is not of the same address family as")
    } else if cidr == except {
        Some("leaves nothing of")
    } else if !cidr.contains(except) {
        Some("is not within")
    } else {
        None
    }
}

impl fmt::Display for PeerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pods { namespaces, pods } => match namespaces {
                Namespaces::Named(name) => write!(f, "pods {pods} of namespace {}", Word(name)),
                Namespaces::Selected(selector) => write!(f, "pods {pods} of namespaces {selector}"),
            },
            Self::Block { cidr, except } => {
                write!(f, "addresses {cidr}")?;
                for (index, net) in except.iter().enumerate() {
                    let separator = if index == 0 { " except" } else { "," };
                    write!(f, "{separator} {net}")?;
                }
                Ok(())
            }
        }
    }
}
