// SPDX-License-Identifier: Apache-2.0
//! The `ports` of a rule in normal form (rules T1 to T4).

use std::collections::BTreeMap;

use super::{fault::Fault, rule::Ports};
use crate::model::{PolicyPort, PortKey, PortName, Protocol, ProtocolMatch, syntax};

/// What enforcement does with an invalid entry.
const MATCHES_NOTHING: &str = "this entry matches nothing";

/// One valid entry.
enum Item {
    Range(Protocol, u16, u16),
    Named(PortKey),
}

impl Ports {
    /// The ports of a rule. An invalid entry is a fault and matches nothing. Field paths begin
    /// below the rule.
    pub(super) fn parse(entries: &[PolicyPort]) -> (Self, Vec<Fault>) {
        if entries.is_empty() {
            return (Self::All, Vec::new());
        }
        let mut ranges: BTreeMap<Protocol, Vec<(u16, u16)>> = BTreeMap::new();
        let mut named = Vec::new();
        let mut faults = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            match parse_entry(entry) {
                Ok(Item::Range(protocol, first, last)) => {
                    ranges.entry(protocol).or_default().push((first, last));
                }
                Ok(Item::Named(key)) => {
                    if !syntax::is_port_name(&key.name) {
                        let message = format!(
                            "{:?} is no port name that Kubernetes accepts; it is used as written",
                            key.name
                        );
                        faults.push(Fault::new(
                            "port-name-invalid",
                            format!(".ports[{index}].port"),
                            message,
                        ));
                    }
                    named.push((index, key));
                }
                Err(fault) => faults.push(fault.below(&format!(".ports[{index}]"))),
            }
        }
        let mut blocks = Vec::new();
        for (protocol, ranges) in ranges {
            for (first, last) in merge(ranges) {
                blocks.extend(aligned(first, last).map(|(port, prefix_len)| ProtocolMatch {
                    protocol: protocol.number(),
                    port,
                    prefix_len,
                }));
            }
        }
        blocks.sort_unstable();
        (Self::Listed { blocks, named }, faults)
    }
}

fn parse_entry(entry: &PolicyPort) -> Result<Item, Fault> {
    let fault =
        |code, field, problem: String| Fault::new(code, field, format!("{problem}; {MATCHES_NOTHING}"));
    let protocol = match &entry.protocol {
        None => Protocol::Tcp,
        Some(word) => Protocol::from_kubernetes(word).ok_or_else(|| {
            let problem = format!("unknown protocol {word:?} (TCP, UDP and SCTP are known)");
            fault("protocol-invalid", ".protocol", problem)
        })?,
    };
    let number = |number: i32| u16::try_from(number).ok().filter(|&number| number > 0);
    let end_port = |problem: String| fault("end-port-invalid", ".endPort", problem);
    match (&entry.port, entry.end_port) {
        (None, None) => Ok(Item::Range(protocol, 0, u16::MAX)),
        (None, Some(_)) => Err(end_port("endPort without port".to_owned())),
        (Some(PortName::Name(_)), Some(_)) => Err(end_port("endPort with a named port".to_owned())),
        (Some(PortName::Name(name)), None) if name.is_empty() => {
            Err(fault("port-invalid", ".port", "the name is empty".to_owned()))
        }
        (Some(PortName::Name(name)), None) => Ok(Item::Named(PortKey {
            name: name.clone(),
            protocol,
        })),
        (Some(PortName::Number(first)), last) => {
            let Some(port) = number(*first) else {
                let problem = format!("{first} is not a port (1 to 65535)");
                return Err(fault("port-invalid", ".port", problem));
            };
            let Some(last) = last else {
                return Ok(Item::Range(protocol, port, port));
            };
            match number(last) {
                None => Err(end_port(format!("{last} is not a port (1 to 65535)"))),
                Some(last) if last < port => Err(end_port(format!("{last} is less than port {port}"))),
                Some(last) => Ok(Item::Range(protocol, port, last)),
            }
        }
    }
}

/// The same ports as disjoint ranges that do not touch, ascending.
pub(super) fn merge(mut ranges: Vec<(u16, u16)>) -> Vec<(u16, u16)> {
    ranges.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(previous) if u32::from(first) <= u32::from(previous.1) + 1 => {
                previous.1 = previous.1.max(last);
            }
            _ => merged.push((first, last)),
        }
    }
    merged
}

/// The fewest aligned blocks, as first port and prefix length, that cover exactly `first..=last`,
/// ascending.
pub(super) fn aligned(first: u16, last: u16) -> impl Iterator<Item = (u16, u8)> {
    let end = u32::from(last) + 1;
    let mut next = u32::from(first);
    std::iter::from_fn(move || {
        if next >= end {
            return None;
        }
        let start = next;
        let alignment = start.trailing_zeros().min(16);
        let bits = alignment.min((end - start).ilog2());
        next += 1 << bits;
        // `start` is below 65536 and `bits` at most 16.
        Some((start as u16, 16 - bits as u8))
    })
}
