// SPDX-License-Identifier: Apache-2.0
//! Explains why the `ports` of a rule do not match (rules T2 to T4 and F4).

use super::Missing;
use crate::{
    evaluate::{Packet, Question, port::number_of},
    model::{Direction, Pod, PolicyPort, PortName, Protocol, Rule},
};

impl Question<'_> {
    /// Explains why the rule's ports do not match; `remotes` are the pods that its peer matched.
    pub(super) fn missing_for_ports(&self, rule: &Rule, remotes: &[&Pod]) -> Missing {
        let subject = [self.subject];
        let destinations: &[&Pod] = match self.direction {
            Direction::Ingress => &subject,
            Direction::Egress => remotes,
        };
        let entries: Vec<String> = rule
            .ports
            .iter()
            .map(|entry| shown(entry, destinations))
            .collect();
        let what = packet_port(self.packet);
        let listed = entries.join(", ");
        let message = if is_named_by_port(self.packet) {
            format!("{what} is not in ports {listed}")
        } else {
            format!("{what} has no ports, so only a rule without `ports` allows it; this one has {listed}")
        };
        Missing::new("ports", message)
    }
}

fn is_named_by_port(packet: &Packet) -> bool {
    Protocol::ALL
        .iter()
        .any(|protocol| protocol.number() == packet.protocol)
}

fn packet_port(packet: &Packet) -> String {
    let protocol = Protocol::ALL
        .into_iter()
        .find(|protocol| protocol.number() == packet.protocol);
    match (protocol, packet.port) {
        (Some(protocol), Some(port)) => format!("port {port}/{protocol}"),
        (Some(protocol), None) => protocol.to_string(),
        (None, _) if matches!(packet.protocol, 1 | 58) => "ICMP".to_owned(),
        (None, _) => format!("IP protocol {}", packet.protocol),
    }
}

/// Formats an entry as people write it, with the numbers of a name and with what is wrong.
fn shown(entry: &PolicyPort, destinations: &[&Pod]) -> String {
    let word = entry.protocol.as_deref().unwrap_or("TCP");
    let Some(protocol) = Protocol::from_kubernetes(word) else {
        return format!("`{word}` (no such protocol)");
    };
    let is_port = |number: i32| (1..=65535).contains(&number);
    match (&entry.port, entry.end_port) {
        (None, None) => format!("all {protocol}"),
        (None, Some(last)) => format!("endPort {last} (without port: matches nothing)"),
        (Some(PortName::Number(number)), None) if is_port(*number) => format!("{number}/{protocol}"),
        (Some(PortName::Number(number)), None) => {
            format!("{number}/{protocol} (not a port: matches nothing)")
        }
        (Some(PortName::Number(first)), Some(last)) if is_port(*first) && is_port(last) && *first <= last => {
            format!("{first}-{last}/{protocol}")
        }
        (Some(PortName::Number(first)), Some(last)) => {
            format!("{first}-{last}/{protocol} (not a range: matches nothing)")
        }
        (Some(PortName::Name(name)), Some(last)) => {
            format!("`{name}` with endPort {last} (a name has no range: matches nothing)")
        }
        (Some(PortName::Name(name)), None) => {
            let meaning = |pod: &&Pod| match number_of(pod, name, protocol) {
                Some(number) => format!("{number} in pod `{}`", pod.key),
                None => format!("pod `{}` has no such port", pod.key),
            };
            let meanings: Vec<String> = destinations.iter().map(meaning).collect();
            match meanings.is_empty() {
                true => format!("{name}/{protocol} (a name means something for pods only)"),
                false => format!("{name}/{protocol} ({})", meanings.join(", ")),
            }
        }
    }
}
