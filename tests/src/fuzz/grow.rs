// SPDX-License-Identifier: Apache-2.0
//! Makes steps from a seed: well-formed frames between the pods of a random cluster and others, and
//! damaged versions of them.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::Result;
use netpol_agent::{
    datapath::attach::Hook,
    evaluate::{Evaluation, Packet, evaluate, evaluate_service},
    model::{Node, Snapshot},
};
use netpol_common::{
    abi::Endpoint,
    parse::protocol,
    tag::{self, MAX_NUMBER},
};

use super::{
    mutate::{self, Donor},
    play::{Step, Tally},
};
use crate::{
    frames::{self, headers},
    progrun::{Bench, Met, local_pods},
    random::{Random, cluster, nodes, packet, service_packet},
};

/// `BPF_PROG_TEST_RUN` requires an Ethernet header.
pub const SHORTEST: usize = headers::ETHERNET;
/// `BPF_PROG_TEST_RUN` accepts somewhat less than a page.
pub const LONGEST: usize = 3000;

/// Returns the minimum length for `BPF_PROG_TEST_RUN`: it refuses a truncated IP header. (Tests in
/// `tests/suites/frames` send those.)
pub fn shortest(frame: &[u8]) -> usize {
    match frame.get(12..14) {
        Some([0x08, 0x00]) => SHORTEST + 20,
        Some([0x86, 0xdd]) => SHORTEST + headers::IPV6,
        _ => SHORTEST,
    }
}

/// An enforcing node with pods.
#[derive(Debug)]
pub struct Scene {
    snapshot: Snapshot,
    node: Node,
    addresses: BTreeMap<IpAddr, u32>,
    endpoints: BTreeMap<u32, Endpoint>,
    interfaces: Vec<u32>,
    uplink: u32,
    bridge: u32,
    port: u16,
}

impl Scene {
    /// Makes the kernel enforce a random cluster as one of its nodes. The bench must have room for
    /// ten pods.
    ///
    /// # Errors
    /// A write failed.
    pub fn new(bench: &mut Bench, random: &mut Random) -> Result<Self> {
        let snapshot = cluster(random);
        let node = nodes().swap_remove(random.below(2));
        let interfaces = bench.interfaces().to_vec();
        let (pods, addresses) = local_pods(&snapshot, &node, |key| {
            let number: usize = key.name.trim_start_matches("pod-").parse().unwrap_or_default();
            interfaces[number]
        });
        bench.enforce(&snapshot, &node, &pods)?;
        let (uplink, bridge) = (bench.uplink(), bench.bridge());
        let endpoints = bench.read()?.endpoints;
        Ok(Self {
            snapshot,
            node,
            addresses,
            endpoints,
            interfaces,
            uplink,
            bridge,
            port: 0,
        })
    }

    /// Returns steps, well-formed and damaged. `tally` counts how each was made.
    pub fn steps(
        &mut self,
        random: &mut Random,
        seeds: &[Vec<u8>],
        count: usize,
        tally: &mut Tally,
    ) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::with_capacity(count + 1);
        while steps.len() < count {
            // A packet to a Service has no known verdict here: these hooks do not choose its
            // backend.
            let to_service = match random.below(6) {
                0 => service_packet(random, &self.snapshot),
                _ => None,
            };
            let judged = to_service.is_none();
            let packet = to_service.unwrap_or_else(|| packet(random, &self.snapshot));
            let frame = self.well_formed(random, &packet);
            if judged && random.below(3) == 0 {
                let made = self.at_its_hooks(random, &packet, &frame);
                *tally.entry("well-formed").or_default() += made.len() as u64;
                steps.extend(made);
                continue;
            }
            let mut frame = match random.below(4) {
                0 if !seeds.is_empty() => seeds[random.below(seeds.len())].clone(),
                1 if !steps.is_empty() => steps[random.below(steps.len())].frame.clone(),
                _ => frame,
            };
            let donor = match steps.last() {
                Some(last) => last.frame.clone(),
                None => frame.clone(),
            };
            for _ in 0..random.below(4) {
                let (name, change) = mutate::ALL[random.below(mutate::ALL.len())];
                change(random, &mut frame, Donor(&donor));
                *tally.entry(name).or_default() += 1;
            }
            frame.truncate(LONGEST);
            let length = frame.len().max(shortest(&frame));
            frame.resize(length, 0);
            let length = frame.len().max(shortest(&frame));
            frame.resize(length, 0);
            let met = self.anywhere(random, &packet);
            steps.push(Step {
                met,
                frame,
                truth: None,
                asks_tag: random.below(3) == 0,
            });
        }
        steps.truncate(count);
        for step in &steps {
            *tally.entry(step.met.hook.name()).or_default() += 1;
        }
        steps
    }

    /// Returns the packet's frame, with options, extension headers, payload or padding that do not
    /// change its verdict.
    fn well_formed(&mut self, random: &mut Random, packet: &Packet) -> Vec<u8> {
        const KINDS: [u8; 5] = [
            protocol::HOP_BY_HOP,
            protocol::ROUTING,
            protocol::DESTINATION_OPTIONS,
            protocol::AH,
            protocol::FRAGMENT,
        ];
        self.port = self.port.wrapping_add(1);
        let mut frame = frames::opening(packet, self.port);
        if random.below(4) == 0 {
            frame = headers::with_payload(&frame, random.below(1400));
        }
        if random.below(2) == 0 {
            let filling = random.below(256) as u8;
            frame = if headers::is_ipv6(&frame) {
                let kinds: Vec<u8> = (0..random.below(9))
                    .map(|_| KINDS[random.below(KINDS.len())])
                    .collect();
                headers::with_extensions(&frame, &kinds, random.below(4) as u8, filling)
            } else {
                headers::with_options(&frame, &vec![filling; random.below(11) * 4])
            };
        }
        if random.below(4) == 0 {
            frame.resize(frame.len() + random.below(46), 0xff);
        }
        frame
    }

    /// Returns the hooks of this node that a packet passes, with the evaluator's verdict at each.
    fn at_its_hooks(&self, random: &mut Random, packet: &Packet, frame: &[u8]) -> Vec<Step> {
        let ends = [packet.source, packet.destination].map(|address| self.addresses.get(&address).copied());
        if ends[0].is_some() && ends[0] == ends[1] {
            return Vec::new(); // A1: such a packet never leaves the pod.
        }
        let Evaluation { egress, ingress } = evaluate(&self.snapshot, &nodes(), packet);
        let step = |hook, ifindex, ingress_ifindex, allowed| Step {
            met: Met {
                hook,
                ifindex,
                ingress_ifindex,
                tag: 0,
            },
            frame: frame.to_vec(),
            truth: Some(allowed),
            asks_tag: false,
        };
        let mut steps = Vec::new();
        if let Some(ifindex) = ends[0] {
            let mut sent = step(Hook::FromPod, ifindex, ifindex, egress.allowed);
            // A packet that also matches a Service's claim may be translated, and is judged where
            // it ends (rule A9): suite progrun compares that with the backends.
            if evaluate_service(&self.snapshot, &nodes(), packet).is_some() {
                sent.truth = None;
            }
            steps.push(sent);
        }
        let deferred = ends[0].map(|sender| self.endpoints[&sender].tag(true));
        match (ends[1], deferred) {
            (Some(ifindex), _) => {
                let by_node = self.node.addresses.contains(&packet.source);
                let came_by = ends[0].unwrap_or(if by_node { 0 } else { self.uplink });
                // If a pod of this node sent the packet, its policy is also checked where the
                // packet is received (rule A5).
                let allowed = ingress.allowed && (ends[0].is_none() || egress.allowed);
                let mut received = step(Hook::ToPod, ifindex, came_by, allowed);
                if let Some(tag) = deferred
                    && random.below(2) == 0
                {
                    (received.met.ingress_ifindex, received.met.tag) = (self.bridge, tag);
                }
                steps.push(received);
            }
            (None, Some(tag)) => {
                let mut leaving = step(Hook::ToNetwork, self.uplink, self.bridge, egress.allowed);
                // Without a tag the address identifies the sender, unless the packet was
                // masqueraded.
                match random.below(3) {
                    0 => {}
                    1 => leaving.met.tag = tag,
                    _ => {
                        leaving.met.tag = tag;
                        self.masquerade(&mut leaving.frame);
                    }
                }
                steps.push(leaving);
            }
            (None, None) => {}
        }
        steps
    }

    /// Sets the node's address as the source of a well-formed frame.
    fn masquerade(&self, frame: &mut [u8]) {
        for address in &self.node.addresses {
            match address {
                IpAddr::V4(v4) if !headers::is_ipv6(frame) => frame[26..30].copy_from_slice(&v4.octets()),
                IpAddr::V6(v6) if headers::is_ipv6(frame) => frame[22..38].copy_from_slice(&v6.octets()),
                _ => {}
            }
        }
    }

    /// Returns a hook for a frame: usually one that its packet would pass, sometimes any.
    fn anywhere(&self, random: &mut Random, packet: &Packet) -> Met {
        let hook = Hook::ALL[random.below(Hook::ALL.len())];
        let [sender, receiver] =
            [packet.source, packet.destination].map(|address| self.addresses.get(&address).copied());
        let any = |random: &mut Random| self.interfaces[random.below(self.interfaces.len())];
        let at = match hook {
            Hook::FromPod => sender,
            Hook::ToPod => receiver,
            Hook::ToNetwork => Some(self.uplink),
        };
        let ifindex = match at {
            Some(ifindex) if random.below(4) > 0 => ifindex,
            // Never an endpoint's interface.
            _ if random.below(8) == 0 => self.uplink,
            _ => any(random),
        };
        let ingress_ifindex = match (hook, random.below(8)) {
            (_, 0) => 0,
            (_, 1) => any(random),
            (Hook::FromPod, _) => ifindex,
            (Hook::ToPod, 2..=4) | (Hook::ToNetwork, 2..=6) => self.bridge,
            (Hook::ToPod, _) => sender.unwrap_or(self.uplink),
            (Hook::ToNetwork, _) => self.uplink,
        };
        Met {
            hook,
            ifindex,
            ingress_ifindex,
            tag: self.tag(random, sender),
        }
    }

    /// Returns a tag: usually the sender's or another endpoint's; sometimes an unused one, none, or
    /// any.
    fn tag(&self, random: &mut Random, sender: Option<u32>) -> u16 {
        let deferred = random.below(3) > 0;
        let all: Vec<&Endpoint> = self.endpoints.values().collect();
        match (
            random.below(8),
            sender.and_then(|sender| self.endpoints.get(&sender)),
        ) {
            (0..=2, Some(endpoint)) => endpoint.tag(deferred),
            (3..=4, _) if !all.is_empty() => all[random.below(all.len())].tag(deferred),
            (5, _) => tag::new(random.below(usize::from(MAX_NUMBER) + 1) as u16, deferred),
            (6, _) => random.below(1 << 16) as u16,
            _ => 0,
        }
    }
}
