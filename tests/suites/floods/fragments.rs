// SPDX-License-Identifier: Apache-2.0
//! Tests a full map of fragments.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{Arc, Mutex},
    time::Duration,
};

use netpol_tests::capture::{Capture, addresses};

use crate::shared::{FLOODER, Flood, NEIGHBOUR, VICTIM, fragments, lab, policy};

/// More packets than the map remembers.
const PACKETS: u32 = 12_000;
/// Marks fragments without a first one.
const ORPHAN: u16 = 0xbad;

/// Fragmented requests of a neighbour are answered while a flood fills the map. Later fragments
/// without a first one stay out.
#[test]
fn c4_c5_a_full_map_of_fragments_loses_no_packet_and_lets_none_in() {
    let rules = "ingress: [{ports: [{port: 5353, protocol: UDP}]}]";
    let Some(lab) = lab(&policy("victim", "Ingress", rules)) else {
        return;
    };
    let orphans = Arc::new(Mutex::new((0u64, 0u64)));
    let seen = Arc::clone(&orphans);
    let victim = lab.site(VICTIM).unwrap();
    // The kernel's own limits for fragments are not tested.
    lab.node
        .netns()
        .sysctl(&[
            ("net/bridge/bridge-nf-call-iptables", "0"),
            ("net/bridge/bridge-nf-call-ip6tables", "0"),
        ])
        .unwrap();
    victim
        .netns
        .sysctl(&[
            ("net/ipv4/ipfrag_high_thresh", "1000000000"),
            ("net/ipv4/ipfrag_max_dist", "0"),
            ("net/ipv6/ip6frag_high_thresh", "1000000000"),
        ])
        .unwrap();
    let capture = Capture::start(&victim.netns, "eth0", move |frame: &[u8]| {
        let mut seen = seen.lock().unwrap();
        let marker = [0x9c, 0x40, (ORPHAN >> 8) as u8, ORPHAN as u8];
        seen.0 += 1;
        seen.1 += u64::from(frame.windows(4).any(|window| window == marker));
    })
    .unwrap();
    let flood = Flood::new(&lab, FLOODER, VICTIM);
    let neighbour = lab.site(NEIGHBOUR).unwrap();
    let own = addresses(&neighbour).unwrap();
    for number in 0..PACKETS {
        flood.fragment(number, 0, true, 5353);
        flood.fragment(0x8000 + number, 4, false, ORPHAN);
        if number % 2000 != 1999 {
            continue;
        }
        for (from, to) in own.iter().zip(addresses(&victim).unwrap()) {
            let socket = neighbour
                .netns
                .run(|| Ok(UdpSocket::bind(SocketAddr::new(*from, 0))?))
                .unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            socket.send_to(&[7; 4000], (to, 5353)).unwrap();
            let mut answer = [0; 64];
            let length = socket.recv(&mut answer);
            assert!(length.is_ok(), "packet {number}, {to}: {length:?}");
        }
    }
    let held = fragments(&lab);
    assert!((4096..=8192).contains(&held), "{held} of 8192 places are used");
    let (_, seen) = capture.finish().unwrap();
    let (frames, orphans) = *orphans.lock().unwrap();
    assert!(seen.lost == 0 && frames > 2 * u64::from(PACKETS), "{seen:?}");
    assert_eq!(orphans, 0, "later fragments came in without a first");
}
