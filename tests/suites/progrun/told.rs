// SPDX-License-Identifier: Apache-2.0
//! What events say about connections that were open when policy changed: the named pod and
//! direction must deny the connection.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use netpol_agent::{
    evaluate::{Packet, claimants, evaluate, evaluate_service},
    model::{Direction, Map, Node, Snapshot},
};
use netpol_common::abi::{self, DropReason, Event, Hook};
use netpol_tests::{
    frames,
    progrun::{Bench, local_pods, on_bench},
    random::{Random, cluster, nodes, packet},
};

use super::SUITE;

const CLUSTERS: usize = 60;
const CONNECTIONS: usize = 60;
const CLIENT_PORT: u16 = 40_000;

/// Counts events by content.
#[derive(Debug, Default)]
struct Told {
    ingress: usize,
    egress: usize,
    replies: usize,
    by_senders: usize,
}

/// Makes a TCP or UDP connection between addresses of at most one pod each, and not through a
/// Service.
fn connection(random: &mut Random, snapshot: &Snapshot) -> Option<Packet> {
    let found = packet(random, snapshot);
    let plain = |address| claimants(snapshot, address).len() < 2;
    let connects = matches!(found.protocol, 6 | 17) && found.port.is_some_and(|port| port != CLIENT_PORT);
    let usual = connects && plain(found.source) && plain(found.destination);
    (usual && evaluate_service(snapshot, &nodes(), &found).is_none()).then_some(found)
}

/// Returns the packet that opens it, and its answer.
fn frames_of(connection: &Packet) -> [Vec<u8>; 2] {
    let answer = Packet {
        source: connection.destination,
        destination: connection.source,
        port: Some(CLIENT_PORT),
        ..*connection
    };
    let opening = frames::opening(connection, CLIENT_PORT);
    let mut answer_frame = frames::opening(&answer, connection.port.unwrap_or_default());
    if connection.protocol == 6 {
        let header = if connection.source.is_ipv4() { 20 } else { 40 };
        answer_frame[14 + header + 13] |= 0x10;
    }
    [opening, answer_frame]
}

/// Shows both hooks a packet from one address to another.
fn pass(
    bench: &mut Bench,
    at: impl Fn(IpAddr) -> Option<u32>,
    from: IpAddr,
    to: IpAddr,
    frame: &[u8],
) -> Result<()> {
    let source = at(from);
    if let Some(ifindex) = source {
        bench.passes(netpol_agent::model::Direction::Egress, ifindex, ifindex, frame)?;
    }
    if let Some(ifindex) = at(to) {
        let came_by = source.unwrap_or_else(|| bench.uplink());
        bench.passes(netpol_agent::model::Direction::Ingress, ifindex, came_by, frame)?;
    }
    Ok(())
}

fn check(
    snapshot: &Snapshot,
    pods: &std::collections::BTreeMap<u32, netpol_agent::model::ObjectKey>,
    connection: &Packet,
    is_reply: bool,
    event: &Event,
    told: &mut Told,
) -> Result<()> {
    let reason = DropReason::from_u8(event.reason).context("an unknown reason")?;
    if !matches!(reason, DropReason::Policy | DropReason::EgressBackend) {
        return Ok(());
    }
    let direction = match abi::Direction::from_u8(event.direction) {
        abi::Direction::Ingress => Direction::Ingress,
        abi::Direction::Egress => Direction::Egress,
    };
    let evaluation = evaluate(snapshot, &nodes(), connection);
    let (side, own) = match direction {
        Direction::Ingress => (evaluation.ingress, connection.destination),
        Direction::Egress => (evaluation.egress, connection.source),
    };
    let subject = pods.get(&event.subject).context("the subject is no pod")?;
    let owner = claimants(snapshot, own);
    ensure!(
        owner.iter().any(|pod| pod.key == *subject),
        "{direction} of {subject}, which is not that end"
    );
    ensure!(
        !side.allowed,
        "{direction} of {subject} is allowed: {:?}",
        side.why
    );
    ensure!((event.reply != 0) == is_reply, "reply: {}", event.reply);
    let hook = Hook::name_of(event.hook).context("an unknown hook")?;
    if reason == DropReason::EgressBackend {
        ensure!(
            direction == Direction::Egress,
            "a sender's policy is one of egress"
        );
        told.by_senders += usize::from(event.ifindex != event.subject);
    } else {
        ensure!(
            event.ifindex == event.subject,
            "its own hook drops it, not {hook}"
        );
    }
    told.replies += usize::from(is_reply);
    match direction {
        Direction::Ingress => told.ingress += 1,
        Direction::Egress => told.egress += 1,
    }
    Ok(())
}

fn revoke(
    bench: &mut Bench,
    random: &mut Random,
    snapshot: &Snapshot,
    node: &Node,
    told: &mut Told,
) -> Result<()> {
    let keys: Vec<_> = snapshot.pods.keys().cloned().collect();
    let seats = bench.interfaces().to_vec();
    let position = |key: &_| keys.iter().position(|other| other == key);
    let (pods, addresses) = local_pods(snapshot, node, |key| seats[position(key).unwrap_or_default()]);
    let at = |address: IpAddr| addresses.get(&address).copied();
    let open = Snapshot {
        policies: Map::default(),
        ..snapshot.clone()
    };
    let connections: Vec<Packet> = (0..CONNECTIONS)
        .filter_map(|_| connection(random, snapshot))
        .filter(|found| {
            !node.addresses.contains(&found.source) && !node.addresses.contains(&found.destination)
        })
        .filter(|found| at(found.source).is_none() || at(found.source) != at(found.destination))
        .collect();
    for connection in &connections {
        // One at a time: the table of a bench holds few flows.
        bench.forget_flows()?;
        bench.enforce(&open, node, &pods)?;
        let [opening, answer] = frames_of(connection);
        let (source, destination) = (connection.source, connection.destination);
        pass(bench, at, source, destination, &opening)?;
        pass(bench, at, destination, source, &answer)?;
        bench.take_events()?;
        bench.enforce(snapshot, node, &pods)?;
        for (is_reply, from, to, frame) in [
            (true, destination, source, &answer),
            (false, source, destination, &opening),
        ] {
            pass(bench, at, from, to, frame)?;
            for event in bench.take_events()? {
                check(snapshot, &pods, connection, is_reply, &event, told)
                    .with_context(|| format!("{connection:?}, reply {is_reply}: {event:?}"))?;
            }
        }
    }
    Ok(())
}

#[test]
fn c2_a5_events_name_the_pod_and_the_direction_that_deny() {
    on_bench(SUITE, 10, |bench| {
        bench.set_events_per_second(u32::MAX);
        let (mut random, mut told) = (Random(11), Told::default());
        for number in 0..CLUSTERS {
            let snapshot = cluster(&mut random);
            for node in nodes() {
                revoke(bench, &mut random, &snapshot, &node, &mut told)
                    .with_context(|| format!("cluster {number}, {}", node.name))?;
            }
        }
        println!("{told:?}");
        let least = [told.ingress, told.egress, told.replies, told.by_senders];
        ensure!(least.iter().all(|count| *count > 20), "too few: {told:?}");
        Ok(())
    });
}
