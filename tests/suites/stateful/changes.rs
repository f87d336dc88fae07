// SPDX-License-Identifier: Apache-2.0
//! An open connection that is no longer allowed stops, idle or busy, and continues when it is
//! allowed again (rule C2).

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use netpol_tests::{lab::Lab, node::Site, raw};

use crate::shared::{LONG, PATIENCE, lab, of_family, policy, tick, udp_at, wire};

#[test]
fn c2_connections_that_the_pod_opened_stop_and_come_back() {
    let allowed = policy(
        "a",
        "app: a",
        "egress: [{to: [{podSelector: {matchLabels: {app: b}}}]}]",
    );
    stop_and_come_back("shop/a", "shop/b", &allowed, CHANGES[0]);
}

#[test]
fn c2_connections_that_the_pod_accepted_stop_and_come_back() {
    let allowed = policy(
        "a",
        "app: a",
        "ingress: [{from: [{podSelector: {matchLabels: {app: b}}}]}]",
    );
    stop_and_come_back("shop/b", "shop/a", &allowed, CHANGES[0]);
}

#[test]
fn c2_connections_stop_when_their_peer_is_relabelled() {
    for (from, to, rule) in [
        ("shop/a", "shop/b", "egress: [{to"),
        ("shop/b", "shop/a", "ingress: [{from"),
    ] {
        let rules = format!("{rule}: [{{podSelector: {{matchLabels: {{app: b}}}}}}]}}]");
        stop_and_come_back(from, to, &policy("a", "app: a", &rules), CHANGES[1]);
    }
}

/// Denies the connection, or allows it again.
type Change = fn(&mut Lab, &str, bool);

const CHANGES: [Change; 2] = [
    |lab, allowed, allow| {
        let denied = policy("a", "app: a", "ingress: []");
        lab.apply("a.yaml", if allow { allowed } else { &denied })
            .unwrap();
    },
    // The policy stays, with its number: only the meaning of the address changes.
    |lab, _, allow| {
        lab.label("shop/b", if allow { "app: b" } else { "app: other" })
            .unwrap()
    },
];

/// Opens a TCP connection.
fn open(from: &Site, to: &Site, address: IpAddr, port: u16) -> (TcpStream, TcpStream) {
    let address = SocketAddr::new(address, port);
    let listener = to.netns.run(|| Ok(TcpListener::bind(address)?)).unwrap();
    let stream = from
        .netns
        .run(|| Ok(TcpStream::connect_timeout(&address, LONG)?))
        .unwrap();
    (stream, listener.accept().unwrap().0)
}

/// Returns true if data on an idle connection arrives.
fn says(from: &mut TcpStream, to: &mut TcpStream, patience: Duration) -> bool {
    from.write_all(b"word").unwrap();
    to.set_read_timeout(Some(patience)).unwrap();
    to.read_exact(&mut [0; 4]).is_ok()
}

/// Streams of numbers, until stopped.
struct Busy {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Busy {
    fn new() -> Self {
        Self {
            stop: Arc::default(),
            received: Arc::default(),
            threads: Vec::new(),
        }
    }

    /// Sends numbers over TCP, one by one, which must all arrive in order.
    fn tcp(mut from: TcpStream, mut to: TcpStream) -> Self {
        let mut busy = Self::new();
        from.set_nodelay(true).unwrap();
        let stop = Arc::clone(&busy.stop);
        busy.threads.push(thread::spawn(move || {
            for number in 0u64.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                from.write_all(&number.to_be_bytes()).unwrap();
                tick();
            }
        }));
        let received = Arc::clone(&busy.received);
        to.set_read_timeout(None).unwrap();
        busy.threads.push(thread::spawn(move || {
            let mut number = [0; 8];
            while to.read_exact(&mut number).is_ok() {
                let expected = received.fetch_add(1, Ordering::Relaxed);
                assert_eq!(u64::from_be_bytes(number), expected, "lost over TCP");
            }
        }));
        busy
    }

    fn udp(from: UdpSocket, to: UdpSocket) -> Self {
        let mut busy = Self::new();
        from.connect(to.local_addr().unwrap()).unwrap();
        let stop = Arc::clone(&busy.stop);
        busy.threads.push(thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                from.send(&[7; 8]).unwrap();
                tick();
            }
        }));
        let (stop, received) = (Arc::clone(&busy.stop), Arc::clone(&busy.received));
        busy.threads.push(thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if to.recv(&mut [0; 8]).is_ok() {
                    received.fetch_add(1, Ordering::Relaxed);
                }
            }
        }));
        busy
    }

    /// Waits until more arrive.
    fn goes_on(&self, what: &str) {
        let before = self.received.load(Ordering::Relaxed);
        let until = Instant::now() + LONG;
        while self.received.load(Ordering::Relaxed) < before + 50 {
            assert!(Instant::now() < until, "{what}: nothing comes");
            thread::yield_now();
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            assert!(thread.join().is_ok() || thread::panicking());
        }
    }
}

/// `allowed` isolates `shop/a` in both directions and allows traffic from `from` to `to`.
fn stop_and_come_back(from: &str, to: &str, allowed: &str, change: Change) {
    let Some(mut lab) = lab(&[("a.yaml", allowed)]) else {
        return;
    };
    let (client, server) = (lab.site(from).unwrap(), lab.site(to).unwrap());
    for ipv4 in [true, false] {
        let (here, there) = (of_family(&client, ipv4), of_family(&server, ipv4));
        let (mut asker, mut answerer) = open(&client, &server, there, 7000);
        let (mut quiet, mut listener) = open(&client, &server, there, 7001);
        let (idle, idle_server) = (udp_at(&client, here, 6000), udp_at(&server, there, 7002));
        let streams = open(&client, &server, there, 7003);
        let tcp = Busy::tcp(streams.0, streams.1);
        let udp = Busy::udp(udp_at(&client, here, 6001), udp_at(&server, there, 7004));
        // The side that accepted sends.
        let streams = open(&client, &server, there, 7005);
        let answers = Busy::tcp(streams.1, streams.0);
        let mut word = [0; 8];
        assert!(says(&mut asker, &mut answerer, LONG) && says(&mut quiet, &mut listener, LONG));
        idle.send_to(b"word", SocketAddr::new(there, 7002)).unwrap();
        assert!(idle_server.recv(&mut word).is_ok());
        for busy in [&tcp, &udp, &answers] {
            busy.goes_on("at first");
        }

        change(&mut lab, allowed, false);
        let silence = silence_between(&lab, [from, to], [here, there]);
        assert!(
            !says(&mut asker, &mut answerer, PATIENCE),
            "an idle TCP connection"
        );
        assert!(!says(&mut answerer, &mut asker, PATIENCE), "the other way");
        idle.send_to(b"word", SocketAddr::new(there, 7002)).unwrap();
        assert!(idle_server.recv(&mut word).is_err(), "idle UDP");
        // As a reply on the open connection.
        idle_server.send_to(b"word", SocketAddr::new(here, 6000)).unwrap();
        assert!(idle.recv(&mut word).is_err(), "idle UDP, the other way");
        silence();

        change(&mut lab, allowed, true);
        for (busy, what) in [(&tcp, "TCP"), (&udp, "UDP"), (&answers, "TCP, answers")] {
            busy.goes_on(what);
        }
        assert!(
            says(&mut quiet, &mut listener, LONG),
            "one that was silent meanwhile"
        );
        assert!(says(&mut listener, &mut quiet, LONG), "and its answer");
        // Data that was sent while it was denied comes late, but it comes.
        answerer.set_read_timeout(Some(LONG)).unwrap();
        asker.set_read_timeout(Some(LONG)).unwrap();
        answerer.read_exact(&mut [0; 4]).unwrap();
        asker.read_exact(&mut [0; 4]).unwrap();
        idle.send_to(b"word", SocketAddr::new(there, 7002)).unwrap();
        assert!(idle_server.recv(&mut word).is_ok(), "idle UDP comes back");
        for busy in [tcp, udp, answers] {
            busy.stop.store(true, Ordering::Relaxed);
        }
    }
}

/// Watches both ends from now on. The returned closure asserts that neither received a packet of
/// the other.
fn silence_between(lab: &Lab, sites: [&str; 2], addresses: [IpAddr; 2]) -> impl FnOnce() {
    let wires = sites.map(|site| wire(lab, site));
    move || {
        for (index, wire) in wires.iter().enumerate() {
            let foreign = (addresses[1 - index], addresses[index]);
            let packets = wire.listen(PATIENCE / 4, |_| false).unwrap();
            assert!(!packets.is_empty(), "the busy streams try");
            let count = packets
                .iter()
                .filter(|packet| raw::addresses(packet) == Some(foreign))
                .count();
            assert_eq!(count, 0, "packets of a connection that is not allowed any more");
        }
    }
}
