// SPDX-License-Identifier: Apache-2.0
//! The agent's wait for programs that still go by what they read before (rule B4).

use std::thread;

use netpol_agent::datapath::wait_for_programs;
use netpol_tests::{
    privilege,
    slow::{Progress, Slow},
};

use super::SUITE;

#[test]
fn b4_the_wait_ends_after_a_program_that_was_running() {
    if !privilege::can_make_nodes(SUITE) {
        return;
    }
    let slow = Slow::load().unwrap();
    thread::scope(|scope| {
        let run = scope.spawn(|| slow.run(&[0; 64]));
        while slow.progress().unwrap() == Progress::None {
            assert!(!run.is_finished(), "it did not run");
            thread::yield_now();
        }
        assert_eq!(
            slow.progress().unwrap(),
            Progress::Running,
            "it was too fast to wait for"
        );
        wait_for_programs();
        assert_eq!(slow.progress().unwrap(), Progress::Ended);
        run.join().unwrap().unwrap();
    });
}
