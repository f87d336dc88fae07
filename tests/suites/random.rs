// SPDX-License-Identifier: Apache-2.0
//! Random clusters: compares the compiled node with the evaluator. `NETPOL_CASES` is the number of
//! packets.

use std::cell::Cell;

use netpol_agent::{
    compile::{Compiled, Compiler, Passage, PeerId, compile},
    evaluate::{Packet, evaluate, evaluate_service, forwards},
    model::{Direction, Frontend, Node, Snapshot},
};
use netpol_tests::{
    canonical::Canonical,
    frontend_verdict::frontend_verdict,
    lookup,
    random::{Random, any_change, batch, cluster, little_restricted_room, nodes, packet, service_packet},
    seeds,
};
use proptest::prelude::*;

const PACKETS_A_CLUSTER: u32 = 100;

/// Runs `test` on random clusters, each compiled for both nodes.
fn run(test: impl Fn(&mut Random, &Snapshot, &[Compiled]) -> Result<(), TestCaseError>) {
    seeds::hold("random", PACKETS_A_CLUSTER, |seed| {
        let mut random = Random(seed);
        let snapshot = cluster(&mut random);
        let compiled: Vec<_> = nodes().iter().map(|node| compile(&snapshot, node)).collect();
        test(&mut random, &snapshot, &compiled)
    });
}

#[test]
fn compiled_nodes_say_what_the_evaluator_says() {
    run(|random, snapshot, compiled| {
        for _ in 0..PACKETS_A_CLUSTER {
            let packet = packet(random, snapshot);
            let evaluation = evaluate(snapshot, &nodes(), &packet);
            let sides = [
                (Direction::Egress, &evaluation.egress),
                (Direction::Ingress, &evaluation.ingress),
            ];
            for (direction, side) in sides {
                let mut verdicts = compiled
                    .iter()
                    .filter_map(|compiled| lookup::allows(compiled, direction, &packet));
                let allowed = verdicts.all(|verdict| verdict);
                prop_assert!(
                    allowed == side.allowed,
                    "{direction} of {packet:?}: compiled {allowed}, evaluated {side:?}\n{:#?}\n{:#?}\n{:#?}",
                    snapshot.namespaces,
                    snapshot.pods,
                    snapshot.policies
                );
            }
        }
        Ok(())
    });
}

/// Compiles one cluster after the other, on both nodes.
#[test]
fn a6_pods_forward_for_what_their_namespace_says_and_nobody_has() {
    let mut granted = 0;
    for seed in 0..400 {
        let mut random = Random(seed);
        let mut snapshot = cluster(&mut random);
        let mut compilers: Vec<_> = nodes()
            .into_iter()
            .map(|node| (node, Compiler::default()))
            .collect();
        for _ in 0..5 {
            for (node, compiler) in &mut compilers {
                let compiled = compiler.compile(&snapshot, node);
                for (key, endpoint) in &compiled.endpoints {
                    let expected = forwards(&snapshot, node, &key.namespace);
                    assert_eq!(
                        *endpoint.forwards, expected,
                        "seed {seed}: {key} on {}",
                        node.name
                    );
                    granted += expected.len();
                }
                let whole = compile(&snapshot, node);
                assert!(compiled.diagnostics == whole.diagnostics, "seed {seed}");
            }
            snapshot = any_change(&mut random, &snapshot);
        }
    }
    assert!(granted > 1_000, "{granted} is too few to tell");
}

#[test]
fn a5_frontends_are_judged_by_all_their_backends() {
    run(|random, snapshot, compiled| {
        for _ in 0..PACKETS_A_CLUSTER {
            let Some(packet) = service_packet(random, snapshot) else {
                return Ok(());
            };
            let of_sender = compiled.iter().filter(|compiled| {
                let mut endpoints = compiled.endpoints.values();
                endpoints.any(|endpoint| endpoint.addresses.contains(&packet.source))
            });
            let Some(backends) = evaluate_service(snapshot, &nodes(), &packet) else {
                for compiled in of_sender {
                    prop_assert_eq!(lookup::frontend(compiled, &packet), None, "{:?}", packet);
                }
                continue;
            };
            for compiled in of_sender {
                let Some(class) = lookup::frontend(compiled, &packet) else {
                    return Err(TestCaseError::fail(format!("{packet:?} is for a frontend")));
                };
                // Perhaps nobody translates it.
                let itself = lookup::is_virtual(compiled, &packet)
                    && evaluate(snapshot, &nodes(), &packet).egress.allowed;
                for endpoint in compiled.endpoints.values() {
                    let Some(policy) = endpoint
                        .egress
                        .filter(|_| endpoint.addresses.contains(&packet.source))
                    else {
                        continue;
                    };
                    let said = match compiled.passage(policy, class) {
                        Some(Passage::Accept(_)) => "accept",
                        Some(Passage::Defer) => "defer",
                        None => "deny",
                    };
                    let unrestricted = backends.iter().find(|(address, port, _)| {
                        !compiled.restricted.contains_key(&Frontend {
                            address: *address,
                            protocol: packet.protocol,
                            port: *port,
                        })
                    });
                    prop_assert!(
                        said != "defer" || unrestricted.is_none(),
                        "{packet:?}: {unrestricted:?}"
                    );
                    let expected = match frontend_verdict(snapshot, &nodes(), &packet, &backends) {
                        ["deny"] if itself => &["defer"],
                        expected => expected,
                    };
                    prop_assert!(
                        expected.contains(&said),
                        "{packet:?}: compiled {said}, expected {expected:?} of {backends:#?}\n{:#?}\n{:#?}\n{:#?}",
                        snapshot.pods,
                        snapshot.policies,
                        snapshot.services
                    );
                }
            }
            for (address, port, evaluation) in &backends {
                let translated = Packet {
                    destination: *address,
                    port: Some(*port),
                    ..packet
                };
                let mut verdicts = compiled
                    .iter()
                    .filter_map(|compiled| lookup::passes_backend(compiled, &translated, packet.source));
                let allowed = verdicts.all(|verdict| verdict);
                prop_assert!(
                    allowed == evaluation.allowed(),
                    "{translated:?}: compiled {allowed}, evaluated {evaluation:?}\n{:#?}\n{:#?}",
                    snapshot.pods,
                    snapshot.policies
                );
            }
        }
        Ok(())
    });
}

/// A number may only change its meaning if nobody who uses it can tell.
#[test]
fn numbers_that_stay_say_the_same() {
    seeds::hold("random", PACKETS_A_CLUSTER, |seed| {
        numbers_stay(seed, any_change).map(drop)
    });
}

/// The same for turns in which many policies change.
#[test]
fn l2_numbers_that_stay_say_the_same_when_many_peers_come_and_go_at_once() {
    let mut others = 0;
    for seed in 0..200 {
        others += numbers_stay(seed, batch).unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
    }
    assert!(others > 200, "{others} is too few to tell");
}

/// Checks the numbers of classes. Returns how many classes kept theirs and match other peers.
fn numbers_stay(
    seed: u64,
    change: impl Fn(&mut Random, &Snapshot) -> Snapshot,
) -> Result<usize, TestCaseError> {
    let mut random = Random(seed);
    let node = nodes().swap_remove(0);
    let (mut compiler, mut snapshot) = (Compiler::default(), cluster(&mut random));
    let mut before = compiler.compile(&snapshot, &node);
    let mut others = 0;
    for _ in 0..8 {
        snapshot = change(&mut random, &snapshot);
        let now = compiler.compile(&snapshot, &node);
        let in_force =
            |peer: &PeerId| before.peers.contains_key(peer) && before.peers.get(peer) == now.peers.get(peer);
        for (id, class) in &now.classes {
            let Some(old) = before.classes.get(id) else {
                continue;
            };
            others += usize::from(old.peers != class.peers);
            let same = (&old.named_ports, &old.frontend) == (&class.named_ports, &class.frontend);
            prop_assert!(
                same && old
                    .peers
                    .iter()
                    .filter(in_force)
                    .eq(class.peers.iter().filter(in_force)),
                "class {id} was {old:#?} and is {class:#?}"
            );
        }
        for (id, policy) in &now.policies {
            prop_assert!(before.policies.get(id).is_none_or(|old| old == policy));
        }
        for (number, rule) in &now.rules {
            prop_assert!(before.rules.get(number).is_none_or(|old| old == rule));
        }
        before = now;
    }
    Ok(others)
}

/// The result of many changes at once does not depend on what was compiled before, and has no more
/// classes than a fresh start.
#[test]
fn l2_many_peers_that_come_and_go_at_once_compile_to_what_the_whole_does() {
    for seed in 0..100 {
        let mut random = Random(seed);
        let node = nodes().swap_remove(0);
        let (mut compiler, mut snapshot) = (Compiler::default(), cluster(&mut random));
        for _ in 0..8 {
            snapshot = batch(&mut random, &snapshot);
            if random.below(3) == 0 {
                snapshot = any_change(&mut random, &snapshot);
            }
            let (kept, whole) = (compiler.compile(&snapshot, &node), compile(&snapshot, &node));
            assert_eq!(Canonical::of(&kept), Canonical::of(&whole), "seed {seed}");
            assert_eq!(kept.classes.len(), whole.classes.len(), "seed {seed}");
        }
    }
}

/// The result of a change does not depend on what was compiled before.
#[test]
fn changes_one_by_one_compile_to_what_the_whole_does() {
    let refused = Cell::new(0);
    seeds::hold("random", PACKETS_A_CLUSTER * 8, |seed| {
        let mut random = Random(seed);
        let mut node: Node = nodes().swap_remove(0);
        let fresh = |random: &mut Random| little_restricted_room(cluster(random), seed);
        let (mut compiler, mut snapshot) = (Compiler::default(), fresh(&mut random));
        for _ in 0..30 {
            let mut shown = snapshot.clone();
            if random.below(8) == 0 {
                // A namespace that is not known yet.
                shown.namespaces.remove("a");
            }
            let kept = compiler.compile(&shown, &node);
            let whole = compile(&shown, &node);
            refused.set(refused.get() + usize::from(whole.closed.keys().next().is_some()));
            prop_assert!(
                Canonical::of(&kept) == Canonical::of(&whole),
                "{:#?}\n{:#?}\n{:#?}",
                Canonical::of(&kept),
                Canonical::of(&whole),
                snapshot.policies
            );
            for _ in 0..1 + random.below(3) {
                snapshot = any_change(&mut random, &snapshot);
            }
            match random.below(12) {
                0 => snapshot = fresh(&mut random),
                2 => drop(snapshot.nodes.remove("node-b")),
                // An address that pods have appears on an interface of the node, or disappears.
                3 => {
                    let address = "10.244.0.8".parse().expect("an address");
                    if !node.addresses.remove(&address) {
                        node.addresses.insert(address);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    });
    assert!(
        refused.get() > 0,
        "restricted backends are over budget now and then"
    );
}
