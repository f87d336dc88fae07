// SPDX-License-Identifier: Apache-2.0
//! Random clusters: the compiled node against the evaluator. `NETPOL_CASES` is the number of packets.

use netpol_agent::{compile::compile, evaluate::evaluate, model::Direction};
use netpol_tests::{
    lookup,
    random::{Random, cluster, nodes, packet},
};
use proptest::{prelude::*, test_runner::TestRunner};

const PACKETS_A_CLUSTER: u32 = 100;

#[test]
fn compiled_nodes_say_what_the_evaluator_says() {
    let packets =
        std::env::var("NETPOL_CASES").map_or(100_000, |text| text.parse().expect("NETPOL_CASES: a number"));
    let cases = (packets / PACKETS_A_CLUSTER).max(1);
    let mut runner = TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let outcome = runner.run(&any::<u64>().no_shrink(), |seed| {
        let mut random = Random(seed);
        let (snapshot, nodes) = (cluster(&mut random), nodes());
        let compiled: Vec<_> = nodes.iter().map(|node| compile(&snapshot, node)).collect();
        for _ in 0..PACKETS_A_CLUSTER {
            let packet = packet(&mut random, &snapshot);
            let evaluation = evaluate(&snapshot, &nodes, &packet);
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
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}
