// SPDX-License-Identifier: Apache-2.0
//! Packets that leave the node and must still be judged for the pod that sent them (rule A5).
//! `shop/web` may send to the pods of `shop` only.

use std::net::IpAddr;

use anyhow::Result;
use netpol_agent::{
    datapath::{CounterReader, attach::Hook},
    model::Direction,
    sync::{Remove, Write},
};
use netpol_common::{
    abi::{self, DropReason, Endpoint},
    tag,
};
use netpol_tests::{
    frames::{self, headers},
    progrun::{Bench, Met, on_bench},
};

use super::{SUITE, Stage, tcp};

const WEB: &str = "10.244.0.10";
const ALLOWED: &str = "10.244.0.12";
const DENIED: &str = "198.51.100.7";
/// The pod's address after masquerading.
const MASQUERADED: &str = "198.51.100.1";

/// A node whose `shop/web` sends through the bridge.
struct Leaving<'a> {
    bench: &'a mut Bench,
    counters: CounterReader,
    web: u32,
    endpoint: Endpoint,
    /// Endpoint of `shop/db`, which is not isolated.
    open: Endpoint,
}

impl Leaving<'_> {
    fn run(test: impl FnOnce(&mut Leaving<'_>) -> Result<()> + Send) {
        on_bench(SUITE, 8, |bench| {
            let Stage { addresses, .. } = Stage::of(bench, "both-ends")?;
            let web = addresses[&WEB.parse::<IpAddr>()?];
            let db = addresses[&ALLOWED.parse::<IpAddr>()?];
            let [endpoint, open] = [web, db].map(|ifindex| bench.read().unwrap().endpoints[&ifindex]);
            let counters = CounterReader::open(bench.pin_path())?;
            test(&mut Leaving {
                bench,
                counters,
                web,
                endpoint,
                open,
            })
        });
    }

    fn leaves(&mut self, tag: u16, frame: &[u8]) -> bool {
        self.leaves_by(self.bench.bridge(), tag, frame)
    }

    fn leaves_by(&mut self, ingress_ifindex: u32, tag: u16, frame: &[u8]) -> bool {
        let met = Met {
            hook: Hook::ToNetwork,
            ifindex: self.bench.uplink(),
            ingress_ifindex,
            tag,
        };
        self.bench.passes_tagged(met, frame).unwrap()
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        let mut counters = self.counters.read(abi::Direction::Egress).unwrap();
        counters.dropped(reason).packets
    }
}

fn frame(source: &str, destination: &str) -> Vec<u8> {
    frames::opening(&tcp(source, destination), 40_000)
}

/// Returns frames without a readable destination, with the reason.
fn unreadable() -> [(DropReason, Vec<u8>); 5] {
    let whole = frame(MASQUERADED, ALLOWED);
    let mut options = whole.clone();
    options[14] = 0x4f; // More options than there are bytes.
    let mut label = whole.clone();
    label[12..14].copy_from_slice(&[0x88, 0x47]);
    let mut later = whole.clone();
    later[14 + 7] = 3;
    let mut chain = frames::opening(&tcp("2001:db8::1", "fd00:10:244::12"), 40_000);
    chain = headers::with_extensions(&chain, &[60; 9], 0, 0);
    [
        (DropReason::Malformed, options),
        (DropReason::EtherType, label),
        (DropReason::Vlan, headers::with_tag(&whole, [0x81, 0x00])),
        (DropReason::ExtensionHeaders, chain),
        (DropReason::Fragment, later),
    ]
}

#[test]
fn a5_f2_what_is_deferred_and_cannot_be_read_does_not_leave() {
    Leaving::run(|node| {
        let deferred = node.endpoint.tag(true);
        let readable = frame(MASQUERADED, ALLOWED);
        assert!(node.leaves(deferred, &readable));
        assert!(!node.leaves(deferred, &frame(MASQUERADED, DENIED)));
        for (reason, frame) in unreadable() {
            let before = node.dropped(reason);
            assert!(!node.leaves(deferred, &frame), "{reason:?}");
            assert_eq!(node.dropped(reason), before + 1, "{reason:?}");
            assert!(
                node.leaves(tag::without_deferral(deferred), &frame),
                "{reason:?}, judged"
            );
            // Its policy was removed a moment ago.
            assert!(
                node.leaves(node.open.tag(true), &frame),
                "{reason:?}, not isolated"
            );
            assert!(node.leaves_by(0, deferred, &frame), "{reason:?}, of the node");
        }
        Ok(())
    });
}

/// The endpoint is removed before what refers to it, or together.
#[test]
fn a5_what_is_deferred_does_not_leave_when_its_senders_endpoint_is_gone() {
    Leaving::run(|node| {
        let (deferred, frame) = (node.endpoint.tag(true), frame(MASQUERADED, ALLOWED));
        let (web, bridge) = (node.web, node.bench.bridge());
        assert!(node.leaves(deferred, &frame));
        node.bench.write(&Write::Endpoints(Remove(web)))?;
        let before = node.dropped(DropReason::EgressBackend);
        assert!(!node.leaves(deferred, &frame));
        assert_eq!(node.dropped(DropReason::EgressBackend), before + 1);

        let number = node.endpoint.number().into();
        node.bench.write(&Write::Senders(Remove((bridge, number))))?;
        node.bench.write(&Write::LocalPods(Remove(WEB.parse()?)))?;
        let before = node.dropped(DropReason::UnknownSender);
        assert!(!node.leaves(deferred, &frame));
        assert_eq!(node.dropped(DropReason::UnknownSender), before + 1);
        Ok(())
    });
}

/// A judged packet is marked, and not checked again: for example when it leaves by a second device
/// after a tunnel.
#[test]
fn a5_the_tag_tells_whether_a_packet_is_judged() {
    Leaving::run(|node| {
        let (deferred, judged) = (node.endpoint.tag(true), node.endpoint.tag(false));
        let (web, bridge, uplink) = (node.web, node.bench.bridge(), node.bench.uplink());
        let sent = Met {
            hook: Hook::FromPod,
            ifindex: web,
            ingress_ifindex: web,
            tag: judged,
        };
        // A mark that the pod wrote itself does not count.
        let to_allowed = frame(WEB, ALLOWED);
        assert!(node.bench.passes(Direction::Egress, web, web, &to_allowed)?);
        assert_eq!(node.bench.tag_behind(sent, &to_allowed)?, deferred);
        let leaving = Met {
            hook: Hook::ToNetwork,
            ifindex: uplink,
            ingress_ifindex: bridge,
            tag: deferred,
        };
        let masqueraded = frame(MASQUERADED, ALLOWED);
        assert_eq!(node.bench.tag_behind(leaving, &masqueraded)?, tag::LEFT);
        assert_eq!(
            node.bench.tag_behind(leaving, &frame(MASQUERADED, DENIED))?,
            deferred
        );
        for settled in [judged, tag::LEFT] {
            assert!(node.leaves(settled, &frame(MASQUERADED, DENIED)));
            let leaving = Met {
                tag: settled,
                ..leaving
            };
            assert_eq!(node.bench.tag_behind(leaving, &masqueraded)?, tag::LEFT);
        }
        Ok(())
    });
}
