// SPDX-License-Identifier: Apache-2.0
//! Parses lines of the corpus: `shop/web, node:node-a -> shop/api 80/TCP, icmp`, or through a
//! Service `shop/web -> svc:shop/api 80/TCP via shop/api-0`.

use std::{fmt, net::IpAddr};

use anyhow::{Context, Result, bail, ensure};
use netpol_agent::model::{ObjectKey, Protocol};

/// A packet that opens a connection, and whether it must arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expectation {
    /// Source.
    pub from: End,
    /// Destination.
    pub to: End,
    /// IANA protocol number.
    pub protocol: u8,
    /// Destination port; `None` for protocols without ports.
    pub port: Option<u16>,
    /// Address family.
    pub family: Family,
    /// The backend that it must or must not reach, if it goes to a Service's frontend.
    pub via: Option<End>,
    /// True if it must arrive.
    pub allowed: bool,
}

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// A pod of the case, written `namespace/name`.
    Pod(ObjectKey),
    /// A node of the case, written `node:name`.
    Node(String),
    /// A host outside the cluster, written as its address; before `via`, a virtual IP.
    Address(IpAddr),
    /// The ClusterIPs of a Service, written `svc:namespace/name`.
    Service(ObjectKey),
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// Returns the family of an address.
    pub const fn of(address: &IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        })
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(key) => key.fmt(f),
            Self::Node(name) => write!(f, "node:{name}"),
            Self::Address(address) => address.fmt(f),
            Self::Service(key) => write!(f, "svc:{key}"),
        }
    }
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {} ", self.from, self.to)?;
        match (
            Protocol::ALL
                .iter()
                .find(|protocol| protocol.number() == self.protocol),
            self.port,
        ) {
            (Some(protocol), Some(port)) => write!(f, "{port}/{protocol}")?,
            _ => write!(f, "ip/{}", self.protocol)?,
        }
        if let Some(backend) = &self.via {
            write!(f, " via {backend}")?;
        }
        write!(f, " {}", self.family)
    }
}

/// Parses a line. It stands for every pair of its ends, each of its ports and backends, and both
/// families if it names none; with `<->` also for the opposite direction. The flag is true if it
/// names a family.
pub(crate) fn parse(line: &str, allowed: bool) -> Result<Vec<(Expectation, bool)>> {
    let context = || {
        format!(
            "expected `FROM[, FROM] -> TO[, TO] PORT[, PORT] [via END[, END]] [ipv4|ipv6]`, found {line:?}"
        )
    };
    let (rest, families) = match line.rsplit_once(' ') {
        Some((rest, "ipv4")) => (rest, vec![Family::Ipv4]),
        Some((rest, "ipv6")) => (rest, vec![Family::Ipv6]),
        _ => (line, vec![Family::Ipv4, Family::Ipv6]),
    };
    let (rest, backends) = match rest.split_once(" via ") {
        None => (rest, vec![None]),
        Some((rest, backends)) => {
            let backends = backends.split(',').map(|word| Ok(Some(end(word.trim())?)));
            (rest, backends.collect::<Result<_>>()?)
        }
    };
    let (from, both_ways, to) = match rest.split_once(" <-> ") {
        Some((from, to)) => (from, true, to),
        None => rest
            .split_once(" -> ")
            .map(|(from, to)| (from, false, to))
            .with_context(context)?,
    };
    let (mut to_ends, mut ports) = (Vec::new(), Vec::new());
    // Words up to the first without a comma are ends, the others ports.
    let mut words = to.split_whitespace();
    for word in words.by_ref() {
        to_ends.push(end(word.trim_end_matches(','))?);
        if !word.ends_with(',') {
            break;
        }
    }
    for word in words {
        ports.push(word.trim_end_matches(','));
    }
    ensure!(!ports.is_empty() && !to_ends.is_empty(), context());
    let from_ends = from
        .split(',')
        .map(|word| end(word.trim()))
        .collect::<Result<Vec<_>>>()?;
    let is_service = |end: &End| matches!(end, End::Service(_));
    match backends[0] {
        None => ensure!(!to_ends.iter().any(is_service), "{line:?}: by which backend?"),
        Some(_) => ensure!(
            !both_ways && from_ends.iter().all(|end| matches!(end, End::Pod(_))),
            "{line:?}: Services are asked by pods, one way"
        ),
    }
    ensure!(
        !from_ends.iter().chain(backends.iter().flatten()).any(is_service),
        "{line:?}: a Service opens nothing, and is behind nothing"
    );
    let mut expectations = Vec::new();
    for from in &from_ends {
        for to in &to_ends {
            for port in &ports {
                for &family in &families {
                    let (protocol, port) = protocol_and_port(port, family)?;
                    let ways = [(from, to), (to, from)];
                    for (from, to) in ways.into_iter().take(if both_ways { 2 } else { 1 }) {
                        let by = |via: &Option<End>| Expectation {
                            from: from.clone(),
                            to: to.clone(),
                            protocol,
                            port,
                            family,
                            via: via.clone(),
                            allowed,
                        };
                        expectations.extend(backends.iter().map(|via| (by(via), families.len() == 1)));
                    }
                }
            }
        }
    }
    Ok(expectations)
}

fn end(word: &str) -> Result<End> {
    if let Some(name) = word.strip_prefix("node:") {
        return Ok(End::Node(name.to_owned()));
    }
    if let Some((namespace, name)) = word.strip_prefix("svc:").and_then(|key| key.split_once('/')) {
        return Ok(End::Service(ObjectKey::new(namespace, name)));
    }
    if let Ok(address) = word.parse() {
        return Ok(End::Address(address));
    }
    let (namespace, name) = word
        .split_once('/')
        .with_context(|| format!("{word:?} is no end"))?;
    Ok(End::Pod(ObjectKey::new(namespace, name)))
}

/// Parses `80/TCP`, `icmp` (echo of the family), or `ip/47`.
fn protocol_and_port(word: &str, family: Family) -> Result<(u8, Option<u16>)> {
    match (word.split_once('/'), family) {
        (None, Family::Ipv4) if word == "icmp" => Ok((1, None)),
        (None, Family::Ipv6) if word == "icmp" => Ok((58, None)),
        (Some(("ip", number)), _) => Ok((number.parse()?, None)),
        (Some((port, protocol)), _) => {
            let protocol =
                Protocol::from_kubernetes(protocol).with_context(|| format!("{word:?} is no port"))?;
            Ok((protocol.number(), Some(port.parse()?)))
        }
        _ => bail!("{word:?} is no port"),
    }
}
