// SPDX-License-Identifier: Apache-2.0
//! Packets that are judged while a plan is written (rule B4). A program makes its lookups one after
//! the other, and any number of writes may come between two of them: but for those before which the
//! agent waits until the program has ended.

use std::{cell::Cell, collections::BTreeMap, io, iter};

use netpol_agent::sync::{Kernel, Memory, Stage, State, Write, apply};
use netpol_tests::{
    kernel::{Lookup, Probe, any, covers, frontend, identity, passes, passes_meanwhile, policy},
    random::{Random, cluster, little_restricted_room},
};
use proptest::prelude::*;

use super::{Bench, probes, run};

/// The maps over time. A step is a number of writes.
pub(super) struct Recorder {
    /// At each step, from 0 on.
    pub(super) states: Vec<State>,
    /// The write before each step but 0.
    writes: Vec<Write>,
    /// Steps at which the agent waited.
    waits: Vec<usize>,
    /// One of so many writes fails, at random, but none of the configuration: that ends a plan.
    failing: Option<(Random, usize)>,
}

impl Recorder {
    pub(super) fn new(state: &State) -> Self {
        Self {
            states: vec![state.clone()],
            writes: Vec::new(),
            waits: Vec::new(),
            failing: None,
        }
    }

    pub(super) fn last(&self) -> usize {
        self.writes.len()
    }

    /// The first and the last step of each stage. A program runs within one.
    pub(super) fn stages(&self) -> impl Iterator<Item = (usize, usize)> {
        let waits = self.waits.iter().copied();
        let ends = waits.clone().chain([self.last()]);
        iter::once(0).chain(waits).zip(ends)
    }

    /// The steps at which a lookup can first find each of its answers.
    fn steps(
        &self,
        (first, last): (usize, usize),
        concerns: impl Fn(&Write) -> bool,
    ) -> impl Iterator<Item = usize> {
        let later = (first + 1..=last).filter(move |step| concerns(&self.writes[step - 1]));
        iter::once(first).chain(later)
    }

    /// Returns the steps of lookups between two steps that lead to neither of these verdicts.
    pub(super) fn third_verdict(
        &self,
        during: (usize, usize),
        probe: &Probe,
        verdicts: [bool; 2],
    ) -> Option<BTreeMap<Lookup, usize>> {
        self.third_verdict_after(&mut BTreeMap::new(), during, probe, verdicts)
    }

    /// The same once some lookups were made.
    fn third_verdict_after(
        &self,
        made: &mut BTreeMap<Lookup, usize>,
        (first, last): (usize, usize),
        probe: &Probe,
        verdicts: [bool; 2],
    ) -> Option<BTreeMap<Lookup, usize>> {
        let Some(next) = Lookup::ALL.get(made.len()) else {
            let passes = passes_meanwhile(|lookup| &self.states[made[&lookup]], probe);
            return (!verdicts.contains(&passes)).then(|| made.clone());
        };
        let numbers = self.numbers(made, probe);
        let steps = self.steps((first, last), |write| concerns(write, *next, probe, &numbers));
        for step in steps {
            made.insert(*next, step);
            let found = self.third_verdict_after(made, (step, last), probe, verdicts);
            if found.is_some() {
                return found;
            }
            made.remove(next);
        }
        None
    }

    /// The policy and the identities that were found so far.
    fn numbers(&self, made: &BTreeMap<Lookup, usize>, probe: &Probe) -> (Option<u32>, Vec<u32>) {
        let at = |lookup| Some(&self.states[*made.get(&lookup)?]);
        let policy = at(Lookup::Endpoint).and_then(|state| policy(state, probe));
        let classes = at(Lookup::Class).map(|state| {
            let address = identity(state, probe).identity;
            let frontends = [probe.remote, any(probe.remote)].map(|at| frontend(state, probe, at));
            frontends.into_iter().flatten().chain([address]).collect()
        });
        (policy, classes.unwrap_or_default())
    }
}

/// Whether a write may change what a lookup finds, that of a policy's entry by the policy and the
/// identities that were found before.
fn concerns(
    write: &Write,
    lookup: Lookup,
    probe: &Probe,
    (policy, classes): &(Option<u32>, Vec<u32>),
) -> bool {
    match (lookup, write) {
        (Lookup::Endpoint, Write::Endpoints(edit)) => *edit.key() == probe.ifindex,
        (Lookup::Endpoint, Write::Attached(edit)) => *edit.key() == probe.ifindex,
        (Lookup::Class, Write::Identities(edit)) => covers(*edit.key(), probe.remote),
        (Lookup::Class, Write::Frontends(edit)) => {
            let frontend = edit.key();
            (frontend.protocol, frontend.port) == (probe.protocol, probe.port)
                && [probe.remote, any(probe.remote)].contains(&frontend.address)
        }
        (Lookup::Entry, Write::Policies(edit)) => {
            let (of, entry) = edit.key();
            Some(*of) == *policy && classes.contains(&entry.identity)
        }
        _ => false,
    }
}

impl Kernel for Recorder {
    type Error = io::Error;

    fn write(&mut self, write: &Write) -> io::Result<()> {
        if let Some((random, every)) = &mut self.failing
            && !matches!(write, Write::Config(_))
            && random.below(*every) == 0
        {
            return Err(io::Error::from_raw_os_error(16));
        }
        let mut state = self.states[self.last()].clone();
        state.record(write);
        self.states.push(state);
        self.writes.push(write.clone());
        Ok(())
    }

    fn wait(&mut self, _: Stage) {
        self.waits.push(self.last());
    }
}

#[test]
fn b4_a_packet_that_is_judged_while_a_plan_is_written_gets_the_verdict_of_before_or_after() {
    let without_waiting = Cell::new(0);
    run(250, |seed, keeps, change| {
        let mut random = Random(seed);
        let mut bench = Bench::new(keeps);
        let mut before = little_restricted_room(cluster(&mut random), seed);
        let (_, first) = bench.plan(&before);
        bench.apply(first);
        for _ in 0..4 {
            let after = change(&mut random, &before);
            if random.below(4) == 0 {
                bench.memory = Memory::default(); // The agent was restarted.
            }
            let (compiled, plan) = bench.plan(&after);
            let probes = probes(&mut random, [&before, &after], &compiled);
            let mut recorder = Recorder::new(&bench.state);
            let report = apply(plan, &mut bench.state, &mut bench.memory, &mut recorder);
            prop_assert_eq!(report.failures, []);
            for probe in &probes {
                let [old, new] = [0, recorder.last()].map(|step| passes(&recorder.states[step], probe));
                for stage in recorder.stages() {
                    let third = recorder.third_verdict(stage, probe, [old, new]);
                    prop_assert!(
                        third.is_none(),
                        "{probe:?} passes: before {old}, after {new}, but not with lookups at steps {third:?} of \
                         {stage:?}, which one of these precedes:\n{:#?}",
                        recorder.writes.iter().enumerate().collect::<Vec<_>>()
                    );
                }
                let all = (0, recorder.last());
                let third = recorder.third_verdict(all, probe, [old, new]);
                without_waiting.set(without_waiting.get() + usize::from(third.is_some()));
            }
            before = after;
        }
        Ok(())
    });
    assert!(without_waiting.get() > 0, "no wait was needed");
}

/// Whatever fails, the agent waits before it takes something away.
#[test]
fn b4_l1_no_packet_is_lost_meanwhile_when_writes_fail() {
    let without_waiting = Cell::new(0);
    run(250, |seed, keeps, change| {
        let mut random = Random(seed);
        let mut bench = Bench::new(keeps);
        let mut before = little_restricted_room(cluster(&mut random), seed);
        let (_, first) = bench.plan(&before);
        bench.apply(first);
        for _ in 0..4 {
            let after = change(&mut random, &before);
            let (compiled, plan) = bench.plan(&after);
            let probes = probes(&mut random, [&before, &after], &compiled);
            let mut recorder = Recorder::new(&bench.state);
            recorder.failing = Some((Random(random.below(usize::MAX) as u64), 2 + random.below(20)));
            apply(plan, &mut bench.state, &mut bench.memory, &mut recorder);
            let last = recorder.last();
            for probe in probes
                .iter()
                .filter(|probe| recorder.states.iter().all(|state| passes(state, probe)))
            {
                for stage in recorder.stages() {
                    let lost = recorder.third_verdict(stage, probe, [true; 2]);
                    prop_assert!(
                        lost.is_none(),
                        "{probe:?} always passes, but not with lookups at steps {lost:?} of {stage:?}, which one of \
                         these precedes:\n{:#?}",
                        recorder.writes.iter().enumerate().collect::<Vec<_>>()
                    );
                }
                let lost = recorder.third_verdict((0, last), probe, [true; 2]);
                without_waiting.set(without_waiting.get() + usize::from(lost.is_some()));
            }
            let (_, rest) = bench.plan(&after);
            bench.apply(rest);
            before = after;
        }
        Ok(())
    });
    assert!(without_waiting.get() > 0, "no wait was needed");
}
