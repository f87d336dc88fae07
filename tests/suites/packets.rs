// SPDX-License-Identifier: Apache-2.0
//! The corpus with real packets: plays every case on a node, and makes every connection that
//! sockets can make.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
};

use netpol_tests::{
    cases,
    privilege::can_enforce,
    scenario::{
        Step,
        case::{LeftOut, scenario},
        play,
    },
};

/// Cases played at once: they mostly wait for silence.
const AT_ONCE: usize = 3;

#[test]
fn every_case_holds_with_real_packets() {
    if !can_enforce("packets") {
        return;
    }
    let cases = cases::load_all().unwrap();
    let next = AtomicUsize::new(0);
    let asked = |step: &Step| (step.expectations.len(), step.by_services.len());
    let work = || {
        let mut wrong = Vec::new();
        let (mut made, mut frontends) = (0, 0);
        let mut skipped: BTreeMap<LeftOut, usize> = BTreeMap::new();
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (scenario, left_out) = scenario(case).unwrap();
            for (connections, by_services) in scenario.steps.iter().map(asked) {
                made += connections;
                frontends += by_services;
            }
            for (why, count) in left_out {
                *skipped.entry(why).or_default() += count;
            }
            match play(&scenario) {
                Ok(found) => wrong.extend(found),
                Err(error) => wrong.push(format!("{}: {error:#}", case.name)),
            }
        }
        (wrong, made, frontends, skipped)
    };
    let (mut wrong, mut made, mut frontends) = (Vec::new(), 0, 0);
    let mut skipped: BTreeMap<LeftOut, usize> = BTreeMap::new();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            let (found, more_made, more_frontends, more_skipped) = worker.join().unwrap();
            wrong.extend(found);
            made += more_made;
            frontends += more_frontends;
            for (why, count) in more_skipped {
                *skipped.entry(why).or_default() += count;
            }
        }
    });
    println!(
        "{} cases: {made} connections made, {frontends} frontends asked, left out: {skipped:?}",
        cases.len()
    );
    assert!(made > 0 && frontends > 0, "the corpus makes no connection");
    for why in LeftOut::ALL {
        assert!(
            skipped.contains_key(&why),
            "nothing is left out for {why:?} any more"
        );
    }
    assert!(
        wrong.is_empty(),
        "{} are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
