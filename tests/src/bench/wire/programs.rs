// SPDX-License-Identifier: Apache-2.0
//! Time in the programs, as the kernel counts it (`BPF_ENABLE_STATS`): what of a difference on the wire is theirs.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aya::{
    programs::loaded_programs,
    sys::{Stats, enable_stats},
};
use netpol_agent::datapath::attach::Hook;

/// Time in the agents' programs while `work` runs, in percent of the time that it takes. Counting takes time of its own, which falls on both.
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

/// Of all programs that are called as the agent's are: those of other agents stand still meanwhile.
fn total() -> Result<Duration> {
    let ours = Hook::ALL.map(Hook::name);
    let mut total = Duration::ZERO;
    for program in loaded_programs() {
        // One that went while they were listed.
        let Ok(program) = program else { continue };
        if program.name_as_str().is_some_and(|name| ours.contains(&name)) {
            total += program.run_time();
        }
    }
    Ok(total)
}
