// SPDX-License-Identifier: Apache-2.0
//! Connections that kube-proxy's translation keeps alive after their backend has left the Service
//! (rules A5, C2): its rules do not remove entries of the kernel's connection tracking. And stray
//! segments, which connection tracking picks up.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    os::fd::AsRawFd as _,
};

use netpol_tests::{
    probe::{Outcome, PATIENCE, Probe, Prober, Service},
    two_nodes::Cluster,
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, setsockopt,
            socket, sockopt,
        },
        time::{TimeVal, TimeValLike as _},
    },
};

use crate::{egress::all_frontends, for_each_mode, shared::egress};

const TO_ALL_PODS: &str = "{to: [{podSelector: {}}]}";

/// Returns TCP probes of every frontend except the other node's, if the backend is chosen there.
fn by_tcp(cluster: &Cluster, service: &str, backend: &str) -> Vec<Probe> {
    let mut probes = all_frontends(cluster, "client", service, backend);
    let elsewhere = cluster
        .to_node_port("client", service, "node-b", backend)
        .unwrap();
    let elsewhere: Vec<String> = elsewhere.iter().map(ToString::to_string).collect();
    probes
        .retain(|probe| matches!(probe.service, Service::Tcp(_)) && !elsewhere.contains(&probe.to_string()));
    probes
}

/// A backend is denied and replaced at once, as when a pod's labels change: its open connections
/// end, on either node.
fn a5_c2_a_backend_that_was_replaced_and_is_denied_loses_its_connections(cluster: &mut Cluster) {
    cluster.set_policies(&[egress("client", TO_ALL_PODS)]).unwrap();
    let mut probes = by_tcp(cluster, "near", "web-a");
    probes.extend(by_tcp(cluster, "distant", "web-b"));
    let prober = Prober::new().unwrap();
    let mut open: Vec<_> = probes
        .iter()
        .map(|probe| prober.converse(probe).unwrap())
        .collect();
    for (open, probe) in open.iter_mut().zip(&probes) {
        assert_eq!(open.ask(PATIENCE), Outcome::Reached, "before: {probe}");
    }
    let only_bad = "{to: [{podSelector: {matchLabels: {app: bad}}}]}";
    cluster.set_policies(&[egress("client", only_bad)]).unwrap();
    cluster.set_backends("near", &["bad-a"]).unwrap();
    cluster.set_backends("distant", &["bad-b"]).unwrap();
    let still: Vec<String> = open
        .iter_mut()
        .zip(&probes)
        .filter_map(|(open, probe)| {
            let found = open.ask(PATIENCE);
            (found != Outcome::Silent).then(|| format!("{probe}: {found:?}"))
        })
        .collect();
    assert!(
        still.is_empty(),
        "denied and no backend any more:\n{}",
        still.join("\n")
    );
}

for_each_mode!(a5_c2_a_backend_that_was_replaced_and_is_denied_loses_its_connections);

/// Returns true if a stray TCP segment with only ACK is answered by a reset of its receiver.
fn is_reset(cluster: &Cluster, from: &str, port: u16, to: (Ipv4Addr, u16)) -> bool {
    let site = cluster.site(from).unwrap();
    let IpAddr::V4(source) = site.addresses[0] else {
        panic!("{from} has no IPv4 address first")
    };
    let answered = || {
        let raw = socket(
            AddressFamily::Inet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::Tcp,
        )?;
        let patience = TimeVal::milliseconds(300);
        setsockopt(&raw, sockopt::ReceiveTimeout, &patience)?;
        let segment = acknowledgement((source, port), to);
        let address = SockaddrIn::from(SocketAddrV4::new(to.0, 0));
        sendto(raw.as_raw_fd(), &segment, &address, MsgFlags::empty())?;
        let mut packet = [0; 128];
        loop {
            match recv(raw.as_raw_fd(), &mut packet, MsgFlags::empty()) {
                Ok(length) if length >= 40 => {
                    let tcp = &packet[20..];
                    let ours = tcp[..2] == to.1.to_be_bytes() && tcp[2..4] == port.to_be_bytes();
                    if ours && tcp[13] & RST != 0 {
                        return Ok(true);
                    }
                }
                Ok(_) => {}
                Err(Errno::EAGAIN) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
    };
    site.netns.run(answered).unwrap()
}

const RST: u8 = 0x04;
const ACK: u8 = 0x10;

fn acknowledgement(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> [u8; 20] {
    let mut segment = [0; 20];
    segment[..2].copy_from_slice(&from.1.to_be_bytes());
    segment[2..4].copy_from_slice(&to.1.to_be_bytes());
    segment[4..12].copy_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1]);
    segment[12..16].copy_from_slice(&[5 << 4, ACK, 0xff, 0xff]);
    let pseudo = [from.0.octets(), to.0.octets(), [0, 6, 0, 20]].concat();
    let words = pseudo.chunks(2).chain(segment.chunks(2));
    let mut sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    segment[16..18].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    segment
}

/// Connection tracking picks up a connection in the middle and translates it like a new one, so
/// every segment must be judged.
fn a5_a_segment_that_opens_nothing_reaches_no_denied_backend(cluster: &mut Cluster) {
    cluster.set_policies(&[egress("client", "")]).unwrap();
    for (service, backend) in [("near", "web-a"), ("distant", "web-b")] {
        let probes = cluster.to_node_port("bad-a", service, "node-a", backend).unwrap();
        let (IpAddr::V4(node), Service::Tcp(port)) = (probes[0].destination, probes[0].service) else {
            panic!("{} is not TCP over IPv4", probes[0])
        };
        let asked = |from: &str| {
            let mut ports = 45_000..45_005;
            ports.any(|source| is_reset(cluster, from, source, (node, port)))
        };
        assert!(asked("bad-a"), "{service}: a pod that is not isolated");
        assert!(!asked("client"), "{service}: egress isolated");
    }
}

for_each_mode!(a5_a_segment_that_opens_nothing_reaches_no_denied_backend);
