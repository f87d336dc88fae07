// SPDX-License-Identifier: Apache-2.0
//! Plays frames at the hooks of one node, in order, in the kernel and in the [`Mirror`].

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use netpol_agent::datapath::{CounterReader, attach::Hook};
use netpol_common::{
    abi::{self, Counter, Counters, Direction, DropReason, Flow},
    decide::Drop,
    flow,
};

use super::to_hex;
use crate::{
    progrun::{Bench, Met},
    tables::{Mirror, plain},
};

/// The kernel's clock runs and the mirror's does not: a play longer than the shortest lifetime of a
/// flow is not compared.
const PATIENCE: Duration =
    Duration::from_nanos(flow::lifetime(6, flow::State::Closed as u8, &flow::DEFAULTS));

/// A frame at a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The hook.
    pub met: Met,
    /// The frame, at least 14 bytes.
    pub frame: Vec<u8>,
    /// The evaluator's verdict at this hook, if no flow is known.
    pub truth: Option<bool>,
    /// True to read the tag that the frame has after the hook, instead of the action.
    pub asks_tag: bool,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Met {
            hook,
            ifindex,
            ingress_ifindex,
            tag,
        } = self.met;
        let frame = to_hex(&self.frame);
        let asks = if self.asks_tag { ", asks for the tag" } else { "" };
        write!(
            f,
            "{hook} of {ifindex}, came by {ingress_ifindex}, tag {tag:#06x}{asks}: {frame}"
        )
    }
}

/// Number of frames by verdict.
pub type Tally = BTreeMap<&'static str, u64>;

/// Kernel and mirror, both without flows.
pub struct Pair<'a> {
    /// The kernel.
    pub bench: &'a mut Bench,
    /// The mirror.
    pub mirror: &'a mut Mirror,
    counters: CounterReader,
}

impl<'a> Pair<'a> {
    /// Makes a pair of a bench and the mirror of its maps.
    ///
    /// # Errors
    /// The counters cannot be opened.
    pub fn new(bench: &'a mut Bench, mirror: &'a mut Mirror) -> Result<Self> {
        let counters = CounterReader::open(bench.pin_path())?;
        Ok(Self {
            bench,
            mirror,
            counters,
        })
    }

    /// Plays steps, starting with empty flow tables. Returns the first difference.
    ///
    /// # Errors
    /// The kernel does not run a program, or the machine is too slow to compare anything.
    pub fn play(&mut self, steps: &[Step], tally: &mut Tally) -> Result<Option<String>> {
        for _ in 0..3 {
            let started = Instant::now();
            let mut met = Tally::new();
            let difference = self.play_once(steps, &mut met)?;
            if started.elapsed() < PATIENCE {
                for (verdict, count) in met {
                    *tally.entry(verdict).or_default() += count;
                }
                return Ok(difference);
            }
        }
        ensure!(
            false,
            "{} frames took longer than {PATIENCE:?}, three times",
            steps.len()
        );
        Ok(None)
    }

    fn play_once(&mut self, steps: &[Step], tally: &mut Tally) -> Result<Option<String>> {
        self.mirror.reset();
        self.bench.forget_flows()?;
        let before = self.counted()?;
        for (index, step) in steps.iter().enumerate() {
            let drop = self.mirror.run(step.met, &step.frame);
            let reason = drop.map(|drop| drop.reason);
            *tally
                .entry(reason.map_or("forwarded", DropReason::name))
                .or_default() += 1;
            if let Some(what) = self.compare(step, reason)? {
                return Ok(Some(format!("frame {index}: {what}")));
            }
            if let Some(what) = self.compare_event(step, drop)? {
                return Ok(Some(format!("frame {index}: {what}")));
            }
            if let Some(allowed) = step.truth
                && !self.mirror.flow_met()
                && allowed != reason.is_none()
            {
                let what =
                    format!("frame {index}: the evaluator allows it: {allowed}, the programs say {reason:?}");
                return Ok(Some(what));
            }
        }
        let after = self.counted()?;
        for direction in Direction::ALL {
            let [after, before] = [after, before].map(|counted| counted[direction as usize]);
            let kernel = difference(after, before);
            let mirror = self.mirror.counters(direction);
            if kernel != mirror {
                let name = direction.name();
                return Ok(Some(format!(
                    "{name}: the kernel counted {kernel:?}, userspace {mirror:?}"
                )));
            }
        }
        let kernel: BTreeMap<_, _> = self
            .bench
            .flows()?
            .into_iter()
            .map(|(key, flow)| plain(key, flow))
            .collect();
        let mirror = self.mirror.flows();
        if kernel != mirror {
            let only = |one: &BTreeMap<String, Flow>, other: &BTreeMap<String, Flow>| -> Vec<String> {
                one.iter()
                    .filter(|(key, flow)| other.get(*key) != Some(flow))
                    .map(|(key, flow)| format!("{key}: {flow:?}"))
                    .collect()
            };
            return Ok(Some(format!(
                "flows of the kernel only: {:#?}, of userspace only: {:#?}",
                only(&kernel, &mirror),
                only(&mirror, &kernel)
            )));
        }
        Ok(None)
    }

    /// Runs a step in the kernel, and describes the difference to userspace.
    fn compare(&mut self, step: &Step, reason: Option<DropReason>) -> Result<Option<String>> {
        if step.asks_tag {
            let (kernel, mirror) = (self.bench.tag_behind(step.met, &step.frame)?, self.mirror.tag());
            let what = format!("the kernel gives it tag {kernel:#06x}, userspace {mirror:#06x}");
            return Ok((kernel != mirror).then_some(what));
        }
        let passes = self.bench.passes_tagged(step.met, &step.frame)?;
        let kernel = if passes { "passes it" } else { "drops it" };
        let what = format!("the kernel {kernel}, userspace says {reason:?}");
        Ok((passes != reason.is_none()).then_some(what))
    }

    /// Describes the difference to userspace in the event of a drop, if the bench writes events.
    fn compare_event(&mut self, step: &Step, drop: Option<Drop>) -> Result<Option<String>> {
        if !self.bench.writes_events() {
            return Ok(None);
        }
        let told = self.bench.take_events()?;
        let told: Vec<_> = told
            .iter()
            .map(|event| {
                let whose = (event.subject, event.direction, event.reply != 0);
                (event.hook, event.reason, event.policy, event.identity, whose)
            })
            .collect();
        let hook = match step.met.hook {
            Hook::ToPod => abi::Hook::ToPod,
            Hook::FromPod => abi::Hook::FromPod,
            Hook::ToNetwork => abi::Hook::ToNetwork,
        };
        let expected: Vec<_> = drop
            .iter()
            .map(|drop| {
                let whose = (drop.whose.subject, drop.whose.direction as u8, drop.whose.reply);
                (hook as u8, drop.reason as u8, drop.policy, drop.identity, whose)
            })
            .collect();
        let what = format!("the kernel tells {told:?}, userspace {expected:?}");
        Ok((told != expected).then_some(what))
    }

    fn counted(&self) -> Result<[Counters; 2]> {
        let mut counted = [Counters::default(); 2];
        for direction in Direction::ALL {
            counted[direction as usize] = self.counters.read(direction)?;
        }
        Ok(counted)
    }
}

/// Subtracts counters.
fn difference(mut after: Counters, mut before: Counters) -> Counters {
    let less = |after: &mut Counter, before: Counter| {
        after.packets -= before.packets;
        after.bytes -= before.bytes;
    };
    for reason in DropReason::ALL {
        less(after.dropped(reason), *before.dropped(reason));
    }
    less(&mut after.forwarded, before.forwarded);
    less(&mut after.flows_created, before.flows_created);
    after.flow_insert_failures -= before.flow_insert_failures;
    after
}
