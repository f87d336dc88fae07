// SPDX-License-Identifier: Apache-2.0
//! The agent's wait for programs that still go by what they read before (rule B4).

use std::thread;

use netpol_agent::datapath::wait_for_programs;
use netpol_tests::{
    privilege,
    slow::{Progress, Slow},
};

use super::SUITE;

/// Runs of the slow program until one is met while it runs: on a busy machine, this thread may get
/// no CPU for as long as one takes.
const RUNS: usize = 20;

#[test]
fn b4_the_wait_ends_after_a_program_that_was_running() {
    if !privilege::can_make_nodes(SUITE) {
        return;
    }
    assert!(
        (0..RUNS).any(|_| is_waited_for()),
        "none of {RUNS} runs was met while it ran"
    );
}

/// Waits while the program runs. False if it was not met while it ran.
fn is_waited_for() -> bool {
    let slow = Slow::load().unwrap();
    thread::scope(|scope| {
        let run = scope.spawn(|| slow.run(&[0; 64]));
        while slow.progress().unwrap() == Progress::None && !run.is_finished() {
            thread::yield_now();
        }
        let is_met = slow.progress().unwrap() == Progress::Running;
        if is_met {
            wait_for_programs();
            assert_eq!(slow.progress().unwrap(), Progress::Ended);
        }
        run.join().unwrap().unwrap();
        is_met
    })
}
