// SPDX-License-Identifier: Apache-2.0
//! Judges one pair of addresses and gives each side's reason.

use super::{
    answer::{SideShown, Told, Verdict},
    ends::{Candidate, packet},
    held::{Enforcement, World},
    judged::Judged,
    owner::{nobodys, not_own, spoofed, strayed},
    request::Family,
    ways::Way,
};
use crate::{
    evaluate::Packet,
    model::{Direction, Frontend},
};

/// Judges the packet from one address to the other; both are of `family`.
pub(super) fn judge(
    world: World<'_>,
    source: &Candidate,
    destination: &Candidate,
    family: Family,
    way: &Way,
) -> Verdict {
    let arriving = packet(source, destination, family);
    let translated = way.translated;
    let egress = match &way.judged_at {
        Some(place) => {
            let leaving = packet(source, place, family);
            Judged::of(world, &leaving, Direction::Egress, false, source, place)
        }
        None => Judged::of(
            world,
            &arriving,
            Direction::Egress,
            translated,
            source,
            destination,
        ),
    };
    let egress = match spoofed(world, source) {
        Some(spoofed) => spoofed,
        None => egress.over_budget(world, source, Direction::Egress),
    };
    let egress = nobodys(world, source, destination, egress);
    let egress = strayed(world, source, destination, egress).shown(world, source);
    let own = Judged::of(
        world,
        &arriving,
        Direction::Ingress,
        translated,
        destination,
        source,
    );
    let ingress = match not_own(world, destination) {
        Some(not_own) => not_own,
        None => seen_otherwise(world, &arriving, source, destination, way, own).over_budget(
            world,
            destination,
            Direction::Ingress,
        ),
    };
    let ingress = nobodys(world, destination, source, ingress);
    let ingress = strayed(world, destination, source, ingress).shown(world, destination);
    let told = egress.verdict.and(ingress.verdict);
    Verdict {
        family: family.name().to_owned(),
        source: source.end_shown(),
        frontend: way.frontend,
        destination: destination.end_shown(),
        port: destination.port.to_string(),
        allowed: told == Told::Allowed,
        verdict: told,
        egress,
        ingress,
    }
}

/// Denies all backends if the frontend is closed to pods that may reach only some of them (rule
/// L2).
pub(super) fn refuse(world: World<'_>, source: &Candidate, packet: &Packet, found: &mut [Verdict]) {
    let frontend = Frontend {
        address: packet.destination,
        protocol: packet.protocol,
        port: packet.port.unwrap_or_default(),
    };
    let closed = source
        .pod(world.snapshot)
        .is_some_and(|pod| world.is_closed(pod, frontend));
    if !closed || found.iter().all(|verdict| verdict.egress.allowed) {
        return;
    }
    let enforced = |verdict: &&mut Verdict| verdict.egress.enforced == Enforcement::Here;
    for verdict in found.iter_mut().filter(enforced) {
        verdict.egress = SideShown {
            allowed: false,
            verdict: Told::Denied,
            reason: "over-budget".to_owned(),
            text: format!(
                "the Service has too many backends that some pods may not reach (restricted-backends-over-budget), so it is closed to this pod, \
                 which may not reach all of them; {}",
                verdict.egress.text
            ),
            policy: None,
            field: None,
            ..verdict.egress.clone()
        };
        verdict.verdict = Told::Denied.and(verdict.ingress.verdict);
        verdict.allowed = false;
    }
}

/// Judges the destination's side for every source address that it may see. The verdict is unknown
/// unless all agree.
fn seen_otherwise(
    world: World<'_>,
    arriving: &Packet,
    source: &Candidate,
    destination: &Candidate,
    way: &Way,
    own: Judged,
) -> Judged {
    if own.reason == "node" {
        return own;
    }
    let mut others = way
        .seen_as
        .iter()
        .filter(|seen| seen.address != arriving.source && seen.address.is_ipv4() == arriving.source.is_ipv4())
        .map(|seen| {
            let packet = Packet {
                source: seen.address,
                ..*arriving
            };
            let other = Candidate {
                name: None,
                address: seen.address,
                ..source.clone()
            };
            // A packet that a node forwards is not from the node, whatever its address (rule A3).
            let forwarded = World { nodes: &[], ..world };
            (
                seen,
                Judged::of(forwarded, &packet, Direction::Ingress, false, destination, &other),
            )
        });
    let Some((seen, other)) = others.find(|(_, other)| other.told != own.told) else {
        return own;
    };
    let (address, whose) = (seen.address, &seen.whose);
    let seen = match address.is_unspecified() {
        true => whose.clone(),
        false => format!("{address} ({whose})"),
    };
    let text = format!(
        "{} if the packet arrives from {}, {} if from {seen}",
        own.told.word(),
        arriving.source,
        other.told.word()
    );
    let denied = if own.told == Told::Denied { own } else { other };
    denied.in_doubt("address-on-arrival", &text)
}
