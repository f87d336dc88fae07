// SPDX-License-Identifier: Apache-2.0
//! The corpus with real packets: every case is played on a node, and every connection that sockets can make is made.

use std::sync::atomic::{AtomicUsize, Ordering};

use netpol_tests::{
    cases,
    privilege::can_enforce,
    scenario::{case::scenario, play},
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
    let work = || {
        let mut wrong = Vec::new();
        let (mut made, mut skipped) = (0, 0);
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (scenario, left_out) = scenario(case).unwrap();
            made += scenario
                .steps
                .iter()
                .map(|step| step.expectations.len())
                .sum::<usize>();
            skipped += left_out;
            match play(&scenario) {
                Ok(found) => wrong.extend(found),
                Err(error) => wrong.push(format!("{}: {error:#}", case.name)),
            }
        }
        (wrong, made, skipped)
    };
    let (mut wrong, mut made, mut skipped) = (Vec::new(), 0, 0);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            let (found, more_made, more_skipped) = worker.join().unwrap();
            wrong.extend(found);
            made += more_made;
            skipped += more_skipped;
        }
    });
    println!(
        "{} cases: {made} connections made, {skipped} expectations that sockets on one node cannot make",
        cases.len()
    );
    assert!(made > 0, "the corpus makes no connection");
    assert!(
        wrong.is_empty(),
        "{} are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
