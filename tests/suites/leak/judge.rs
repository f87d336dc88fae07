// SPDX-License-Identifier: Apache-2.0
//! Decides what a victim may receive, from a frame and the frames before it: a parser and a policy
//! that share nothing with the programs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use etherparse::{
    Ethernet2HeaderSlice, IpAuthHeaderSlice, Ipv4HeaderSlice, Ipv6FragmentHeaderSlice, Ipv6HeaderSlice,
    Ipv6RawExtHeaderSlice, TcpHeaderSlice,
};

use crate::attack::VLAN_SOURCE;

/// Source, destination, identification and protocol (in IPv6, the fragment header's) of a
/// fragmented packet.
type Fragmented = (IpAddr, IpAddr, u32, u8);

/// Kinds of leaks that [`Judge::leaked`] counts: everything that a victim can be sent and policy
/// denies.
pub const LEAKS: [&str; 10] = [
    "VLAN",
    "EtherType",
    "malformed",
    "spoofed",
    "later fragment",
    "ICMP error",
    "ICMP",
    "TCP",
    "UDP",
    "protocol",
];

/// How many frames a later fragment may come before its first.
const REORDERED: u64 = 64;

/// What holds for a victim in every version of the policies.
pub struct Policy {
    /// Its addresses.
    pub own: [IpAddr; 2],
    /// Addresses of the attacker.
    pub attacker: [IpAddr; 2],
    /// Protocols and ports that the attacker may reach.
    pub open: Vec<(u8, u16)>,
    /// MAC address of the node's bridge.
    pub bridge: [u8; 6],
    /// MAC address of the node's end of the pod's veth pair.
    pub veth: [u8; 6],
    /// Addresses of the node.
    pub node: Vec<IpAddr>,
}

/// The relevant parts of an IP packet.
#[derive(Debug, Clone, Copy)]
struct Ip<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    hops: u8,
    /// Identification and protocol of a fragment, and whether it is the first.
    fragment: Option<(u32, u8, bool)>,
    extended: bool,
    payload: &'a [u8],
}

/// Judges what a victim receives.
pub struct Judge {
    policy: Policy,
    /// Allowed first fragments: source, destination, identification, protocol.
    fragments: BTreeSet<(IpAddr, IpAddr, u32, u8)>,
    /// Later fragments whose first has not come yet, with the number of the frame.
    orphans: Vec<(Fragmented, u64, Vec<u8>)>,
    seen: u64,
    /// Allowed connections: remote address and port, protocol, own port.
    connections: BTreeSet<(IpAddr, u16, u8, u16)>,
    allowed: BTreeMap<(&'static str, &'static str), u64>,
    leaks: BTreeMap<&'static str, (u64, Vec<u8>)>,
}

impl Judge {
    /// Makes a judge that has seen nothing.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            fragments: BTreeSet::new(),
            orphans: Vec::new(),
            seen: 0,
            connections: BTreeSet::new(),
            allowed: BTreeMap::new(),
            leaks: BTreeMap::new(),
        }
    }

    /// Returns the number of frames that policy denies.
    pub fn leaks(&self) -> u64 {
        self.leaks.values().map(|(count, _)| count).sum()
    }

    /// Returns the number of frames of one of the [`LEAKS`].
    pub fn leaked(&self, leak: &str) -> u64 {
        self.leaks.get(leak).map_or(0, |(count, _)| *count)
    }

    /// Returns the number of allowed frames of a family and kind.
    pub fn count(&self, family: &'static str, kind: &'static str) -> u64 {
        self.allowed.get(&(family, kind)).copied().unwrap_or(0)
    }

    /// Judges everything that is still undecided.
    pub fn settle(&mut self) {
        self.expire(0);
    }

    /// Two CPUs may deliver a packet's fragments in another order than they passed the hook: at
    /// most this many frames apart.
    fn expire(&mut self, apart: u64) {
        let (fragments, seen) = (&self.fragments, self.seen);
        self.orphans.retain(|(key, _, _)| !fragments.contains(key));
        for (_, _, frame) in self.orphans.extract_if(.., |(_, at, _)| *at + apart <= seen) {
            let first = self.leaks.entry("later fragment").or_insert_with(|| (0, frame));
            first.0 += 1;
        }
    }

    /// Judges a frame.
    pub fn see(&mut self, frame: &[u8]) {
        self.seen += 1;
        self.expire(REORDERED);
        match self.judge(frame) {
            Ok(kind) => *self.allowed.entry(kind).or_default() += 1,
            Err(leak) => {
                let first = self.leaks.entry(leak).or_insert_with(|| (0, frame.to_vec()));
                first.0 += 1;
            }
        }
    }

    fn judge(&mut self, frame: &[u8]) -> Result<(&'static str, &'static str), &'static str> {
        let ethernet = Ethernet2HeaderSlice::from_slice(frame).map_err(|_| "malformed")?;
        if ethernet.source() == VLAN_SOURCE {
            return Err("VLAN");
        }
        let rest = &frame[ethernet.slice().len()..];
        let (family, ip) = match ethernet.ether_type().0 {
            0x0806 => return Ok(("ARP", "")),
            0x0800 => ("IPv4", ipv4(rest).ok_or("malformed")?),
            0x86dd => ("IPv6", ipv6(rest).ok_or("malformed")?),
            _ => return Err("EtherType"),
        };
        let kind = ip.payload.first().copied().unwrap_or(0);
        let whole = ip.fragment.is_none() && !ip.extended;
        if ip.protocol == 58 && matches!(kind, 133..=137) && ip.hops == 255 && whole {
            return Ok((family, "neighbour discovery"));
        }
        // The node's own group memberships and queries, which the attacker never sends.
        let group =
            ip.protocol == 2 && family == "IPv4" || ip.protocol == 58 && matches!(kind, 130..=132 | 143);
        if group && [self.policy.bridge, self.policy.veth].contains(&ethernet.source()) {
            return Ok((family, "groups"));
        }
        // What the node makes passes (rule A2): errors about the victim's answers. Nobody else's
        // frames have these two addresses.
        let error = matches!((ip.protocol, kind), (1, 3 | 4 | 11 | 12) | (58, 1..=4));
        if error && ethernet.source() == self.policy.bridge && self.policy.node.contains(&ip.source) {
            return Ok((family, "error of the node"));
        }
        if !self.policy.attacker.contains(&ip.source) {
            return Err("spoofed");
        }
        if let Some((identification, protocol, first)) = ip.fragment {
            let key = (ip.source, ip.destination, identification, protocol);
            if !first {
                if !self.fragments.contains(&key) {
                    self.orphans.push((key, self.seen, frame.to_vec()));
                    return Ok((family, "fragment before its first"));
                }
                return Ok((family, "later fragment"));
            }
            let allowed = self.upper(family, &ip)?;
            self.fragments.insert(key);
            return Ok(allowed);
        }
        self.upper(family, &ip)
    }

    fn upper(
        &mut self,
        family: &'static str,
        ip: &Ip<'_>,
    ) -> Result<(&'static str, &'static str), &'static str> {
        let kind = match ip.protocol {
            6 => {
                TcpHeaderSlice::from_slice(ip.payload).map_err(|_| "malformed")?;
                "TCP"
            }
            17 => {
                let length = ip.payload.get(4..6).ok_or("malformed")?;
                let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
                let fits = length <= ip.payload.len() || ip.fragment.is_some();
                if ip.payload.len() < 8 || length < 8 || !fits {
                    return Err("malformed");
                }
                "UDP"
            }
            1 if family == "IPv4" => return self.icmp(family, ip, &[3, 4, 11, 12], ipv4_quote),
            58 if family == "IPv6" => return self.icmp(family, ip, &[1, 2, 3, 4], ipv6_quote),
            _ => return Err("protocol"),
        };
        let port = |at: usize| u16::from_be_bytes([ip.payload[at], ip.payload[at + 1]]);
        if !self.policy.open.contains(&(ip.protocol, port(2))) {
            return Err(kind);
        }
        self.connections
            .insert((ip.source, port(0), ip.protocol, port(2)));
        Ok((family, kind))
    }

    fn icmp(
        &self,
        family: &'static str,
        ip: &Ip<'_>,
        errors: &[u8],
        quote: fn(&[u8]) -> Option<Ip<'_>>,
    ) -> Result<(&'static str, &'static str), &'static str> {
        if ip.payload.len() < 8 {
            return Err("malformed");
        }
        if !errors.contains(&ip.payload[0]) {
            return Err("ICMP");
        }
        let quote = quote(&ip.payload[8..]).ok_or("ICMP error")?;
        let port = |at: usize| {
            Some(u16::from_be_bytes([
                *quote.payload.get(at)?,
                *quote.payload.get(at + 1)?,
            ]))
        };
        let (own, remote) = port(0).zip(port(2)).ok_or("ICMP error")?;
        let known = (quote.destination, remote, quote.protocol, own);
        let known = self.policy.own.contains(&quote.source) && self.connections.contains(&known);
        known.then_some((family, "ICMP error")).ok_or("ICMP error")
    }
}

impl fmt::Display for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "allowed {:?}, leaks {}", self.allowed, self.leaks())?;
        for (leak, (count, first)) in &self.leaks {
            write!(f, "\n  {leak}: {count}, the first ")?;
            first
                .iter()
                .take(160)
                .try_for_each(|byte| write!(f, "{byte:02x}"))?;
        }
        Ok(())
    }
}

fn ipv4(bytes: &[u8]) -> Option<Ip<'_>> {
    let header = Ipv4HeaderSlice::from_slice(bytes).ok()?;
    let payload = bytes.get(header.slice().len()..usize::from(header.total_len()))?;
    let offset = header.fragments_offset().value();
    let part = offset != 0 || header.more_fragments();
    let fragment = (header.identification().into(), header.protocol().0, offset == 0);
    Some(Ip {
        source: header.source_addr().into(),
        destination: header.destination_addr().into(),
        protocol: header.protocol().0,
        hops: header.ttl(),
        fragment: part.then_some(fragment),
        extended: false,
        payload,
    })
}

fn ipv6(bytes: &[u8]) -> Option<Ip<'_>> {
    let header = Ipv6HeaderSlice::from_slice(bytes).ok()?;
    let length = usize::from(header.payload_length());
    let mut ip = Ip {
        source: header.source_addr().into(),
        destination: header.destination_addr().into(),
        protocol: header.next_header().0,
        hops: header.hop_limit(),
        fragment: None,
        extended: false,
        payload: bytes.get(40..40 + length)?,
    };
    loop {
        let (next, length) = match ip.protocol {
            0 | 43 | 60 | 135 | 139 | 140 => {
                let header = Ipv6RawExtHeaderSlice::from_slice(ip.payload).ok()?;
                (header.next_header(), header.slice().len())
            }
            51 => {
                let header = IpAuthHeaderSlice::from_slice(ip.payload).ok()?;
                (header.next_header(), header.slice().len())
            }
            44 => {
                let header = Ipv6FragmentHeaderSlice::from_slice(ip.payload).ok()?;
                let first = header.fragment_offset().value() == 0;
                if header.is_fragmenting_payload() {
                    // Receivers reassemble fragments regardless of the next header in later ones,
                    // and use the first one's (RFC 8200, 4.5).
                    ip.fragment = Some((header.identification(), 44, first));
                }
                if !first {
                    return Some(ip);
                }
                (header.next_header(), 8)
            }
            _ => return Some(ip),
        };
        ip.extended = true;
        ip.protocol = next.0;
        ip.payload = ip.payload.get(length..)?;
    }
}

fn ipv4_quote(bytes: &[u8]) -> Option<Ip<'_>> {
    let header = Ipv4HeaderSlice::from_slice(bytes).ok()?;
    Some(Ip {
        source: header.source_addr().into(),
        destination: header.destination_addr().into(),
        protocol: header.protocol().0,
        hops: header.ttl(),
        fragment: None,
        extended: false,
        payload: &bytes[header.slice().len()..],
    })
}

fn ipv6_quote(bytes: &[u8]) -> Option<Ip<'_>> {
    let header = Ipv6HeaderSlice::from_slice(bytes).ok()?;
    Some(Ip {
        source: header.source_addr().into(),
        destination: header.destination_addr().into(),
        protocol: header.next_header().0,
        hops: header.hop_limit(),
        fragment: None,
        extended: false,
        payload: &bytes[40..],
    })
}
