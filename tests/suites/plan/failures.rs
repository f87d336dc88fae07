// SPDX-License-Identifier: Apache-2.0
//! A failed write affects only what depends on it (rules L1, L2). Whatever fails, and whichever map
//! is full from any point on: no packet passes that the new policy denies, whoever is not held back
//! has the new policy, and the next attempt repairs it.

use std::{cell::Cell, collections::BTreeSet, io, net::IpAddr};

use ipnet::IpNet;
use netpol_agent::{
    model::Direction,
    sync::{Put, Report, State, Table, Write},
};
use netpol_common::abi::{Endpoint, Identity, POLICY_DENY, POLICY_UNRESTRICTED};
use netpol_tests::{
    kernel::{Probe, passes},
    objects::snapshot,
    random::{Random, cluster, little_restricted_room, nodes},
};
use proptest::prelude::*;
use serde_json::json;

use super::{Bench, Change, probes, run, unmet};

/// A table, and whether an entry is put.
type Kind = (Table, bool);

fn kind(write: &Write) -> Kind {
    (write.table(), write.is_put())
}

/// What fails.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    /// A map has no room for more of one kind, once that many of its entries were written.
    Full(Kind, usize),
    /// Each write of a kind fails in one of that many cases.
    Some(Kind, usize),
    /// All entries of one policy number.
    Policy(u32),
    /// One write.
    One(usize),
}

/// Kinds of writes that may fail without ending the plan, and without an endpoint that cannot be
/// changed.
fn may_fail(write: &Write) -> bool {
    !matches!(write, Write::Config(_) | Write::Endpoints(_) | Write::Attached(_))
}

fn trouble(random: &mut Random, writes: &[Write]) -> Option<Trouble> {
    let of: Vec<(usize, &Write)> = writes
        .iter()
        .enumerate()
        .filter(|(_, write)| may_fail(write))
        .collect();
    let kinds: Vec<Kind> = of.iter().fold(Vec::new(), |mut kinds, (_, write)| {
        let kind = kind(write);
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
        kinds
    });
    let kind = *kinds.get(random.below(kinds.len().max(1)))?;
    Some(match random.below(4) {
        0 => Trouble::Full(kind, random.below(6)),
        1 => Trouble::Some(kind, 1 + random.below(3)),
        2 => {
            let policies: Vec<u32> = writes
                .iter()
                .filter_map(|write| match write {
                    Write::Policies(Put((policy, _), _)) => Some(*policy),
                    _ => None,
                })
                .collect();
            Trouble::Policy(*policies.get(random.below(policies.len().max(1)))?)
        }
        _ => Trouble::One(of[random.below(of.len())].0),
    })
}

/// Applies a plan with this trouble.
fn apply_with(
    bench: &mut Bench,
    plan: netpol_agent::sync::Plan,
    trouble: Trouble,
    random: &mut Random,
) -> Report {
    let all: Vec<Write> = plan.writes().cloned().collect();
    let mut made = 0;
    bench.apply_with(plan, |write| {
        let code = match trouble {
            Trouble::Full(full, after) if full == kind(write) && write.is_put() => {
                made += 1;
                (made > after).then_some(28)
            }
            Trouble::Some(failing, every) if failing == kind(write) => {
                (random.below(every) == 0).then_some(16)
            }
            Trouble::Policy(number) => {
                matches!(write, Write::Policies(Put((policy, _), _)) if *policy == number).then_some(16)
            }
            Trouble::One(nth) => (*write == all[nth]).then_some(16),
            _ => None,
        };
        match code {
            Some(code) => Err(io::Error::from_raw_os_error(code)),
            None => Ok(()),
        }
    })
}

/// What an address is.
fn identity_of(state: &State, address: IpAddr) -> Identity {
    let around = state
        .identities
        .iter()
        .filter(|(prefix, _)| prefix.contains(&address));
    let longest = around.max_by_key(|(prefix, _)| IpNet::prefix_len(prefix));
    longest.map(|(_, identity)| *identity).unwrap_or_default()
}

/// Returns true if a packet goes to where a Service is, was or will be reached: without its
/// frontend it goes to an ordinary address.
fn is_to_service(states: [&State; 3], probe: &Probe) -> bool {
    let mut frontends = states.into_iter().flat_map(|state| state.frontends.keys());
    probe.direction == Direction::Egress
        && frontends.any(|frontend| {
            (frontend.protocol, frontend.port) == (probe.protocol, probe.port)
                && (frontend.address == probe.remote || frontend.address.is_unspecified())
        })
}

/// Returns the interfaces that a policy number concerns: those that have it before, during or
/// after, and those that share a number with one that could not leave it.
fn concerned(states: [&State; 2], writes: &[Write], number: u32) -> BTreeSet<u32> {
    let numbers = |endpoint: &Endpoint| [endpoint.ingress_policy, endpoint.egress_policy];
    let held = states.into_iter().flat_map(|state| &state.endpoints);
    let written = writes.iter().filter_map(|write| match write {
        Write::Endpoints(Put(ifindex, endpoint)) => Some((ifindex, endpoint)),
        _ => None,
    });
    let all: Vec<(u32, [u32; 2])> = held
        .chain(written)
        .map(|(ifindex, endpoint)| (*ifindex, numbers(endpoint)))
        .collect();
    let having = |numbers: &BTreeSet<u32>| -> BTreeSet<u32> {
        let having = all
            .iter()
            .filter(|(_, own)| own.iter().any(|one| numbers.contains(one)));
        having.map(|(ifindex, _)| *ifindex).collect()
    };
    let direct = having(&BTreeSet::from([number]));
    let theirs = states[0]
        .endpoints
        .iter()
        .filter(|(ifindex, _)| direct.contains(ifindex));
    let theirs = theirs.flat_map(|(_, endpoint)| numbers(endpoint));
    let shared: BTreeSet<u32> = theirs
        .filter(|policy| ![POLICY_UNRESTRICTED, POLICY_DENY].contains(policy))
        .collect();
    &direct | &having(&shared)
}

#[test]
fn l2_a_failed_write_concerns_only_what_depends_on_it() {
    let (failed, spared) = (Cell::new(0), Cell::new(0));
    run(150, |seed, keeps, change: Change| {
        let mut random = Random(seed);
        let mut bench = Bench::new(keeps);
        let mut before = little_restricted_room(cluster(&mut random), seed);
        let (_, first) = bench.plan(&before);
        bench.apply(first);
        for _ in 0..3 {
            let after = change(&mut random, &before);
            if random.below(4) == 0 {
                bench.memory = Default::default(); // The agent was restarted.
            }
            let (compiled, plan) = bench.plan(&after);
            let probes = probes(&mut random, [&before, &after], &compiled);
            let was = bench.state.clone();
            let mut done = was.clone();
            plan.writes().for_each(|write| done.record(write));
            let writes: Vec<Write> = plan.writes().cloned().collect();
            let Some(trouble) = trouble(&mut random, &writes) else {
                continue;
            };
            let report = apply_with(&mut bench, plan, trouble, &mut random);
            prop_assert_eq!(
                unmet(&bench.state, true),
                None,
                "seed {}: {:?}: {:#?}",
                seed,
                trouble,
                report
            );
            failed.set(failed.get() + usize::from(!report.failures.is_empty()));
            spared.set(spared.get() + usize::from(report.held_back.len() < bench.state.endpoints.len()));
            for probe in &probes {
                let (now, new) = (passes(&bench.state, probe), passes(&done, probe));
                let to_service = is_to_service([&was, &bench.state, &done], probe);
                prop_assert!(
                    !now || new || to_service,
                    "seed {seed}: {trouble:?}: {probe:?} passes, and is denied by what was to be: {report:#?}\n{writes:#?}"
                );
                let concerned = report.held_back.contains(&probe.ifindex)
                    || identity_of(&bench.state, probe.remote) != identity_of(&done, probe.remote);
                prop_assert!(
                    now == new || concerned || to_service,
                    "seed {seed}: {trouble:?}: {probe:?} is denied, and nothing of it failed: {report:#?}\n{writes:#?}"
                );
            }
            if let Trouble::Policy(number) = trouble {
                let concerned = concerned([&was, &done], &writes, number);
                prop_assert!(
                    report.held_back.is_subset(&concerned),
                    "seed {seed}: policy {number} concerns {concerned:?}: {report:#?}\n{writes:#?}"
                );
            }
            let (_, plan) = bench.plan(&after);
            bench.apply(plan);
            for probe in &probes {
                prop_assert_eq!(
                    passes(&bench.state, probe),
                    passes(&done, probe),
                    "seed {}: {:?}",
                    seed,
                    probe
                );
            }
            super::life::is_as_fresh(&bench, &after)?;
            before = after;
        }
        Ok(())
    });
    assert!(
        failed.get() > 20 && spared.get() * 2 > failed.get(),
        "{failed:?} {spared:?}"
    );
}

/// A Service with thousands of frontends fills map `frontends`: only one write too many is tried,
/// one line is logged, and policies change as if there were no Service.
#[test]
fn l2_a_full_map_is_tried_once_and_told_once() {
    let object = |kind: &str, group: &str, name: &str, spec: serde_json::Value| json!({"apiVersion": group, "kind": kind, "metadata": {"namespace": "ns", "name": name}, "spec": spec});
    let pod = |name: &str, node: usize, address: &str| {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "ns", "name": name, "labels": {"app": name}},
            "spec": {"nodeName": nodes()[node].name, "containers": [{"name": "c"}]},
            "status": {"podIP": address, "podIPs": [{"ip": address}]}})
    };
    let from = |name: &str| {
        let peer = json!({"podSelector": {"matchLabels": {"app": name}}});
        let spec = json!({"podSelector": {"matchLabels": {"app": "pod-1"}}, "ingress": [{"from": [peer]}]});
        object("NetworkPolicy", "networking.k8s.io/v1", "p", spec)
    };
    let (one, two, three) = (
        pod("pod-1", 0, "10.244.0.9"),
        pod("pod-2", 1, "10.244.1.10"),
        pod("pod-3", 1, "10.244.1.11"),
    );
    let probe = |address: &str| Probe {
        ifindex: 101,
        direction: Direction::Ingress,
        remote: address.parse().expect("an address"),
        protocol: 6,
        port: 80,
    };
    let mut bench = Bench::new(true);
    let before = [one.clone(), two.clone(), three.clone(), from("pod-2")];
    let (_, plan) = bench.plan(&snapshot(&before).expect("the objects are right"));
    bench.apply(plan);
    assert!(passes(&bench.state, &probe("10.244.1.10")) && !passes(&bench.state, &probe("10.244.1.11")));

    let external: Vec<String> = (0..80).map(|nth| format!("203.0.113.{nth}")).collect();
    let ports: Vec<_> = (1..=100)
        .map(|port| json!({"name": format!("p{port}"), "port": port}))
        .collect();
    let spec = json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "externalIPs": external, "ports": ports});
    let after = [one, two, three, from("pod-3"), object("Service", "v1", "s", spec)];
    let after = snapshot(&after).expect("the objects are right");
    for _ in 0..2 {
        let (_, plan) = bench.plan(&after);
        let mut tried = 0;
        let report = bench.apply_with(plan, |write| {
            tried += usize::from(matches!(write, Write::Frontends(Put(..))));
            let full = matches!(write, Write::Frontends(Put(..))) && tried > 10;
            if full {
                Err(io::Error::from_raw_os_error(7))
            } else {
                Ok(())
            }
        });
        assert!(tried <= 21, "{tried} of 8,100");
        assert_eq!((report.failures.len(), report.failed()), (1, 1), "{report:#?}");
        assert!(
            report.left_out > 8000 && report.held_back.is_empty(),
            "{report:#?}"
        );
        assert!(!passes(&bench.state, &probe("10.244.1.10")) && passes(&bench.state, &probe("10.244.1.11")));
    }
}
