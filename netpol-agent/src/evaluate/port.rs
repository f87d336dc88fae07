// SPDX-License-Identifier: Apache-2.0
//! Matches entries of `ports` (rules T2 to T5 and F4).

use super::Packet;
use crate::model::{Pod, PolicyPort, PortName, Protocol};

/// Returns true if an entry of `ports` matches a packet. `destinations` are the pods in which a
/// named port is looked up (rule T4): at least one, and the name must mean the packet's port in
/// each of them.
///
/// An entry matches nothing if Kubernetes does not know its protocol, its port is outside 1 to
/// 65535, or rule T3 refuses its range.
pub(super) fn matches(entry: &PolicyPort, packet: &Packet, destinations: &[&Pod]) -> bool {
    let word = entry.protocol.as_deref().unwrap_or("TCP");
    let Some(protocol) = Protocol::from_kubernetes(word) else {
        return false;
    };
    if packet.protocol != protocol.number() {
        return false;
    }
    match (&entry.port, entry.end_port) {
        (None, None) => true,
        (Some(PortName::Number(first)), None) => in_range(packet, *first, *first),
        (Some(PortName::Number(first)), Some(last)) => in_range(packet, *first, last),
        (Some(PortName::Name(name)), None) => {
            !destinations.is_empty()
                && destinations.iter().all(|pod| {
                    let number = number_of(pod, name, protocol);
                    number.is_some() && number == packet.port
                })
        }
        (None | Some(PortName::Name(_)), Some(_)) => false,
    }
}

/// Returns true if the packet's port is in a valid range, ends included.
fn in_range(packet: &Packet, first: i32, last: i32) -> bool {
    let valid = 1 <= first && first <= last && last <= 65535;
    valid
        && packet
            .port
            .is_some_and(|port| first <= i32::from(port) && i32::from(port) <= last)
}

/// Looks up a named port in a pod: its first container port of that name and protocol.
pub(super) fn number_of(pod: &Pod, name: &str, protocol: Protocol) -> Option<u16> {
    pod.named_ports
        .iter()
        .find(|port| port.name == name && port.protocol == protocol)
        .map(|port| port.number)
}
