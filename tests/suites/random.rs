// SPDX-License-Identifier: Apache-2.0
//! Random clusters: the compiled node against the evaluator. `NETPOL_CASES` is the number of packets.

use netpol_agent::{
    compile::{Compiled, Frontend, Passage, compile},
    evaluate::{Packet, evaluate, evaluate_service},
    model::{Direction, Snapshot},
};
use netpol_tests::{
    looks::first_look,
    lookup,
    random::{Random, cluster, nodes, packet, service_packet},
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

#[test]
fn a5_frontends_are_judged_by_all_their_backends() {
    run(|random, snapshot, compiled| {
        for _ in 0..PACKETS_A_CLUSTER {
            let Some(packet) = service_packet(random, snapshot) else {
                return Ok(());
            };
            let Some(backends) = evaluate_service(snapshot, &nodes(), &packet) else {
                for compiled in compiled {
                    prop_assert_eq!(lookup::frontend(compiled, &packet), None, "{:?}", packet);
                }
                continue;
            };
            for compiled in compiled {
                let Some(class) = lookup::frontend(compiled, &packet) else {
                    return Err(TestCaseError::fail(format!("{packet:?} is for a frontend")));
                };
                for endpoint in compiled.endpoints.values() {
                    let Some(policy) = endpoint
                        .egress
                        .filter(|_| endpoint.addresses.contains(&packet.source))
                    else {
                        continue;
                    };
                    let said = match compiled.policies[policy].frontends.get(&class) {
                        Some(Passage::Accept(_)) => "accept",
                        Some(Passage::Defer) => "defer",
                        None => "deny",
                    };
                    let unguarded = backends.iter().find(|(address, port, _)| {
                        !compiled.guarded.contains(&Frontend {
                            address: *address,
                            protocol: packet.protocol,
                            port: *port,
                        })
                    });
                    prop_assert!(
                        said != "defer" || unguarded.is_none(),
                        "{packet:?}: {unguarded:?}"
                    );
                    let expected = first_look(&backends);
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
                    .filter_map(|compiled| lookup::second_look(compiled, &translated, packet.source));
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
