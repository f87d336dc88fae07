// SPDX-License-Identifier: Apache-2.0
//! Measures the time in the programs, as the kernel counts it (`BPF_ENABLE_STATS`): their part of a
//! difference on the wire.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aya::{
    programs::loaded_programs,
    sys::{Stats, enable_stats},
};
use netpol_agent::datapath::attach::Hook;

/// Returns the share of `work`'s time that the agents' programs take, in percent. The counting
/// itself takes time too, which falls on both.
///
/// # Errors
/// Those of `work`; the kernel does not count.
pub fn share(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let counting = enable_stats(Stats::RunTime).context("having the kernel count the time in programs")?;
    let (before, started) = (total()?, Instant::now());
    work()?;
    let (took, in_programs) = (started.elapsed(), total()?.saturating_sub(before));
    drop(counting);
    Ok(in_programs.as_secs_f64() / took.as_secs_f64() * 100.0)
}

/// Sums over all programs with the agent's program names. Other agents are idle meanwhile.
fn total() -> Result<Duration> {
    let ours = Hook::ALL.map(Hook::name);
    let mut total = Duration::ZERO;
    for program in loaded_programs() {
        // The program was unloaded while they were listed.
        let Ok(program) = program else { continue };
        if program.name_as_str().is_some_and(|name| ours.contains(&name)) {
            total += program.run_time();
        }
    }
    Ok(total)
}
