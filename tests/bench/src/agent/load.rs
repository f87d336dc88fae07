// SPDX-License-Identifier: Apache-2.0
//! CPU time of the agent while nothing happens, and while pods come and go all the time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::time::MissedTickBehavior;

use super::process::cpu_time;
use crate::changes::{Stage, changed, crowd};
use netpol_tests::{agent::Agent, apiserver::etcd};

/// Changes of pods a second.
pub const RATE: u32 = 100;
/// Pods that come and go.
const PODS: usize = 25;

/// A share of one CPU, percent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Percent(pub f64);

/// Measures the agent's CPU time while nothing changes.
///
/// # Errors
/// If it does not run.
#[expect(
    clippy::disallowed_methods,
    reason = "what is measured is what happens while time passes"
)]
pub fn idle(agent: &Agent, time: Duration) -> Result<Percent> {
    measured(agent, || {
        std::thread::sleep(time);
        Ok(())
    })
}

/// Measures the agent's CPU time while [`RATE`] pods a second come, change their app, and go. Also
/// returns each change's time from event to kernel, in ms.
///
/// # Errors
/// If the agent does not run, or etcd refuses a change.
pub fn churn(stage: &Stage, agent: &Agent, time: Duration) -> Result<(Percent, Vec<f64>)> {
    let seen = agent.log_length();
    let client = etcd::client(&stage.api)?;
    let changes = (time.as_secs_f64() * f64::from(RATE)) as usize;
    let percent = measured(agent, || {
        let client = client.clone();
        stage.api.run(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut sent = Vec::new();
            for number in 0..changes {
                ticks.tick().await;
                let client = client.clone();
                sent.push(tokio::spawn(async move {
                    etcd::send(&client, vec![operation(number)]).await
                }));
            }
            for sent in sent {
                sent.await.context("a change panicked")??;
            }
            Ok(())
        })
    })?;
    let left = (0..PODS).map(|number| etcd::remove(&crowd::key("pods", &pod(number))));
    let left: Vec<Value> = left.collect();
    stage.api.run(async move { etcd::send(&client, left).await })?;
    let applied = agent.applied_since(seen);
    let delays = applied.iter().filter_map(|applied| applied.delay);
    Ok((
        percent,
        delays.map(|delay| delay.as_secs_f64() * 1000.0).collect(),
    ))
}

/// A pod that is not among those changed one by one.
fn pod(number: usize) -> Value {
    changed::pod_elsewhere(10_000 + number % PODS)
}

/// Returns change `number`: each pod comes, gets another app and the old one back, and goes.
fn operation(number: usize) -> Value {
    let pod = pod(number);
    let key = crowd::key("pods", &pod);
    let mut other = pod.clone();
    other["metadata"]["labels"] = crowd::labels(9);
    match number / PODS % 4 {
        0 | 2 => etcd::put_one(&key, &pod),
        1 => etcd::put_one(&key, &other),
        _ => etcd::remove(&key),
    }
}

fn measured(agent: &Agent, work: impl FnOnce() -> Result<()>) -> Result<Percent> {
    let pid = agent.pid().context("the agent does not run")?;
    let (before, started) = (cpu_time(pid)?, Instant::now());
    work()?;
    let used = cpu_time(pid)?.saturating_sub(before);
    Ok(Percent(
        used.as_secs_f64() / started.elapsed().as_secs_f64() * 100.0,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pod_comes_changes_twice_and_goes() {
        let kinds: Vec<(bool, bool)> = (0..4)
            .map(|phase| operation(phase * PODS))
            .map(|operation| {
                let put = operation["requestPut"].is_object();
                (put, operation["requestDeleteRange"].is_object())
            })
            .collect();
        assert_eq!(
            kinds,
            [(true, false), (true, false), (true, false), (false, true)]
        );
        assert_ne!(operation(0), operation(PODS), "another app");
        assert_eq!(operation(0), operation(2 * PODS));
        assert_ne!(operation(0), operation(1), "another pod");
        assert_eq!(operation(0), operation(4 * PODS));
    }
}
