// SPDX-License-Identifier: Apache-2.0
//! A connection that stays allowed loses no packet, whatever changes around it (rules C2, B4, B3),
//! by the number in every packet.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use netpol_tests::{lab::Lab, node::Site};
use nix::sys::socket::{setsockopt, sockopt};

use crate::shared::{LONG, all_dropped, lab, of_family, policy, tick, udp_at};

/// Changes that are applied while the streams run.
const UPDATES: u64 = 2000;
/// Packets that each stream sends per tick.
const BURST: u64 = 2;
/// Longest pause of a stream that the end of the test waits for.
const QUIET: Duration = Duration::from_secs(2);

/// Different rules that allow the same.
const WAYS: [&str; 5] = [
    "ingress: [{from: [{podSelector: {matchLabels: {role: PEER}}}]}]\n  egress: [{to: [{podSelector: {matchLabels: {role: PEER}}}]}]",
    "ingress: [{}]\n  egress: [{}]",
    "ingress: [{from: [{ipBlock: {cidr: 10.244.0.0/24}}, {ipBlock: {cidr: \"fd00:10:244::/64\"}}]}]\n  \
     egress: [{to: [{ipBlock: {cidr: 10.244.0.0/24}}, {ipBlock: {cidr: \"fd00:10:244::/64\"}}]}]",
    "ingress: [{ports: [{protocol: UDP, port: 7000}, {port: 1024, endPort: 9000}]}]\n  \
     egress: [{ports: [{protocol: UDP, port: 7000}, {port: 1024, endPort: 9000}]}]",
    "ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}}}]}]\n  \
     egress: [{to: [{namespaceSelector: {}, podSelector: {matchExpressions: [{key: role, operator: Exists}]}}]}]",
];

struct Stream {
    sent: AtomicU64,
    received: AtomicU64,
}

/// Sends numbered datagrams until stopped.
fn udp<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    stop: &'scope AtomicBool,
    stream: &'scope Stream,
    [from, to]: [&'scope Site; 2],
    ipv4: bool,
) {
    let (here, there) = (of_family(from, ipv4), of_family(to, ipv4));
    let (sender, receiver) = (udp_at(from, here, 0), udp_at(to, there, 7000));
    sender.connect(SocketAddr::new(there, 7000)).unwrap();
    // Room for what comes while the receiver does not run.
    setsockopt(&receiver, sockopt::RcvBufForce, &(64 << 20)).unwrap();
    scope.spawn(move || {
        let mut number = 0u64;
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..BURST {
                sender.send(&number.to_be_bytes()).unwrap();
                number += 1;
            }
            stream.sent.store(number, Ordering::Relaxed);
            tick();
        }
    });
    scope.spawn(move || {
        receiver.set_read_timeout(Some(QUIET)).unwrap();
        let mut number = [0; 8];
        let mut seen = std::collections::BTreeSet::new();
        loop {
            match receiver.recv(&mut number) {
                Ok(_) => {
                    seen.insert(u64::from_be_bytes(number));
                    stream.received.store(seen.len() as u64, Ordering::Relaxed);
                }
                Err(_) if stop.load(Ordering::Relaxed) => return,
                Err(_) => {}
            }
        }
    });
}

/// Does the same over one TCP connection.
fn tcp<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    stop: &'scope AtomicBool,
    stream: &'scope Stream,
    [from, to]: [&'scope Site; 2],
    ipv4: bool,
) {
    let address: SocketAddr = SocketAddr::new(of_family(to, ipv4), 7000);
    let listener = to.netns.run(|| Ok(TcpListener::bind(address)?)).unwrap();
    let connected = from.netns.run(|| Ok(TcpStream::connect_timeout(&address, LONG)?));
    let mut sender = connected.unwrap();
    sender.set_nodelay(true).unwrap();
    let (mut receiver, _) = listener.accept().unwrap();
    scope.spawn(move || {
        let mut number = 0u64;
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..BURST {
                sender.write_all(&number.to_be_bytes()).unwrap();
                number += 1;
            }
            stream.sent.store(number, Ordering::Relaxed);
            tick();
        }
    });
    scope.spawn(move || {
        let mut number = [0; 8];
        while receiver.read_exact(&mut number).is_ok() {
            let expected = stream.received.fetch_add(1, Ordering::Relaxed);
            assert_eq!(u64::from_be_bytes(number), expected);
        }
    });
}

/// Makes a change of one of many kinds. What the streams need stays allowed.
fn change(lab: &mut Lab, number: u64) {
    let turn = number / 5 + 1;
    let way = |offset: u64| WAYS[((turn + offset) % WAYS.len() as u64) as usize];
    match number % 5 {
        // Another rule allows it; each isolated pod stays isolated in both directions.
        0 => lab.apply("a.yaml", &policy("a", "app: a", &way(0).replace("PEER", "peer"))),
        1 => lab.apply("b.yaml", &policy("b", "app: b", &way(2).replace("PEER", "peer"))),
        // Others' policies, which move the streams' addresses to other classes, or unused
        // addresses.
        2 => {
            let [low, high] = [turn % 200, turn % 7];
            let rules = format!(
                "ingress: [{{from: [{{ipBlock: {{cidr: 10.244.0.{}/32}}}}, {{ipBlock: {{cidr: \"fd00:10:244::{:x}/128\"}}}}, \
                 {{ipBlock: {{cidr: 203.0.{low}.0/24, except: [203.0.{low}.{high}/32]}}}}]}}]",
                10 + turn % 2,
                10 + turn % 2,
            );
            lab.apply("d.yaml", &policy("d", "app: d", &rules))
        }
        // Others' labels.
        3 => lab.label("other/c", &format!("app: c, turn: \"{}\"", turn % 3)),
        // Their own labels, as far as no rule needs them.
        _ => lab.label("shop/b", &format!("app: b, role: peer, turn: \"{}\"", turn % 2)),
    }
    .unwrap();
}

/// Returns the agent's log lines about dropped packets since its last start.
fn drop_lines(lab: &Lab) -> Vec<String> {
    let log = lab.agent.log();
    let lines = log.lines().filter(|line| line.contains("packet dropped"));
    lines.map(str::to_owned).collect()
}

#[test]
fn c2_b4_b3_what_stays_allowed_loses_no_packet_over_thousands_of_updates() {
    let rules = WAYS[0].replace("PEER", "peer");
    let (a, b) = (policy("a", "app: a", &rules), policy("b", "app: b", &rules));
    let d = policy("d", "app: d", "ingress: []");
    let Some(mut lab) = lab(&[("a.yaml", &a), ("b.yaml", &b), ("d.yaml", &d)]) else {
        return;
    };
    lab.add_pod("shop/d", "app: d").unwrap();
    lab.label("shop/a", "app: a, role: peer").unwrap();
    lab.label("shop/b", "app: b, role: peer").unwrap();
    let sites = ["shop/a", "shop/b"].map(|name| lab.site(name).unwrap());
    let ways: Vec<([&Site; 2], bool)> = [true, false]
        .into_iter()
        .flat_map(|ipv4| [([&sites[0], &sites[1]], ipv4), ([&sites[1], &sites[0]], ipv4)])
        .collect();
    let streams: Vec<Stream> = (0..2 * ways.len())
        .map(|_| Stream {
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
        })
        .collect();
    let mut drops = Vec::new();
    let stop = AtomicBool::new(false);
    let start = Instant::now();
    let elapsed = thread::scope(|scope| {
        for (index, (ends, ipv4)) in ways.iter().enumerate() {
            udp(scope, &stop, &streams[2 * index], *ends, *ipv4);
            tcp(scope, &stop, &streams[2 * index + 1], *ends, *ipv4);
        }
        let changed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for number in 0..UPDATES {
                change(&mut lab, number);
                if number == UPDATES / 3 {
                    lab.agent.kill().unwrap();
                    drops.extend(drop_lines(&lab));
                    lab.agent.restart().unwrap();
                } else if number == 2 * UPDATES / 3 {
                    lab.agent.stop().unwrap();
                    drops.extend(drop_lines(&lab));
                    lab.agent.restart().unwrap();
                }
            }
        }));
        let elapsed = start.elapsed();
        stop.store(true, Ordering::Relaxed);
        changed.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        elapsed
    });
    let total = |of: fn(&Stream) -> &AtomicU64| -> u64 {
        streams
            .iter()
            .map(|stream| of(stream).load(Ordering::Relaxed))
            .sum()
    };
    let (sent, received) = (total(|stream| &stream.sent), total(|stream| &stream.received));
    println!("{UPDATES} updates and 2 restarts in {elapsed:?}: {sent} packets sent, {received} received");
    let dropped = all_dropped(&lab);
    let until = Instant::now() + LONG;
    while drops.len() + drop_lines(&lab).len() < dropped as usize {
        assert!(Instant::now() < until, "{dropped} drops, but not as many lines");
        thread::yield_now();
    }
    drops.extend(drop_lines(&lab));
    println!("{dropped} packets dropped");
    // Multicast listener reports of new pods are dropped. No packet of the streams is, so TCP had
    // nothing to retransmit.
    drops.retain(|line| !line.contains(r#""protocol":58,"#));
    assert!(drops.is_empty(), "of a stream: {drops:#?}");
    for (index, stream) in streams.iter().enumerate() {
        let [sent, received] = [&stream.sent, &stream.received].map(|count| count.load(Ordering::Relaxed));
        assert!(sent > UPDATES, "stream {index} sent only {sent}");
        assert_eq!(sent, received, "stream {index} lost packets");
    }
}
