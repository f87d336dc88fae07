// SPDX-License-Identifier: Apache-2.0
//! What pods may send and receive for (rule A6), while plans are written, cut off and fail.

use std::collections::BTreeSet;

use ipnet::IpNet;
use netpol_agent::{
    compile::Compiled,
    sync::{State, Write},
};
use netpol_common::abi::ENDPOINT_FORWARDS;
use netpol_tests::random::{Random, cluster};
use proptest::prelude::*;

use super::{Bench, interface, run};

/// Returns the number of an interface's endpoint, and what its pod may send for.
fn may(state: &State, ifindex: u32) -> (u32, BTreeSet<IpNet>) {
    let Some(endpoint) = state.endpoints.get(&ifindex) else {
        return (0, BTreeSet::new());
    };
    let flag = endpoint.flags & ENDPOINT_FORWARDS != 0;
    let ranges = state.forwards.iter().filter(|(of, _)| *of == ifindex && flag);
    (endpoint.id, ranges.map(|(_, range)| *range).collect())
}

fn holds_what_was_compiled(state: &State, compiled: &Compiled) -> Result<(), TestCaseError> {
    for ifindex in state.endpoints.keys() {
        let pod = compiled
            .endpoints
            .iter()
            .find(|(key, _)| interface(key) == *ifindex);
        let granted = pod.map(|(_, pod)| (*pod.forwards).clone()).unwrap_or_default();
        prop_assert_eq!(&may(state, *ifindex).1, &granted, "{}", ifindex);
    }
    let live: Vec<u32> = compiled.endpoints.keys().map(interface).collect();
    let left = state.forwards.iter().find(|(ifindex, _)| !live.contains(ifindex));
    prop_assert_eq!(left, None, "of nobody");
    Ok(())
}

#[test]
fn a6_every_prefix_of_a_plan_lets_a_pod_send_for_whom_it_did_or_will() {
    run(100, |seed, keeps, change| {
        let mut random = Random(seed);
        let mut bench = Bench::new(keeps);
        let mut snapshot = cluster(&mut random);
        for _ in 0..4 {
            let (compiled, plan) = bench.plan(&snapshot);
            let mut done = bench.state.clone();
            plan.writes().for_each(|write| done.record(write));
            let mut state = bench.state.clone();
            for write in plan.writes() {
                state.record(write);
                for ifindex in 100..110 {
                    let (was, is, will) = (
                        may(&bench.state, ifindex),
                        may(&state, ifindex),
                        may(&done, ifindex),
                    );
                    // The new pod inherits nothing of another pod behind the interface.
                    let mut allowed: BTreeSet<IpNet> = BTreeSet::new();
                    allowed.extend(was.1.iter().filter(|_| is.0 == was.0));
                    allowed.extend(will.1.iter().filter(|_| is.0 == will.0 || was.0 == is.0));
                    prop_assert!(
                        is.1.is_subset(&allowed),
                        "seed {seed}: {ifindex} {is:?} of {was:?} and {will:?} after {write:?}"
                    );
                    if was.0 == will.0 {
                        let both: BTreeSet<IpNet> = was.1.intersection(&will.1).copied().collect();
                        prop_assert!(
                            both.is_subset(&is.1),
                            "seed {seed}: {ifindex} lost some of {both:?}"
                        );
                    }
                }
            }
            bench.apply(plan);
            holds_what_was_compiled(&bench.state, &compiled)?;
            snapshot = change(&mut random, &snapshot);
        }
        Ok(())
    });
}

/// Any single write fails, and the next plan repairs it.
#[test]
fn l1_a_failed_write_lets_no_pod_send_for_whom_it_may_not() {
    run(100, |seed, keeps, change| {
        let mut random = Random(seed);
        let mut bench = Bench::new(keeps);
        let mut snapshot = cluster(&mut random);
        let (_, first) = bench.plan(&snapshot);
        bench.apply(first);
        for _ in 0..4 {
            snapshot = change(&mut random, &snapshot);
            let (compiled, plan) = bench.plan(&snapshot);
            // One about this comes to pass seldom, where any may fail.
            let about = |write: &Write| matches!(write, Write::Forwards(_));
            let those = plan.writes().enumerate().filter(|(_, write)| about(write));
            let those: Vec<usize> = those.map(|(nth, _)| nth).collect();
            if those.is_empty() {
                bench.apply(plan);
                continue;
            }
            let mut left = those[random.below(those.len())];
            bench.apply_with(plan, |_| {
                let fails = left == 0;
                left = left.wrapping_sub(1);
                if fails {
                    Err(std::io::Error::from_raw_os_error(28))
                } else {
                    Ok(())
                }
            });
            for (key, pod) in &compiled.endpoints {
                let (_, is) = may(&bench.state, interface(key));
                prop_assert!(is.is_subset(&pod.forwards), "seed {seed}: {key} {is:?}");
            }
            let (compiled, rest) = bench.plan(&snapshot);
            bench.apply(rest);
            holds_what_was_compiled(&bench.state, &compiled)?;
        }
        Ok(())
    });
}
