// SPDX-License-Identifier: Apache-2.0
//! Changes single objects through the API server, one after the other, and times each from the
//! request to the kernel.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    changed::{self, Request, newcomer, pod_elsewhere, policy, relabelled},
    crowd::{self, APPS},
    stage::{NEWCOMERS, Stage},
    stream::Stream,
};
use netpol_tests::agent::Agent;

/// Time limit for one change.
const DEADLINE: Duration = Duration::from_secs(60);
/// The agent is idle after this long without a log line, or after twice the slowest change.
const QUIET: Duration = Duration::from_millis(500);
/// Local pods that change: one of each app of the first namespace, where all policies are active.
const HERE: std::ops::Range<usize> = 0..APPS;

/// One timed change.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// From the event at the agent to the last write, in ms.
    pub event: f64,
    /// From just before the request to the agent's log line after the last write, in ms.
    pub request: f64,
    /// From just before the request to the event at a bare watch, in ms.
    pub watch: f64,
    /// Writes to kernel maps.
    pub writes: u64,
}

/// All samples of one kind of change.
#[derive(Debug, Clone)]
pub struct Timed {
    /// What was changed.
    pub name: &'static str,
    /// Each time.
    pub samples: Vec<Sample>,
}

/// Number of changes of each kind to time.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Maximum number of changes.
    pub samples: usize,
    /// No change begins after this time.
    pub time: Duration,
}

/// Makes and times changes.
pub struct Mover<'a> {
    stage: &'a Stage,
    agent: &'a Agent,
    stream: Stream,
    effort: Effort,
    revision: u64,
    slowest: Duration,
}

impl<'a> Mover<'a> {
    /// Makes a mover for an agent that enforces.
    ///
    /// # Errors
    /// If the API server cannot be watched.
    pub fn new(stage: &'a Stage, agent: &'a Agent, effort: Effort) -> Result<Self> {
        let stream = Stream::start(&stage.api)?;
        Ok(Self {
            stage,
            agent,
            stream,
            effort,
            revision: agent.revision(),
            slowest: Duration::ZERO,
        })
    }

    /// Times policies that select a local pod, and pods of its app elsewhere: added, changed,
    /// deleted.
    ///
    /// # Errors
    /// If a change is refused, or does not reach the kernel.
    pub fn policies(&mut self) -> Result<[Timed; 3]> {
        let mut all = ["policy_added", "policy_changed", "policy_deleted"].map(timed);
        let until = Instant::now() + self.effort.time;
        for number in 0..self.effort.samples {
            if Instant::now() > until {
                break;
            }
            let name = format!("bench-{number}");
            let policy = policy(&name, number, false);
            all[0].samples.push(self.time(&name, Request::Create(policy))?);
            let policy = changed::policy(&name, number, true);
            all[1]
                .samples
                .push(self.time(&name, Request::Merge(policy.clone()))?);
            all[2].samples.push(self.time(&name, Request::Delete(policy))?);
        }
        Ok(all)
    }

    /// Times pods of other nodes that active policies here name as peers: one gets its address,
    /// another app, and goes.
    ///
    /// # Errors
    /// As [`Mover::policies`].
    pub fn pods_elsewhere(&mut self) -> Result<[Timed; 3]> {
        let mut all = [
            "pod_elsewhere_added",
            "pod_elsewhere_relabelled",
            "pod_elsewhere_deleted",
        ]
        .map(timed);
        let pods: Vec<Value> = (0..self.effort.samples).map(pod_elsewhere).collect();
        self.create_without_address(&pods)?;
        let until = Instant::now() + self.effort.time;
        for pod in pods {
            if Instant::now() > until {
                self.send(Request::Delete(pod))?;
                continue;
            }
            let name = changed::name(&pod);
            all[0]
                .samples
                .push(self.time(&name, Request::Status(pod.clone()))?);
            let other = relabelled(&pod, 9);
            all[1].samples.push(self.time(&name, Request::Merge(other))?);
            all[2].samples.push(self.time(&name, Request::Delete(pod))?);
        }
        self.settle();
        Ok(all)
    }

    /// Times pods of this node that get another app.
    ///
    /// # Errors
    /// As [`Mover::policies`].
    pub fn pods_here(&mut self) -> Result<Timed> {
        let mut timed = timed("pod_here_relabelled");
        let until = Instant::now() + self.effort.time;
        let rounds = (1..).flat_map(|round| HERE.map(move |index| (round, index)));
        for (round, index) in rounds.take(self.effort.samples) {
            if Instant::now() > until {
                break;
            }
            let pod = self.stage.crowd.pod(index);
            let other = relabelled(&pod, index + round);
            timed
                .samples
                .push(self.time(&changed::name(&pod), Request::Merge(other))?);
        }
        Ok(timed)
    }

    /// Times pods that come to this node, each on a new interface, because an interface is its
    /// pod's for good; and that go.
    ///
    /// # Errors
    /// As [`Mover::policies`].
    pub fn newcomers(&mut self) -> Result<[Timed; 2]> {
        let mut all = ["pod_here_new", "pod_here_deleted"].map(timed);
        let pods: Vec<Value> = (0..NEWCOMERS.min(self.effort.samples)).map(newcomer).collect();
        self.create_without_address(&pods)?;
        let until = Instant::now() + self.effort.time;
        for pod in &pods {
            if Instant::now() > until {
                break;
            }
            let name = changed::name(pod);
            all[0]
                .samples
                .push(self.time(&name, Request::Status(pod.clone()))?);
        }
        for (nth, pod) in pods.into_iter().enumerate() {
            if nth < all[0].samples.len() && Instant::now() <= until {
                let name = changed::name(&pod);
                all[1].samples.push(self.time(&name, Request::Delete(pod))?);
            } else {
                self.send(Request::Delete(pod))?;
            }
        }
        self.settle();
        Ok(all)
    }

    /// Times namespaces that active policies here name as peers: an average one, and the large one.
    ///
    /// # Errors
    /// As [`Mover::policies`].
    pub fn namespaces(&mut self) -> Result<[Timed; 2]> {
        let mut all = ["namespace_relabelled", "large_namespace_relabelled"].map(timed);
        for (timed, index) in all.iter_mut().zip([2, 1]) {
            let until = Instant::now() + self.effort.time;
            for number in 0..self.effort.samples {
                if Instant::now() > until {
                    break;
                }
                // Policies of the first namespace allow the second one's team.
                let team = crowd::team(if number % 2 == 0 { 5 } else { 1 });
                let namespace = json!({
                    "apiVersion": "v1", "kind": "Namespace",
                    "metadata": {"name": crowd::near_name(index), "labels": {"team": team}},
                });
                let name = changed::name(&namespace);
                timed.samples.push(self.time(&name, Request::Merge(namespace))?);
            }
        }
        Ok(all)
    }

    /// Creates pods without an address, and waits until the agent is idle.
    fn create_without_address(&mut self, pods: &[Value]) -> Result<()> {
        for pod in pods {
            self.send(Request::Create(pod.clone()))?;
        }
        self.settle();
        Ok(())
    }

    /// Waits until the agent logs nothing more.
    fn settle(&mut self) {
        let seen = self.agent.log_length();
        let quiet = QUIET.max(2 * self.slowest);
        self.revision = self.revision.max(self.agent.revision());
        while let Ok(applied) = self.agent.wait_for_applied(seen, self.revision, quiet) {
            self.revision = applied.revision;
        }
    }

    /// Makes a change, waits until it is in the kernel, and times it.
    fn time(&mut self, name: &str, request: Request) -> Result<Sample> {
        let seen = self.agent.log_length();
        let before = SystemTime::now();
        let is_deleted = matches!(request, Request::Delete(_));
        self.send(request)?;
        let mut applied = self.agent.wait_for_applied(seen, self.revision, DEADLINE)?;
        // A deleted pod is first marked, by an event that changes nothing here. Both events usually
        // fall into one turn of the agent, but not always.
        if is_deleted && applied.writes == 0 {
            let more = self.agent.wait_for_applied(seen, applied.revision, QUIET);
            applied = more.unwrap_or(applied);
        }
        let event = self.stream.wait_for_after(name, before)?;
        self.revision = applied.revision;
        let delay = applied.delay.context("the agent tells no delay")?;
        let request = applied
            .at
            .duration_since(before)
            .context("the agent was done before the request")?;
        let watch = event
            .duration_since(before)
            .context("the event came before the request")?;
        ensure!(
            delay < request,
            "what the agent applied began before the change of {name} was asked for: {delay:?}, {request:?}\n{}",
            self.agent.log_since(seen.saturating_sub(4))
        );
        self.slowest = self.slowest.max(request);
        Ok(Sample {
            event: milliseconds(delay),
            request: milliseconds(request),
            watch: milliseconds(watch),
            writes: applied.writes,
        })
    }

    fn send(&self, request: Request) -> Result<()> {
        let client = self.stage.api.administrator()?;
        self.stage.api.run(request.send(client))
    }
}

fn timed(name: &'static str) -> Timed {
    Timed {
        name,
        samples: Vec::new(),
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
