// SPDX-License-Identifier: Apache-2.0
//! Checks the owner of an end's address. Policies do not decide about an address that is not its
//! pod's own, or whose owner is unknown.

use super::{answer::Told, ends::Candidate, held::World, judged::Judged};
use crate::model::Pod;

/// Denies a source address that is not the pod's own: only the first address of each family and the
/// link-local address of its interface are. Packets from others are dropped (rule A6).
pub(super) fn spoofed(world: World<'_>, source: &Candidate) -> Option<Judged> {
    let pod = with_another_address(world, source)?;
    let text = format!(
        "what pod {} sends from {} is dropped as spoofed: only the first address of a family in status.podIPs is its own",
        pod.key, source.address
    );
    Some(Judged::plain(Told::Denied, "spoofed", text))
}

/// Denies a destination address that is not the pod's own: packets do not reach the pod (rule A9).
pub(super) fn not_own(world: World<'_>, destination: &Candidate) -> Option<Judged> {
    let pod = with_another_address(world, destination)?;
    let text = format!(
        "what comes to pod {} for {} is dropped: only the first address of a family in status.podIPs is its own",
        pod.key, destination.address
    );
    Some(Judged::plain(Told::Denied, "not-own-address", text))
}

fn with_another_address<'a>(world: World<'a>, end: &Candidate) -> Option<&'a Pod> {
    let pod = end.pod(world.snapshot)?;
    let first = pod
        .addresses
        .iter()
        .find(|address| address.is_ipv4() == end.address.is_ipv4());
    let own = pod.host_network
        || pod.terminal
        || first == Some(&end.address)
        || world.is_link_local_of(pod, end.address);
    (!own).then_some(pod)
}

/// Judges an address behind an interface without a known pod. In strict mode, the interface is
/// closed to everything but the node (rules B2, A2). If its pod is gone, the interface is closed if
/// that pod was isolated.
pub(super) fn strayed(world: World<'_>, own: &Candidate, other: &Candidate, judged: Judged) -> Judged {
    let pod = own.pod(world.snapshot);
    if pod.is_some_and(|pod| !pod.terminal) || world.is_here(other.address) {
        return judged;
    }
    let Some(behind) = world.behind(own.address) else {
        return judged;
    };
    let (address, interface) = (own.address, &behind.interface);
    match behind.closed {
        true => {
            let text = format!(
                "{address} is behind interface {interface}, which is closed to all but the node until its pod is known"
            );
            Judged::plain(Told::Denied, "closed-until-known", text)
        }
        false => {
            let text = format!(
                "{address} is behind interface {interface}, whose pod is gone: it is closed if that was isolated"
            );
            judged.in_doubt("pod-not-known", &text)
        }
    }
}

/// Marks the verdict unknown if the owner of a link-local address is unknown: for the owner's own
/// side, and for the other side if it denies.
pub(super) fn nobodys(world: World<'_>, own: &Candidate, other: &Candidate, judged: Judged) -> Judged {
    let is_unknown = |end: &Candidate| world.is_unknown_link_local(end.address);
    let unknown = match (is_unknown(own), is_unknown(other)) {
        (true, _) => own,
        (_, true) if judged.told == Told::Denied && judged.isolated => other,
        _ => return judged,
    };
    let text = format!(
        "{} is a link-local address, and whose it is only an agent on that node knows",
        unknown.address
    );
    judged.in_doubt("link-local", &text)
}
