// SPDX-License-Identifier: Apache-2.0
//! Expectations through a Service: what kube-proxy makes of their packets.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context, Result, ensure};
use netpol_agent::{
    evaluate::{Packet, evaluate_service},
    model::Node,
};

use super::{End, Expectation, Family, Step, address};
use crate::{frontend_verdict::chooses_elsewhere, proxy};

/// A packet after a Service's translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translated {
    /// The packet to the backend, with its source address unchanged.
    pub packet: Packet,
    /// The source address that the backend sees: a node's, if the packet is masqueraded.
    pub seen: IpAddr,
}

impl Step {
    /// Returns the backend's address of an expectation through a Service.
    ///
    /// # Errors
    /// The expectation names no backend.
    pub fn via_address(&self, nodes: &[Node], expectation: &Expectation) -> Result<IpAddr> {
        let backend = expectation.via.as_ref().context("it goes by no Service")?;
        let found = address(&self.snapshot, nodes, backend, expectation.family)?;
        found.with_context(|| format!("{backend} has no address"))
    }

    /// Translates the packet of an expectation through a Service as kube-proxy does; `None` if it
    /// never leads to the backend.
    ///
    /// # Errors
    /// No Service is reached there. This step's own expectations have no error: loading has checked
    /// them.
    pub fn translated(&self, nodes: &[Node], expectation: &Expectation) -> Result<Option<Translated>> {
        let packet = self.packet(nodes, expectation)?;
        let backend = self.via_address(nodes, expectation)?;
        let found = proxy::backends(&self.snapshot, nodes, &packet);
        let (backends, masqueraded) = found.with_context(|| format!("{expectation}: there is no Service"))?;
        let chosen: Vec<SocketAddr> = backends
            .into_iter()
            .filter(|chosen| chosen.ip() == backend)
            .collect();
        ensure!(chosen.len() < 2, "{expectation}: the backend has two ports");
        Ok(chosen.first().map(|chosen| Translated {
            packet: Packet {
                destination: chosen.ip(),
                port: Some(chosen.port()),
                ..packet
            },
            seen: if masqueraded || chosen.ip() == packet.source {
                self.masquerade(nodes, expectation, &packet)
                    .unwrap_or(packet.source)
            } else {
                packet.source
            },
        }))
    }

    /// Checks that a case names the backend for every frontend, and names every backend: another
    /// answer is then wrong.
    pub(super) fn check_backends(&self, nodes: &[Node], expectation: &Expectation) -> Result<()> {
        let packet = self.packet(nodes, expectation)?;
        let backends = proxy::backends(&self.snapshot, nodes, &packet).map(|found| found.0);
        if expectation.via.is_none() {
            ensure!(backends.is_none(), "{expectation}: by which backend?");
            return Ok(());
        }
        self.translated(nodes, expectation)?;
        let mut named = BTreeSet::new();
        for other in self.expectations.iter().filter(|other| other.via.is_some()) {
            if self.packet(nodes, other)? == packet {
                named.insert(self.via_address(nodes, other)?);
            }
        }
        let mut chosen = backends.iter().flatten();
        let missing = chosen.find(|backend| !named.contains(&backend.ip()));
        ensure!(
            missing.is_none(),
            "{expectation}: nothing is expected of its backend {missing:?}"
        );
        Ok(())
    }

    /// Returns the masquerade address: of the node whose node port is asked, otherwise of the
    /// sender's node.
    fn masquerade(&self, nodes: &[Node], expectation: &Expectation, packet: &Packet) -> Option<IpAddr> {
        let asked = nodes
            .iter()
            .find(|node| node.addresses.contains(&packet.destination));
        let sender = match &expectation.from {
            End::Pod(key) => self.snapshot.pods.get(key)?.node.as_ref(),
            _ => None,
        };
        let node = asked.or_else(|| {
            nodes
                .iter()
                .find(|node| sender.is_some_and(|sender| *sender == node.name))
        })?;
        let mut addresses = node.addresses.iter().copied();
        addresses.find(|address| Family::of(address) == expectation.family)
    }

    /// Returns true if an allowed expectation is nevertheless denied, which every enforcing tier
    /// checks: the asking pod may not reach some of the backends, and another node chooses among
    /// them.
    ///
    /// # Errors
    /// As [`Step::translated`].
    pub fn is_closed_as_a_whole(&self, nodes: &[Node], expectation: &Expectation) -> Result<bool> {
        let End::Pod(key) = &expectation.from else {
            return Ok(false);
        };
        if expectation.via.is_none() || !expectation.allowed {
            return Ok(false);
        }
        let packet = self.packet(nodes, expectation)?;
        let home = self.snapshot.pods.get(key).and_then(|pod| pod.node.as_ref());
        let home = nodes
            .iter()
            .find(|node| home.is_some_and(|home| *home == node.name));
        if !home.is_some_and(|home| chooses_elsewhere(nodes, home, &packet)) {
            return Ok(false);
        }
        let backends = evaluate_service(&self.snapshot, nodes, &packet);
        let mut backends = backends.iter().flatten();
        Ok(backends.any(|(_, _, verdict)| !verdict.egress.allowed))
    }
}
