// SPDX-License-Identifier: Apache-2.0
//! The pods of these tests, their policies, and counters.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use netpol_agent::datapath::CounterReader;
use netpol_common::abi::{Direction, DropReason};
use netpol_tests::{lab::Lab, node::Site, privilege::can_enforce, raw::Wire};

/// Pods and their labels.
pub const PODS: [(&str, &str); 3] = [("shop/a", "app: a"), ("shop/b", "app: b"), ("other/c", "app: c")];
/// Silence that must last to count as such, and time limit for quick answers.
pub const PATIENCE: Duration = Duration::from_millis(400);
/// Time limit for what must happen in the end, on a busy machine.
pub const LONG: Duration = Duration::from_secs(15);

/// Makes a node with [`PODS`] and the agent, where that is possible.
pub fn lab(policies: &[(&str, &str)]) -> Option<Lab> {
    can_enforce("stateful").then(|| Lab::new(&PODS, policies).unwrap())
}

/// Makes a policy in namespace `shop` for pods with a label, isolated in both directions, with
/// these rules.
pub fn policy(name: &str, label: &str, rules: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{namespace: shop, name: {name}}}\nspec:\n  \
         podSelector: {{matchLabels: {{{label}}}}}\n  policyTypes: [Ingress, Egress]\n  {rules}\n"
    )
}

/// Returns the address of a family.
pub fn of_family(site: &Site, ipv4: bool) -> IpAddr {
    let mut addresses = site.addresses.iter();
    *addresses.find(|address| address.is_ipv4() == ipv4).unwrap()
}

/// Returns the number of packets dropped at both hooks for a reason.
pub fn dropped(lab: &Lab, reason: DropReason) -> u64 {
    let counters = CounterReader::open(lab.agent.pin_path()).unwrap();
    Direction::ALL
        .into_iter()
        .map(|direction| counters.read(direction).unwrap().dropped(reason).packets)
        .sum()
}

/// Returns the number of packets dropped at both hooks for any reason.
pub fn all_dropped(lab: &Lab) -> u64 {
    DropReason::ALL
        .into_iter()
        .map(|reason| dropped(lab, reason))
        .sum()
}

/// Waits until this many were dropped for a reason.
pub fn wait_for_drops(lab: &Lab, reason: DropReason, count: u64) {
    let until = Instant::now() + LONG;
    while dropped(lab, reason) < count {
        assert!(
            Instant::now() < until,
            "{reason:?}: {} of {count} were dropped",
            dropped(lab, reason)
        );
        std::thread::yield_now();
    }
}

/// Opens a packet socket at a pod's or the outside's end, or at the node's bridge.
pub fn wire(lab: &Lab, site: &str) -> Wire {
    let device = if site == "node" { "cni0" } else { "eth0" };
    Wire::open(&lab.site(site).unwrap().netns, device).unwrap()
}

/// Opens a UDP socket at an address of a site.
pub fn udp_at(site: &Site, address: IpAddr, port: u16) -> UdpSocket {
    let bound = site
        .netns
        .run(|| Ok(UdpSocket::bind(SocketAddr::new(address, port))?));
    let socket = bound.unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Waits a moment: the pace of a stream of packets.
#[expect(
    clippy::disallowed_methods,
    reason = "packets a second: there is no event to wait for"
)]
pub fn tick() {
    std::thread::sleep(Duration::from_millis(2));
}
