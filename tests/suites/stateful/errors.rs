// SPDX-License-Identifier: Apache-2.0
//! ICMP errors: those about a pod's own connections reach it, from any router on the way; others do
//! not (rule C1).

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::Arc,
    thread,
    time::Instant,
};

use netpol_common::abi::DropReason;
use netpol_tests::{
    lab::Lab,
    netns::NetNs,
    node::Site,
    probe::{Outcome, Service, hold},
    raw,
};

use crate::shared::{LONG, PATIENCE, dropped, lab, of_family, policy, udp_at, wire};

/// The pod may send to these ports only, and may receive nothing.
const BY_PORT: &str =
    "egress: [{ports: [{port: 8080}, {protocol: UDP, port: 9}, {protocol: UDP, port: 5353}]}]";
/// The narrow link's MTU.
const MTU: u16 = 1300;
const FAR: [&str; 2] = ["192.0.2.77", "2001:db8:9::77"];

/// Makes a host behind the outside, which is its router. The link's MTU is small only on the way
/// there: the host itself does not know it.
fn far_host(lab: &Lab) -> Site {
    let outside = lab.node.outside().netns;
    let far = NetNs::create(&format!("{}far", lab.node.prefix())).unwrap();
    outside
        .sysctl(&[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv4/conf/all/rp_filter", "0"),
        ])
        .unwrap();
    let name = far.name();
    outside
        .ip(&format!(
            "link add far0 type veth peer name eth0 netns {name}\nlink set far0 mtu {MTU} up\n\
             addr add 192.0.2.1/24 dev far0\naddr add 2001:db8:9::1/64 dev far0 nodad\n"
        ))
        .unwrap();
    far.ip(&format!(
        "link set eth0 up\naddr add {}/24 dev eth0\naddr add {}/64 dev eth0 nodad\n\
         route add 0.0.0.0/0 via 192.0.2.1\nroute add ::/0 via 2001:db8:9::1\n",
        FAR[0], FAR[1]
    ))
    .unwrap();
    Site {
        name: "far".to_owned(),
        netns: Arc::new(far),
        addresses: FAR.iter().map(|address| address.parse().unwrap()).collect(),
    }
}

fn path_mtu_is_known(pod: &Site, to: IpAddr) -> bool {
    let shown = pod.netns.run(|| {
        let mut ip = Command::new("ip");
        Ok(ip.args(["route", "get", &to.to_string()]).output()?)
    });
    String::from_utf8_lossy(&shown.unwrap().stdout).contains(&format!("mtu {MTU}"))
}

#[test]
fn c1_path_mtu_discovery_works_for_an_isolated_pod() {
    const SIZE: usize = 1 << 20;
    let Some(lab) = lab(&[("a.yaml", &policy("a", "app: a", BY_PORT))]) else {
        return;
    };
    let far = far_host(&lab);
    let pod = lab.site("shop/a").unwrap();
    for ipv4 in [true, false] {
        let to = of_family(&far, ipv4);
        let listener = far
            .netns
            .run(|| Ok(TcpListener::bind(SocketAddr::new(to, 8080))?))
            .unwrap();
        // The router's errors are kept from the pod: nothing gets through.
        let node = lab.node.netns();
        let keep_errors = "table inet errors { chain forward { type filter hook forward priority 0; \
                           icmp type destination-unreachable drop; icmpv6 type packet-too-big drop; }; }\n";
        node.feed("nft", &["-f", "-"], keep_errors).unwrap();
        let stream = pod
            .netns
            .run(|| Ok(TcpStream::connect_timeout(&SocketAddr::new(to, 8080), LONG)?));
        let mut stream = stream.unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        let sender = thread::spawn(move || stream.write_all(&vec![7; SIZE]));
        accepted.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut received = vec![0; SIZE];
        let stuck = accepted.read(&mut received).map_err(|error| error.kind());
        assert!(
            matches!(stuck, Err(ErrorKind::WouldBlock)),
            "the link is not narrow: {stuck:?}"
        );
        assert!(!path_mtu_is_known(&pod, to));

        node.feed("nft", &["-f", "-"], "delete table inet errors\n")
            .unwrap();
        let start = Instant::now();
        accepted.set_read_timeout(Some(LONG)).unwrap();
        accepted.read_exact(&mut received).unwrap();
        sender.join().unwrap().unwrap();
        assert!(received.iter().all(|&byte| byte == 7));
        assert!(path_mtu_is_known(&pod, to), "the pod did not learn it");
        println!(
            "{SIZE} bytes to {to} once errors were let in: {:?}",
            start.elapsed()
        );
    }
    lab.expect("outside", "shop/a", &Outcome::Silent);
}

#[test]
fn c1_a_closed_udp_port_refuses_what_was_allowed_only() {
    let answers = policy("b", "app: b", "ingress: [{ports: [{protocol: UDP, port: 9}]}]");
    let Some(lab) = lab(&[("a.yaml", &policy("a", "app: a", BY_PORT)), ("b.yaml", &answers)]) else {
        return;
    };
    for to in ["outside", "shop/b", "other/c"] {
        for (port, expected) in [(9, Outcome::Refused), (10, Outcome::Silent)] {
            let probes = lab.probes("shop/a", to, &[Service::Udp(port)]).unwrap();
            let outcomes = lab.prober.probe(&probes).unwrap();
            hold("a closed port", &probes, &outcomes, &expected);
        }
    }
}

#[test]
fn c1_forged_errors_do_not_reach_an_isolated_pod() {
    let Some(lab) = lab(&[("a.yaml", &policy("a", "app: a", BY_PORT))]) else {
        return;
    };
    let [pod, other, forger] = ["shop/a", "shop/b", "other/c"].map(|name| lab.site(name).unwrap());
    let (at_pod, at_forger) = (wire(&lab, "shop/a"), wire(&lab, "other/c"));
    for ipv4 in [true, false] {
        let [a, b, c, far] = [&pod, &other, &forger, &lab.node.outside()].map(|site| of_family(site, ipv4));
        let ask = |site: &Site, from: IpAddr| {
            let socket = udp_at(site, from, 0);
            socket.send_to(&[0; 8], SocketAddr::new(far, 5353)).unwrap();
            let (length, _) = socket.recv_from(&mut [0; 64]).unwrap();
            assert!(length > 8, "answered");
            socket
        };
        let (own, others) = (ask(&pod, a), ask(&other, b));
        let [own_port, others_port] = [&own, &others].map(|socket| socket.local_addr().unwrap().port());
        let quote = |from: IpAddr, to: IpAddr, ports: (u16, u16)| {
            raw::ip(from, to, 17, &raw::udp(from, to, ports, b"what was asked"), None)
        };
        let send = |quoted: &[u8]| {
            let (protocol, error) = raw::unreachable(c, a, quoted);
            let packet = raw::ip(c, a, protocol, &error, None);
            at_forger.send(at_pod.mac(), &packet).unwrap();
            error
        };
        let before = dropped(&lab, DropReason::Policy);
        let forged = [
            ("another's connection", quote(b, far, (others_port, 5353))),
            ("another's port", quote(a, far, (others_port, 5353))),
            ("no connection", quote(a, far, (own_port, 5354))),
            ("no connection of that address", quote(a, c, (own_port, 5353))),
            ("what the pod received", quote(far, a, (5353, own_port))),
            ("nothing", Vec::new()),
            ("half a header", quote(a, far, (own_port, 5353))[..16].to_vec()),
        ];
        let errors = forged.map(|(what, quoted)| (what, send(&quoted)));
        // A router on the way may have any address. If its error matches the connection, it is
        // believed, also by the kernel.
        let genuine = send(&quote(a, far, (own_port, 5353)));
        let arrived = at_pod
            .listen(LONG, |packet| raw::payload(packet) == genuine)
            .unwrap();
        let seen = |error: &[u8]| arrived.iter().any(|packet| raw::payload(packet) == error);
        assert!(
            seen(&genuine),
            "what is about its own connection does not reach it"
        );
        for (what, error) in &errors {
            assert!(!seen(error), "an error about {what} reached the pod");
        }
        let counted = dropped(&lab, DropReason::Policy) - before;
        assert!(
            counted >= errors.len() as u64,
            "{counted} of {} dropped",
            errors.len()
        );
    }
}
