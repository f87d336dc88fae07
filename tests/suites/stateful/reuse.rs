// SPDX-License-Identifier: Apache-2.0
//! Reused addresses and ports: their new owner inherits nothing (rules C3, C1).

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    time::Instant,
};

use netpol_common::{
    abi::DropReason,
    flow::{ACK, SYN},
};
use netpol_tests::{
    lab::Lab,
    node::Site,
    probe::Outcome,
    raw::{self, Wire},
};
use nix::{
    libc,
    sys::{
        socket::{
            AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
        },
        time::{TimeVal, TimeValLike},
    },
};

use crate::shared::{LONG, PATIENCE, dropped, lab, of_family, policy, udp_at, wait_for_drops, wire};

const OPEN: &str = "ingress: [{}]\n  egress: [{}]";

/// Opens a TCP connection from a fixed port. Silence is an error of kind `WouldBlock`.
pub fn connect_from(site: &Site, from: SocketAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let connected = site.netns.run(|| {
        let family = if from.is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        setsockopt(&fd, sockopt::SendTimeout, &TimeVal::milliseconds(600))?;
        bind(fd.as_raw_fd(), &SockaddrStorage::from(from))?;
        let connected = connect(fd.as_raw_fd(), &SockaddrStorage::from(to));
        Ok(connected.map(|()| TcpStream::from(fd)))
    });
    connected.unwrap().map_err(|error| match error {
        nix::Error::EINPROGRESS => ErrorKind::WouldBlock.into(),
        other => other.into(),
    })
}

pub fn exchange(stream: &mut TcpStream, accepted: &mut TcpStream) {
    stream.set_read_timeout(Some(LONG)).unwrap();
    accepted.set_read_timeout(Some(LONG)).unwrap();
    let mut buffer = [0; 4];
    stream.write_all(b"ping").unwrap();
    accepted.read_exact(&mut buffer).unwrap();
    accepted.write_all(b"pong").unwrap();
    stream.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"pong");
}

/// Returns true if a packet with these ports comes to an address.
fn comes(at: &Wire, to: IpAddr, ports: (u16, u16)) -> bool {
    let is_it = |packet: &[u8]| {
        let [source, destination] = [ports.0.to_be_bytes(), ports.1.to_be_bytes()];
        raw::addresses(packet).is_some_and(|(_, destination)| destination == to)
            && raw::payload(packet).starts_with(&[source, destination].concat())
    };
    at.listen(PATIENCE, is_it)
        .unwrap()
        .iter()
        .any(|packet| is_it(packet))
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Fin,
    Rst,
}

#[test]
fn c1_a_port_that_is_used_again_after_fin_or_rst_starts_a_new_flow() {
    let (open, closed) = (
        policy("a", "app: a", "egress: [{}]"),
        policy("a", "app: a", "egress: []"),
    );
    let Some(lab) = lab(&[("a.yaml", &open)]) else {
        return;
    };
    let (client, server) = (lab.site("shop/a").unwrap(), lab.site("shop/b").unwrap());
    let at_server = wire(&lab, "shop/b");
    for (number, (ipv4, end)) in [
        (true, End::Fin),
        (true, End::Rst),
        (false, End::Fin),
        (false, End::Rst),
    ]
    .into_iter()
    .enumerate()
    {
        let port = 40_000 + number as u16;
        let from = SocketAddr::new(of_family(&client, ipv4), port);
        let to = SocketAddr::new(of_family(&server, ipv4), 7000);
        let listener = server.netns.run(|| Ok(TcpListener::bind(to)?)).unwrap();
        let mut stream = connect_from(&client, from, to).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        exchange(&mut stream, &mut accepted);
        let mut rest = [0; 1];
        match end {
            End::Fin => {
                // The server ends first, so that the client's port is free at once.
                accepted.shutdown(std::net::Shutdown::Write).unwrap();
                assert_eq!(stream.read(&mut rest).unwrap(), 0);
                drop(stream);
                assert_eq!(accepted.read(&mut rest).unwrap(), 0);
            }
            End::Rst => {
                let at_once = libc::linger {
                    l_onoff: 1,
                    l_linger: 0,
                };
                setsockopt(&stream, sockopt::Linger, &at_once).unwrap();
                drop(stream);
                let reset = accepted.read(&mut rest).unwrap_err();
                assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
            }
        }
        drop(accepted);

        // In the opposite direction, with the same addresses and ports: the pod is isolated for
        // ingress.
        let at_client = wire(&lab, "shop/a");
        let before = dropped(&lab, DropReason::Policy);
        let syn = raw::tcp(to.ip(), from.ip(), (7000, port), SYN);
        at_server
            .send(at_client.mac(), &raw::ip(to.ip(), from.ip(), 6, &syn, None))
            .unwrap();
        wait_for_drops(&lab, DropReason::Policy, before + 1);
        assert!(
            !comes(&at_client, from.ip(), (7000, port)),
            "{end:?}: the SYN of the other side"
        );

        lab.apply("a.yaml", &closed).unwrap();
        let at_server_now = wire(&lab, "shop/b");
        let silent = connect_from(&client, from, to).map_err(|error| error.kind());
        assert!(
            matches!(silent, Err(ErrorKind::WouldBlock)),
            "{end:?}: {silent:?}"
        );
        assert!(!comes(&at_server_now, to.ip(), (port, 7000)), "{end:?}");

        lab.apply("a.yaml", &open).unwrap();
        let mut stream = connect_from(&client, from, to).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        exchange(&mut stream, &mut accepted);
    }
}

/// Makes a lab with an additional pod `shop/x`.
fn lab_with_x(policies: &[(&str, &str)]) -> Option<Lab> {
    let mut lab = lab(policies)?;
    lab.add_pod("shop/x", "app: x").unwrap();
    Some(lab)
}

/// Replaces `shop/x` by another pod.
fn swap(lab: &mut Lab, label: &str) -> Site {
    let start = Instant::now();
    let site = lab.replace_pod("shop/x", "shop/next", label).unwrap();
    println!("removed, made again and applied within {:?}", start.elapsed());
    // The new interface has another MAC address.
    for place in ["shop/a", "shop/b"] {
        let netns = lab.site(place).unwrap().netns;
        netns.ip("neigh flush dev eth0\n").unwrap();
    }
    lab.node.netns().ip("neigh flush dev cni0\n").unwrap();
    site
}

fn asks(socket: &UdpSocket, to: SocketAddr) -> bool {
    socket.send_to(&[9; 8], to).unwrap();
    socket.recv_from(&mut [0; 64]).is_ok()
}

#[test]
fn c3_a_pod_with_a_used_address_inherits_no_flow_as_a_server() {
    let x = policy("x", "app: x", OPEN);
    let next = policy("next", "app: next", "ingress: []");
    let Some(mut lab) = lab_with_x(&[("x.yaml", &x), ("next.yaml", &next)]) else {
        return;
    };
    let (peer, server) = (lab.site("shop/b").unwrap(), lab.site("shop/x").unwrap());
    let sockets = [true, false].map(|ipv4| {
        let socket = udp_at(&peer, of_family(&peer, ipv4), 6000);
        let to = SocketAddr::new(of_family(&server, ipv4), 5353);
        assert!(asks(&socket, to));
        let from = SocketAddr::new(of_family(&peer, ipv4), 6001);
        let tcp = connect_from(&peer, from, SocketAddr::new(to.ip(), 8080)).unwrap();
        (socket, to, tcp)
    });
    let newcomer = swap(&mut lab, "app: next");
    let at_newcomer = wire(&lab, "shop/next");
    let at_peer = wire(&lab, "shop/b");
    for (socket, to, tcp) in &sockets {
        assert!(!asks(socket, *to), "the flow of the pod before");
        assert!(!comes(&at_newcomer, to.ip(), (6000, 5353)));
        // For its client, the connection is still open.
        let from = tcp.local_addr().unwrap();
        let before = dropped(&lab, DropReason::Policy);
        let ack = raw::tcp(from.ip(), to.ip(), (6001, 8080), ACK);
        at_peer
            .send(at_newcomer.mac(), &raw::ip(from.ip(), to.ip(), 6, &ack, None))
            .unwrap();
        wait_for_drops(&lab, DropReason::Policy, before + 1);
        assert!(!comes(&at_newcomer, to.ip(), (6001, 8080)));
    }
    assert_eq!(newcomer.addresses, server.addresses);
    lab.expect("node", "shop/next", &Outcome::Reached);
}

#[test]
fn c3_a_pod_with_a_used_address_inherits_no_flow_and_no_identity_as_a_client() {
    let only_x = "ingress: [{from: [{podSelector: {matchLabels: {app: x}}}]}]\n  egress: [{}]";
    let Some(mut lab) = lab_with_x(&[("b.yaml", &policy("b", "app: b", only_x))]) else {
        return;
    };
    let (client, server) = (lab.site("shop/x").unwrap(), lab.site("shop/b").unwrap());
    for ipv4 in [true, false] {
        let socket = udp_at(&client, of_family(&client, ipv4), 6000);
        assert!(asks(&socket, SocketAddr::new(of_family(&server, ipv4), 5353)));
    }
    lab.expect("shop/x", "shop/b", &Outcome::Reached);
    let newcomer = swap(&mut lab, "app: next");
    let at_server = wire(&lab, "shop/b");
    for ipv4 in [true, false] {
        let socket = udp_at(&newcomer, of_family(&newcomer, ipv4), 6000);
        let to = SocketAddr::new(of_family(&server, ipv4), 5353);
        assert!(!asks(&socket, to), "the flow of the pod before");
        assert!(!comes(&at_server, to.ip(), (6000, 5353)));
    }
    lab.expect("shop/next", "shop/b", &Outcome::Silent);
    lab.expect("shop/b", "shop/next", &Outcome::Reached);
    lab.label("shop/next", "app: x").unwrap();
    lab.expect("shop/next", "shop/b", &Outcome::Reached);
}
