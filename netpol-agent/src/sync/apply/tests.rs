// SPDX-License-Identifier: Apache-2.0
use std::{io, net::IpAddr};

use netpol_common::abi::{IDENTITY_NONE, Identity, PolicyValue};

use super::*;
use crate::sync::EntryKey;

/// What was asked of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Write,
    Wait(Stage),
}

/// A kernel that refuses the writes of one table.
#[derive(Default)]
struct Recorded {
    calls: Vec<Call>,
    refused: Option<fn(&Write) -> bool>,
    written: Vec<Write>,
}

impl Kernel for Recorded {
    type Error = io::Error;

    fn write(&mut self, write: &Write) -> io::Result<()> {
        if self.refused.is_some_and(|refused| refused(write)) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.calls.push(Call::Write);
        self.written.push(write.clone());
        Ok(())
    }

    fn wait(&mut self, next: Stage) {
        self.calls.push(Call::Wait(next));
    }
}

/// A write that nothing depends on.
fn write(ifindex: u32) -> Write {
    Write::LocalPods(Put(IpAddr::from([10, 0, 0, 1]), ifindex))
}

fn apply_to(kernel: &mut Recorded, stages: &[(Stage, Vec<Write>)], state: &mut State) -> Report {
    let plan = Plan {
        stages: stages.iter().cloned().collect(),
        ..Plan::default()
    };
    apply(plan, state, &mut Memory::default(), kernel)
}

fn calls(stages: &[(Stage, Vec<Write>)], refused: fn(&Write) -> bool) -> Vec<Call> {
    let mut kernel = Recorded {
        refused: Some(refused),
        ..Recorded::default()
    };
    apply_to(&mut kernel, stages, &mut State::default());
    kernel.calls
}

const NONE: fn(&Write) -> bool = |_| false;

#[test]
fn b4_the_kernel_waits_before_each_stage_with_writes_after_others() {
    let stages = [Stage::Separate, Stage::Enforce, Stage::Remove, Stage::Sweep];
    let all = stages.map(|stage| (stage, vec![write(1), write(2)]));
    let mut expected = vec![Call::Write, Call::Write];
    for stage in &stages[1..] {
        expected.extend([Call::Wait(*stage), Call::Write, Call::Write]);
    }
    assert_eq!(calls(&all, NONE), expected);
    for stage in stages {
        assert_eq!(
            calls(&[(stage, vec![write(1)])], NONE),
            [Call::Write],
            "{stage:?}"
        );
    }
    let apart = [(Stage::Enforce, vec![write(1)]), (Stage::Sweep, vec![write(2)])];
    assert_eq!(
        calls(&apart, NONE),
        [Call::Write, Call::Wait(Stage::Sweep), Call::Write]
    );
}

#[test]
fn b4_a_stage_in_which_nothing_is_written_is_not_waited_for() {
    let first: fn(&Write) -> bool = |planned| *planned == write(1);
    let two = |before: Vec<Write>| [(Stage::Enforce, before), (Stage::Remove, vec![write(2)])];
    assert_eq!(calls(&two(vec![write(1)]), first), [Call::Write]);
    let both = two(vec![write(1), write(3)]);
    assert_eq!(
        calls(&both, first),
        [Call::Write, Call::Wait(Stage::Remove), Call::Write]
    );
    // What is left out after a failure is no write: `10.0.0.1` would fall to a prefix that stays.
    let address: IpNet = "10.0.0.1/32".parse().expect("a prefix");
    let around: IpNet = "10.0.0.0/8".parse().expect("a prefix");
    let stages = [
        (Stage::Enforce, vec![write(2), Write::Identities(Remove(around))]),
        (Stage::Remove, vec![Write::Identities(Remove(address))]),
    ];
    let removal: fn(&Write) -> bool = |planned| matches!(planned, Write::Identities(_));
    assert_eq!(calls(&stages, removal), [Call::Write]);
}

/// An address that could not get an identity which the new policy denies: who still lets it pass is
/// closed before the plan waits.
#[test]
fn l1_what_is_too_wide_is_closed_before_the_wait() {
    let address: IpNet = "10.0.0.1/32".parse().expect("a prefix");
    let identity = |identity| Identity { identity, flags: 0 };
    let entry = |identity| EntryKey {
        identity,
        protocol: None,
    };
    let accept = PolicyValue {
        action: netpol_common::abi::ACTION_ACCEPT,
        rule: 0,
    };
    let endpoint = |ingress_policy| Endpoint {
        ifindex: 7,
        id: 1,
        ingress_policy,
        ..Endpoint::default()
    };
    let mut state = State::default();
    for held in [
        Write::Endpoints(Put(7, endpoint(1))),
        Write::Identities(Put(address, identity(5))),
        Write::Policies(Put((1, entry(5)), accept)),
        Write::Policies(Put((2, entry(5)), accept)),
    ] {
        state.record(&held);
    }
    let stages = [
        (
            Stage::Enforce,
            vec![
                Write::Identities(Put(address, identity(IDENTITY_NONE))),
                Write::Endpoints(Put(7, endpoint(2))),
            ],
        ),
        (Stage::Remove, vec![Write::Policies(Remove((1, entry(5))))]),
    ];
    let mut kernel = Recorded {
        refused: Some(|planned| matches!(planned, Write::Identities(_))),
        ..Recorded::default()
    };
    let report = apply_to(&mut kernel, &stages, &mut state);
    assert!(report.held_back.contains(&7), "{report:?}");
    assert_eq!(state.endpoints[&7].ingress_policy, POLICY_DENY);
    let closing = Write::Endpoints(Put(7, endpoint(POLICY_DENY)));
    let closed = kernel.written.iter().position(|written| *written == closing);
    let wait = kernel
        .calls
        .iter()
        .position(|call| *call == Call::Wait(Stage::Remove));
    assert!(
        closed < wait && closed.is_some(),
        "{:?}: {:?}",
        kernel.calls,
        kernel.written
    );
}
