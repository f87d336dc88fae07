// SPDX-License-Identifier: Apache-2.0
//! More drops than events may report, or than the ring holds: none is missing from the counts.

use netpol_common::abi::Direction;
use netpol_tests::{lab::Lab, probe::Outcome};
use serde_json::Value;

use crate::shared::{FLOODER, Flood, NEIGHBOUR, VICTIM, counted, lab, policy, restart_with, suppressed};

const DENY: &str = "ingress: [{from: [{podSelector: {matchLabels: {app: neighbour}}}]}]";
/// More than fits into the ring buffer: 512 KiB of events of 88 bytes each.
const PACKETS: u16 = 30_000;

/// Returns the drops at all hooks, for any reason.
fn drops(lab: &Lab) -> u64 {
    let all = |direction| {
        counted(lab, direction, |counters| {
            netpol_common::abi::DropReason::ALL
                .iter()
                .map(|reason| counters.clone().dropped(*reason).packets)
                .sum()
        })
    };
    Direction::ALL.into_iter().map(all).sum()
}

/// Returns the number of events in the agent's log, and the drops that they report.
fn told(lab: &Lab) -> (u64, u64) {
    let log = lab.agent.log();
    let events = log.lines().filter(|line| line.contains("\"packet dropped\""));
    events.fold((0, 0), |(events, drops), line| {
        let value: Value = serde_json::from_str(line).unwrap();
        (
            events + 1,
            drops + 1 + value["fields"]["suppressed"].as_u64().unwrap(),
        )
    })
}

fn flood(lab: &Lab) {
    let flood = Flood::new(lab, FLOODER, VICTIM);
    for number in 0..PACKETS {
        flood.syn(flood.own[usize::from(number % 2)], number, 8080);
    }
    lab.expect(FLOODER, VICTIM, &Outcome::Silent);
    lab.expect(NEIGHBOUR, VICTIM, &Outcome::Reached);
}

/// Waits until as many drops are reported as were counted.
fn expect_all_told(lab: &Lab, before: u64) -> u64 {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let (events, told) = told(lab);
        let (counted, left_out) = (drops(lab) - before, suppressed(lab));
        if told + left_out == counted {
            return events;
        }
        assert!(
            std::time::Instant::now() < until,
            "{events} events tell of {told} drops, {left_out} more are left out, {counted} were counted"
        );
        std::thread::yield_now();
    }
}

#[test]
fn c4_more_drops_than_events_may_tell_are_counted() {
    let Some(mut lab) = lab(&policy("victim", "Ingress", DENY)) else {
        return;
    };
    lab.agent.stop().unwrap();
    let before = drops(&lab) - suppressed(&lab);
    lab.agent.set_argument("--events-per-second", "50");
    lab.agent.restart().unwrap();
    flood(&lab);
    let events = expect_all_told(&lab, before);
    assert!(drops(&lab) > before + u64::from(PACKETS));
    assert!((1..10_000).contains(&events), "{events} events");
    assert!(suppressed(&lab) > 0);
}

#[test]
fn c4_a_full_ring_of_events_lets_nothing_in_and_counts_what_it_lost() {
    let Some(mut lab) = lab(&policy("victim", "Ingress", DENY)) else {
        return;
    };
    restart_with(&mut lab, "--events-per-second", "1000000");
    // Nobody reads the ring.
    lab.agent.kill().unwrap();
    let before = drops(&lab) - suppressed(&lab);
    flood(&lab);
    assert!(drops(&lab) >= before + u64::from(PACKETS));
    let lost = suppressed(&lab);
    assert!(lost > 10_000, "only {lost} events found no room");
    // The next agent reads the ring: reported and suppressed drops add up to the count.
    lab.agent.restart().unwrap();
    let events = expect_all_told(&lab, before);
    assert!(events > 5_000, "only {events} events");
}
