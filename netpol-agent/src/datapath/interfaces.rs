// SPDX-License-Identifier: Apache-2.0
//! Reads which pods are behind which host-side veths, and the node's own addresses, from netlink.
//! Reads again on netlink events.
//!
//! The kernel tells in which network namespace a veth's peer is, and lists the addresses in that
//! namespace on request. There is no timer: events of all namespaces that this one knows are
//! received, and every burst leads to one new reading.
//!
//! A pod can change everything inside its namespace, so only what was there first counts (rule A8):
//! see [`Sight`].

mod events;
mod links;
mod pace;
mod reading;
mod sight;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::Instant,
};

use ipnet::IpNet;
use thiserror::Error;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::progress::{Part, Progress};

pub use self::sight::Sight;
use self::{events::Events, reading::Reader};

/// A MAC address.
pub type Mac = [u8; 6];

/// Interfaces whose pods are fully known: their inside is no longer read.
pub type Settled = BTreeSet<u32>;

/// A host-side veth whose peer is in another network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodInterface {
    /// Index of the veth on the node.
    pub index: u32,
    /// Name of the veth on the node. It can change while the index does not.
    pub name: String,
    /// MAC address of the veth on the node, which nothing in the pod can change.
    pub mac: Mac,
    /// Id that this namespace has for the peer's; negative while that ends. It changes if the pod
    /// moves the peer.
    pub namespace: i32,
    /// The first addresses that were seen inside the pod (rule A8): on the peer or, if that has
    /// none and no other veth leads there, anywhere. Without link-local and loopback addresses.
    /// Later addresses change nothing.
    pub addresses: BTreeSet<IpAddr>,
    /// Current MAC address of the peer, if it could be read; fixed once [`Settled`] has the
    /// interface.
    pub peer_mac: Option<Mac>,
    /// Current link-local IPv6 addresses of the peer; fixed as above.
    pub link_locals: BTreeSet<Ipv6Addr>,
    /// Index of the bridge that the veth is a port of.
    pub bridge: Option<u32>,
    /// Addresses of that bridge on the node: the gateways of the pods behind it.
    pub gateways: BTreeSet<IpAddr>,
    /// What the node routes to this interface, if it is on no bridge.
    pub routed: BTreeSet<IpNet>,
}

impl PodInterface {
    /// Returns true if it is on the pod network: on a bridge with an address in one of `cidrs`, or
    /// the target of a route to addresses of one.
    pub fn is_of(&self, cidrs: &[IpNet]) -> bool {
        cidrs.iter().any(|cidr| {
            self.gateways.iter().any(|address| cidr.contains(address))
                || self.routed.iter().any(|routed| cidr.contains(routed))
        })
    }
}

/// The interfaces of this network namespace, as far as policy needs them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interfaces {
    /// Veths that lead into another namespace, by interface index.
    pub pods: BTreeMap<u32, PodInterface>,
    /// Names by index of all interfaces by which packets can leave this namespace: not loopback,
    /// bridges, `ifb` or dummies. Includes the veths in `pods`: until its pod is known, a veth is a
    /// device like any other.
    pub devices: BTreeMap<u32, String>,
    /// All addresses on the interfaces of this namespace (rule A2), without loopback addresses.
    /// Includes link-local addresses: a pod can reach the bridge's.
    pub node_addresses: BTreeSet<IpAddr>,
}

/// Why the interfaces cannot be watched. Every error is final: the caller decides about a restart.
#[derive(Debug, Error)]
pub enum InterfacesError {
    /// A socket could not be opened or set up.
    #[error("netlink: {attempt}: {source}")]
    Socket {
        /// What was attempted.
        attempt: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A list was refused.
    #[error("netlink: list {what}: {source}")]
    Dump {
        /// What was asked for.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Receiving events failed.
    #[error("netlink: receive events: {0}")]
    Events(#[source] io::Error),
    /// The reading task ended early.
    #[error("netlink: the reading of the interfaces was given up: {0}")]
    Reading(#[source] tokio::task::JoinError),
}

/// Publishes the first complete reading, then every change, until `stop`. `sights` is what an
/// earlier agent saw first. Reports each change to `progress`.
///
/// The sockets belong to the network namespace of the thread that first polls this future. `reread`
/// requests a reading without an event. Some kernels and containers refuse the events of other
/// namespaces (capability `CAP_NET_BROADCAST`): then addresses that are set in a pod after its link
/// came up only show with the next reading.
///
/// # Errors
/// A socket cannot be set up, or the kernel refuses a list. It is no error if an interface or
/// namespace vanishes while it is read.
pub async fn watch(
    tx: watch::Sender<Option<Arc<Interfaces>>>,
    sights: BTreeMap<u32, Sight>,
    settled: watch::Receiver<Settled>,
    reread: Arc<Notify>,
    progress: Progress,
    stop: CancellationToken,
) -> Result<(), InterfacesError> {
    // Listening starts before the first reading, so that no change is missed in between.
    let mut events = Events::listen()?;
    let mut reader = Reader::open(sights)?;
    let mut received = Instant::now();
    loop {
        // A reading blocks on the kernel's configuration lock, so it must not run on an
        // asynchronous thread.
        let known = settled.borrow().clone();
        let (returned, interfaces) = tokio::task::spawn_blocking(move || {
            let interfaces = reader.read(&known);
            (reader, interfaces)
        })
        .await
        .map_err(InterfacesError::Reading)?;
        reader = returned;
        publish(&tx, interfaces?, (&progress, received));
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = reread.notified() => debug!("interfaces are read again on request"),
            lost = events.next() => {
                if lost? {
                    warn!("netlink events were lost; all interfaces are read again");
                }
            }
        }
        received = Instant::now();
    }
}

/// Returns the current addresses inside the pod behind a veth of this network namespace, as in
/// [`PodInterface::addresses`]; none if there is no such veth.
///
/// # Errors
/// As [`watch()`].
pub fn addresses_behind(index: u32) -> Result<BTreeSet<IpAddr>, InterfacesError> {
    Reader::open(BTreeMap::new())?.addresses_of(index)
}

/// Requests a reading whenever the routes of this network namespace change, until `stop`. Some pod
/// networks have no bridge and add the route to a pod after its interface.
///
/// # Errors
/// A socket cannot be set up.
pub async fn watch_routes(reread: Arc<Notify>, stop: CancellationToken) -> Result<(), InterfacesError> {
    let mut events = Events::of_routes()?;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            lost = events.next() => {
                lost?;
                reread.notify_one();
            }
        }
    }
}

fn publish(
    tx: &watch::Sender<Option<Arc<Interfaces>>>,
    interfaces: Interfaces,
    (progress, received): (&Progress, Instant),
) {
    tx.send_if_modified(|current| {
        if current.as_deref() == Some(&interfaces) {
            return false;
        }
        debug!(pods = interfaces.pods.len(), "interfaces changed");
        progress.came(Part::Interfaces, received);
        *current = Some(Arc::new(interfaces));
        true
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_change_is_published() {
        let (tx, mut rx) = watch::channel(None);
        let progress = Progress::default();
        let publish = |tx: &_, interfaces| publish(tx, interfaces, (&progress, Instant::now()));
        publish(&tx, Interfaces::default());
        assert!(
            rx.has_changed().unwrap(),
            "the first reading is news, even if nothing is in it"
        );
        rx.mark_unchanged();
        publish(&tx, Interfaces::default());
        assert!(!rx.has_changed().unwrap());
        let node_addresses = BTreeSet::from([IpAddr::from([10, 0, 0, 1])]);
        publish(
            &tx,
            Interfaces {
                node_addresses,
                ..Interfaces::default()
            },
        );
        assert!(rx.has_changed().unwrap());
    }
}
