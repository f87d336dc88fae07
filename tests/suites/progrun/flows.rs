// SPDX-License-Identifier: Apache-2.0
//! What the programs remember about connections, and for how long.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context, Result};
use netpol_agent::{model::Direction, sync::Write};
use netpol_common::{
    abi::{self, Flow, FlowKey},
    flow::{self, State},
};
use netpol_tests::{
    frames,
    progrun::{Bench, on_bench},
};
use nix::time::{ClockId, clock_gettime};

use super::{SUITE, Stage, tcp};

/// Makes the answer from port 80 to a SYN from port 40000.
fn syn_ack(source: &str, destination: &str) -> Vec<u8> {
    let mut frame = frames::opening(&tcp(source, destination), 80);
    frame[36..38].copy_from_slice(&40_000u16.to_be_bytes());
    frame[47] |= 0x10;
    frame
}

#[test]
fn c4_denied_packets_make_no_flow() {
    on_bench(SUITE, 8, |bench| {
        let Stage { addresses, .. } = Stage::of(bench, "deny-all-special")?;
        let packet = tcp("10.244.0.20", "10.244.0.10");
        let ifindex = addresses[&packet.destination];
        assert!(!bench.opens(Direction::Ingress, ifindex, bench.uplink(), &packet)?);
        assert_eq!(bench.flows()?, []);
        Ok(())
    });
}

#[test]
fn c2_a_connection_is_judged_again_when_the_policy_changes() {
    on_bench(SUITE, 8, |bench| {
        let Stage {
            snapshot,
            node,
            pods,
            addresses,
        } = Stage::of(bench, "ports")?;
        let open = tcp("10.244.0.11", "10.244.0.10");
        let (own, peer) = (addresses[&open.destination], addresses[&open.source]);
        let syn = frames::opening(&open, 40_000);
        let answer = syn_ack("10.244.0.10", "10.244.0.11");
        assert!(bench.passes(Direction::Ingress, own, peer, &syn)?);
        assert!(bench.passes(Direction::Egress, own, own, &answer)?);

        let mut denied = snapshot.clone();
        let names: Vec<_> = denied.policies.keys().cloned().collect();
        for name in names {
            denied
                .policies
                .change(&name, |policy| std::sync::Arc::make_mut(policy).ingress.clear());
        }
        bench.enforce(&denied, &node, &pods)?;
        for _ in 0..2 {
            assert!(!bench.passes(Direction::Egress, own, own, &answer)?);
        }
        assert!(!bench.passes(Direction::Ingress, own, peer, &syn)?);

        bench.enforce(&snapshot, &node, &pods)?;
        assert!(bench.passes(Direction::Egress, own, own, &answer)?);
        Ok(())
    });
}

/// `--flow-capacity`: the table is made anew, and keeps its content, also where it cannot be made.
#[test]
fn b3_a_flow_table_of_another_size_keeps_its_flows() {
    on_bench(SUITE, 8, |bench| {
        let Stage {
            snapshot,
            node,
            pods,
            addresses,
        } = Stage::of(bench, "ports")?;
        let open = tcp("10.244.0.11", "10.244.0.10");
        let (own, peer) = (addresses[&open.destination], addresses[&open.source]);
        assert!(bench.passes(Direction::Ingress, own, peer, &frames::opening(&open, 40_000))?);
        let before = bench.flows()?;
        assert_eq!((before.len(), bench.flow_capacity()?), (1, 64));
        bench.restart(128)?;
        assert_eq!((bench.flows()?, bench.flow_capacity()?), (before.clone(), 128));
        // The kernel makes no such table. The programs that run use the old one, and so does the
        // next start.
        assert!(bench.restart(u32::MAX).is_err());
        bench.restart(128)?;
        assert_eq!((bench.flows()?, bench.flow_capacity()?), (before.clone(), 128));
        assert!(bench.restart(u32::MAX).is_err());
        bench.restart(64)?;
        assert_eq!((bench.flows()?, bench.flow_capacity()?), (before, 64));

        // A table that is too small has what it can hold.
        for port in 40_001..40_010 {
            assert!(bench.passes(Direction::Ingress, own, peer, &frames::opening(&open, port))?);
        }
        assert_eq!(bench.flows()?.len(), 10);
        bench.restart(4)?;
        assert_eq!((bench.flows()?.len(), bench.flow_capacity()?), (4, 4));
        bench.enforce(&snapshot, &node, &pods)?;
        bench.check_maps()
    });
}

/// A denied flow cuts its replies as long as it lives. After that, they are packets of their own,
/// which this pod may send.
#[test]
fn c3_a_lifetime_in_the_configuration_ends_a_flow() {
    on_bench(SUITE, 8, |bench| {
        let Stage {
            snapshot,
            node,
            pods,
            addresses,
        } = Stage::of(bench, "ports")?;
        let open = tcp("10.244.0.11", "10.244.0.10");
        let (own, peer) = (addresses[&open.destination], addresses[&open.source]);
        let answer = syn_ack("10.244.0.10", "10.244.0.11");
        assert!(bench.passes(Direction::Ingress, own, peer, &frames::opening(&open, 40_000))?);
        let mut denied = snapshot;
        let names: Vec<_> = denied.policies.keys().cloned().collect();
        for name in names {
            denied
                .policies
                .change(&name, |policy| std::sync::Arc::make_mut(policy).ingress.clear());
        }
        bench.enforce(&denied, &node, &pods)?;
        assert!(!bench.passes(Direction::Egress, own, own, &answer)?);
        for (seconds, alive) in [(30, true), (10, false)] {
            // Denied packets keep it alive.
            for (key, flow) in bench.flows()? {
                let last_seen = flow
                    .last_seen
                    .checked_sub(20_000_000_000)
                    .context("the machine has only just started")?;
                bench.put_flow(&key, &Flow { last_seen, ..flow })?;
            }
            bench.write(&Write::Config(abi::Config {
                abi_version: abi::ABI_VERSION,
                epoch: 1000,
                lifetimes: abi::Lifetimes {
                    tcp_opening: seconds,
                    ..abi::Lifetimes::default()
                },
                ..abi::Config::default()
            }))?;
            let passes = bench.passes(Direction::Egress, own, own, &answer)?;
            assert_eq!(passes, !alive, "a lifetime of {seconds} s");
        }
        Ok(())
    });
}

/// Expired flows leave the table, a part of it at a time. Live ones are unchanged.
#[test]
fn c3_flows_past_their_lifetime_are_removed_in_parts() {
    const FLOWS: u32 = 40_000;
    const PART: u64 = 16_384;
    on_bench(SUITE, 1, |bench| {
        bench.restart(131_072)?;
        let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?).as_nanos() as u64;
        let lifetime = flow::lifetime(17, State::Opening as u8, &flow::DEFAULTS);
        let dead = now
            .checked_sub(lifetime + 1)
            .context("the machine has only just started")?;
        let fill = |bench: &mut Bench| -> Result<()> {
            for number in 0..FLOWS {
                let key = FlowKey {
                    endpoint: number,
                    protocol: 17,
                    ..FlowKey::default()
                };
                let last_seen = if number % 2 == 0 { dead } else { now };
                let flow = Flow {
                    last_seen,
                    ..Flow::default()
                };
                bench.put_flow(&key, &flow)?;
            }
            assert_eq!(bench.flows()?.len(), FLOWS as usize);
            Ok(())
        };
        let all = u64::from(FLOWS / 2);
        fill(bench)?;
        // Nobody removed flows before the start: the whole table is checked without a pause.
        let (more, first) = bench.expire_flows()?;
        assert!(more && 0 < first && first <= PART, "{first} flows in one part");
        let mut turns = 1;
        while bench.expire_flows()?.0 {
            turns += 1;
        }
        assert!(turns >= u64::from(FLOWS) / PART, "{turns} turns");
        let left = bench.flows()?;
        assert_eq!(left.len(), (FLOWS / 2) as usize);
        assert!(left.iter().all(|(_, flow)| flow.last_seen == now));

        // Later, each turn checks a part.
        fill(bench)?;
        let mut removed = all;
        while removed < 2 * all {
            let (more, now) = bench.expire_flows()?;
            assert!(
                !more && now - removed <= PART,
                "{} flows in one part",
                now - removed
            );
            removed = now;
        }
        Ok(())
    });
}

#[test]
fn c1_a_flow_is_of_one_pod() {
    on_bench(SUITE, 8, |bench| {
        let Stage { addresses, .. } = Stage::of(bench, "ports")?;
        // Both pods of the shop ask a host outside from the same port; only the first one's
        // requests are answered.
        let host = "198.51.100.7";
        let answer = |to: &str| syn_ack(host, to);
        let web = addresses[&"10.244.0.10".parse::<IpAddr>()?];
        let api = addresses[&"10.244.0.11".parse::<IpAddr>()?];
        let asked = frames::opening(&tcp("10.244.0.11", host), 40_000);
        assert!(bench.passes(Direction::Egress, api, api, &asked)?);
        assert!(!bench.passes(Direction::Ingress, web, bench.uplink(), &answer("10.244.0.10"))?);
        let asked = frames::opening(&tcp("10.244.0.10", host), 40_000);
        assert!(bench.passes(Direction::Egress, web, web, &asked)?);
        assert!(bench.passes(Direction::Ingress, web, bench.uplink(), &answer("10.244.0.10"))?);
        Ok(())
    });
}
