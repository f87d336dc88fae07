// SPDX-License-Identifier: Apache-2.0
//! Entry points for the fuzz targets, with arbitrary bytes, and for ordinary tests, with their
//! seeds. A violated property panics.

use std::cell::Cell;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use netpol_agent::{compile::compile, evaluate::evaluate, model::Node, watch::directory};
use netpol_common::{
    abi::Address,
    parse::{Frame, Packet, Parsed, Part, parse},
};

use crate::frames::Bytes;

/// A frame that records how far it was read.
struct Watched<'a> {
    bytes: &'a [u8],
    /// The length that the parser sees.
    end: Cell<usize>,
}

impl Frame for Watched<'_> {
    fn read(&self, offset: usize, into: &mut [u8]) -> bool {
        let read = Bytes(self.bytes).read(offset, into);
        if read {
            self.end.set(self.end.get().max(offset + into.len()));
        }
        read
    }

    fn vlan_tag(&self) -> bool {
        false
    }

    fn length(&self) -> usize {
        self.bytes.len()
    }
}

/// Checks the header parser on any bytes: it ends, never reads past the end, gives the same result
/// whatever follows the packet, and reads the same ports as another parser. Returns the result.
///
/// # Panics
/// If a property is violated.
/// If one of that does not hold.
pub fn frame(bytes: &[u8]) -> Parsed {
    let (mut packet, mut quoted) = (Packet::default(), Packet::default());
    let watched = Watched {
        bytes,
        end: Cell::new(0),
    };
    let parsed = parse(&watched, &mut packet, &mut quoted);
    assert!(watched.end.get() <= bytes.len(), "read past the end");
    if parsed != Parsed::Packet {
        return parsed;
    }
    // The headers are what was read. The rest must not matter.
    let mut other = bytes.to_vec();
    for byte in &mut other[watched.end.get()..] {
        *byte ^= 0xff;
    }
    let (mut again, mut quoted_again) = (Packet::default(), Packet::default());
    let parsed_again = parse(&Bytes(&other), &mut again, &mut quoted_again);
    assert_eq!((parsed_again, again, quoted_again), (parsed, packet, quoted));
    if let Ok(sliced) = SlicedPacket::from_ethernet(bytes) {
        agrees(&packet, &sliced);
    }
    parsed
}

/// Compares the result with etherparse's, which must not fail if the parser got as far as ports.
fn agrees(packet: &Packet, sliced: &SlicedPacket<'_>) {
    let addresses = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => (
            Address::from_ipv4(ip.header().source()),
            Address::from_ipv4(ip.header().destination()),
        ),
        Some(NetSlice::Ipv6(ip)) => (
            Address::from_ipv6(ip.header().source()),
            Address::from_ipv6(ip.header().destination()),
        ),
        _ => panic!("{packet:?} is no IP packet: {sliced:?}"),
    };
    assert_eq!((packet.source, packet.destination), addresses);
    if packet.part == Part::Later {
        return;
    }
    let (number, ports) = match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => (6, (tcp.source_port(), tcp.destination_port())),
        Some(TransportSlice::Udp(udp)) => (17, (udp.source_port(), udp.destination_port())),
        _ => return,
    };
    // etherparse treats an IPv4 authentication header as an extension header, as in IPv6. For IPv4
    // it is a protocol without ports.
    if packet.protocol == 51 {
        return;
    }
    let found = [packet.source_port, packet.destination_port].map(u16::from_be_bytes);
    assert_eq!((packet.protocol, found), (number, [ports.0, ports.1]));
}

/// Checks the manifest decoder on any bytes. Whatever it reads compiles, twice to the same result,
/// and can be evaluated. Returns the number of objects.
///
/// # Panics
/// If a property is violated.
pub fn manifest(bytes: &[u8]) -> usize {
    let mut objects = 0;
    for name in ["manifest.yaml", "manifest.json"] {
        let Ok(snapshot) = directory::decode(name, bytes) else {
            continue;
        };
        objects += snapshot.namespaces.len() + snapshot.pods.len() + snapshot.policies.len();
        let named: Option<Node> = snapshot.pods.values().find_map(|pod| {
            Some(Node {
                name: pod.node.as_ref()?.to_string(),
                addresses: Default::default(),
                ..Node::default()
            })
        });
        let nodes: Vec<Node> = snapshot
            .nodes
            .values()
            .map(|node| Node::clone(node))
            .chain(named)
            .collect();
        for node in nodes.iter().take(3) {
            let compiled = compile(&snapshot, node);
            assert_eq!(
                compiled,
                compile(&snapshot, node),
                "the same input, the same output"
            );
        }
        let addresses: Vec<_> = snapshot
            .pods
            .values()
            .flat_map(|pod| &pod.addresses)
            .take(4)
            .collect();
        for source in &addresses {
            for destination in &addresses {
                if source.is_ipv4() == destination.is_ipv4() {
                    let packet = netpol_agent::evaluate::Packet {
                        source: **source,
                        destination: **destination,
                        protocol: 6,
                        port: Some(80),
                    };
                    evaluate(&snapshot, &nodes, &packet);
                }
            }
        }
    }
    objects
}
