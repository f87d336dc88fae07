// SPDX-License-Identifier: Apache-2.0
//! The pods, their frames, and readers of the pinned maps.

use std::net::IpAddr;

use aya::maps::{HashMap, Map, MapData, PerCpuArray};
use etherparse::PacketBuilder;
use netpol_agent::datapath::pin;
use netpol_common::abi::{Counters, Direction, EventBudget, Flow, FlowKey, Fragment, FragmentKey};
use netpol_tests::{
    capture::{self, Wire},
    lab::Lab,
    privilege::can_enforce,
    probe::{Conversation, Service},
};

/// Sends the floods.
pub const FLOODER: &str = "shop/flooder";
/// Receives them, or must not.
pub const VICTIM: &str = "shop/victim";
/// Talks to the victim all the time.
pub const NEIGHBOUR: &str = "shop/neighbour";

const PODS: [(&str, &str); 3] = [
    (FLOODER, "app: flooder"),
    (VICTIM, "app: victim"),
    (NEIGHBOUR, "app: neighbour"),
];

/// Makes a node with the pods under `policies`, where that is possible.
pub fn lab(policies: &str) -> Option<Lab> {
    can_enforce("floods").then(|| Lab::new(&PODS, &[("policies.yaml", policies)]).unwrap())
}

/// Makes a policy for the pods with label `app`.
pub fn policy(app: &str, types: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{namespace: shop, name: {app}}}\n\
         spec: {{podSelector: {{matchLabels: {{app: {app}}}}}, policyTypes: [{types}], {rules}}}\n"
    )
}

/// Restarts the agent with another value of an argument.
pub fn restart_with(lab: &mut Lab, name: &str, value: &str) {
    lab.agent.stop().unwrap();
    lab.agent.set_argument(name, value);
    lab.agent.restart().unwrap();
}

/// Opens connections of both families.
pub fn converse<'a>(lab: &'a Lab, from: &str, to: &str) -> Vec<Conversation<'a>> {
    let probes = lab.probes(from, to, &[Service::Tcp(8080)]).unwrap();
    probes
        .iter()
        .map(|probe| lab.prober.converse(probe).unwrap())
        .collect()
}

/// Sends frames from one site to another.
pub struct Flood {
    wire: Wire,
    macs: [[u8; 6]; 2],
    /// Addresses of the sender, IPv4 first.
    pub own: [IpAddr; 2],
    /// Addresses of the receiver.
    pub target: [IpAddr; 2],
}

impl Flood {
    /// Makes a flood from pod to pod.
    pub fn new(lab: &Lab, from: &str, to: &str) -> Self {
        let (from, to) = (lab.site(from).unwrap(), lab.site(to).unwrap());
        Self {
            wire: Wire::open(&from.netns, "eth0").unwrap(),
            macs: [&from, &to].map(|site| capture::mac(&site.netns, "eth0").unwrap()),
            own: capture::addresses(&from).unwrap(),
            target: capture::addresses(&to).unwrap(),
        }
    }

    /// Sends to another MAC address from now on.
    pub fn to(&mut self, mac: [u8; 6]) {
        self.macs[1] = mac;
    }

    /// Sends a SYN from any source address of a family to the target's port.
    pub fn syn(&self, source: IpAddr, source_port: u16, port: u16) {
        self.segment(source, source_port, port, false);
    }

    /// Sends a SYN-ACK.
    pub fn syn_ack(&self, source: IpAddr, source_port: u16, port: u16) {
        self.segment(source, source_port, port, true);
    }

    fn segment(&self, source: IpAddr, source_port: u16, port: u16, ack: bool) {
        let ethernet = PacketBuilder::ethernet2(self.macs[0], self.macs[1]);
        let mut tcp = match (source, self.target) {
            (IpAddr::V4(source), [IpAddr::V4(target), _]) => {
                ethernet.ipv4(source.octets(), target.octets(), 64)
            }
            (IpAddr::V6(source), [_, IpAddr::V6(target)]) => {
                ethernet.ipv6(source.octets(), target.octets(), 64)
            }
            _ => unreachable!("IPv4 first"),
        }
        .tcp(source_port, port, 1, 1024)
        .syn();
        if ack {
            tcp = tcp.ack(1);
        }
        let mut frame = Vec::new();
        tcp.write(&mut frame, &[]).unwrap();
        assert!(self.wire.send(&frame).unwrap());
    }

    /// Sends a fragment with 32 bytes of UDP at `offset`, in units of 8 bytes.
    pub fn fragment(&self, identification: u32, offset: u16, more: bool, port: u16) {
        for frame in self.fragments(identification, offset, more, port) {
            assert!(self.wire.send(&frame).unwrap());
        }
    }

    fn fragments(&self, identification: u32, offset: u16, more: bool, port: u16) -> [Vec<u8>; 2] {
        let mut body = vec![0; 32];
        body[..8].copy_from_slice(&[0x9c, 0x40, (port >> 8) as u8, port as u8, 0, 40, 0, 0]);
        let macs = [self.macs[1], self.macs[0]].concat();
        let ([IpAddr::V4(from), IpAddr::V6(from6)], [IpAddr::V4(to), IpAddr::V6(to6)]) =
            (self.own, self.target)
        else {
            unreachable!("IPv4 first")
        };
        let mut header = etherparse::Ipv4Header::new(32, 64, 17.into(), from.octets(), to.octets()).unwrap();
        header.identification = identification as u16;
        header.dont_fragment = false;
        header.more_fragments = more;
        header.fragment_offset = offset.try_into().unwrap();
        header.header_checksum = header.calc_header_checksum();
        let v4 = [&macs[..], &[0x08, 0x00], &header.to_bytes(), &body].concat();
        let field = (offset << 3 | u16::from(more)).to_be_bytes();
        let number = identification.to_be_bytes();
        let v6 = [
            &macs[..],
            &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 40, 44, 64],
            &from6.octets(),
            &to6.octets(),
            &[17, 0, field[0], field[1]],
            &number,
            &body,
        ]
        .concat();
        [v4, v6]
    }
}

fn pinned(lab: &Lab, map: &str) -> MapData {
    MapData::from_pin(pin(lab.agent.pin_path(), map)).unwrap()
}

/// Returns the keys of the flow table.
pub fn flows(lab: &Lab) -> Vec<FlowKey> {
    let map = Map::HashMap(pinned(lab, "flows"));
    let map: HashMap<_, FlowKey, Flow> = map.try_into().unwrap();
    map.keys().filter_map(Result::ok).collect()
}

/// Returns the states of the flows of the victim's port 8080.
pub fn states(lab: &Lab) -> Vec<u8> {
    let map = Map::HashMap(pinned(lab, "flows"));
    let map: HashMap<_, FlowKey, Flow> = map.try_into().unwrap();
    let found = map.iter().map(Result::unwrap);
    found
        .filter(|(key, _)| key.local_port == 8080u16.to_be_bytes())
        .map(|(_, flow)| flow.state)
        .collect()
}

/// Removes a flow, as a full table does.
pub fn forget(lab: &Lab, key: &FlowKey) {
    let map = Map::HashMap(pinned(lab, "flows"));
    let mut map: HashMap<_, FlowKey, Flow> = map.try_into().unwrap();
    map.remove(key).unwrap();
}

/// Returns the number of packets whose first fragment is remembered.
pub fn fragments(lab: &Lab) -> usize {
    let map = Map::LruHashMap(pinned(lab, "fragments"));
    let map: HashMap<_, FragmentKey, Fragment> = map.try_into().unwrap();
    map.keys().filter_map(Result::ok).count()
}

/// Sums a counter of a direction over all CPUs.
pub fn counted(lab: &Lab, direction: Direction, of: fn(&Counters) -> u64) -> u64 {
    let map = Map::PerCpuArray(pinned(lab, "counters"));
    let map: PerCpuArray<_, Counters> = map.try_into().unwrap();
    map.get(&(direction as u32), 0).unwrap().iter().map(of).sum()
}

/// Returns the events suppressed since the last one written, over all CPUs and endpoints.
pub fn suppressed(lab: &Lab) -> u64 {
    let map = Map::PerCpuArray(pinned(lab, "event_budget"));
    let map: PerCpuArray<_, EventBudget> = map.try_into().unwrap();
    let values = map.iter().flat_map(|values| values.unwrap().to_vec());
    values.map(|budget| u64::from(budget.suppressed)).sum()
}
