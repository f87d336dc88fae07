// SPDX-License-Identifier: Apache-2.0
//! Memory and CPU time of a process, as the kernel counts them.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};

/// Memory of a process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Resident now.
    pub resident: u64,
    /// Peak resident memory.
    pub peak: u64,
}

/// Returns the memory of a process.
///
/// # Errors
/// If there is no such process.
pub fn memory(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    parse_memory(&text).with_context(|| format!("{path} tells no memory"))
}

fn parse_memory(status: &str) -> Option<Memory> {
    let bytes = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    };
    Some(Memory {
        resident: bytes("VmRSS:")?,
        peak: bytes("VmHWM:")?,
    })
}

/// Returns the CPU time of a process, including ended threads. The kernel usually counts in
/// hundredths of a second.
///
/// # Errors
/// If there is no such process.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let ticks = parse_ticks(&text).with_context(|| format!("{path} tells no time"))?;
    let rate = sysconf(SysconfVar::CLK_TCK)?.context("the kernel does not say how long a tick is")?;
    Ok(Duration::from_secs_f64(ticks as f64 / rate as f64))
}

/// Parses the ticks in user mode and in the kernel.
fn parse_ticks(stat: &str) -> Option<u64> {
    // The program's name, in parentheses, may contain anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut number = || fields.next()?.parse::<u64>().ok();
    Some(number()? + number()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        let status =
            "Name:\tnetpol\nVmPeak:\t  999 kB\nVmHWM:\t   20480 kB\nVmRSS:\t   10240 kB\nThreads:\t3\n";
        let memory = parse_memory(status).unwrap();
        assert_eq!((memory.resident, memory.peak), (10 << 20, 20 << 20));
        assert_eq!(parse_memory("Name:\tnetpol\n"), None);
    }

    #[test]
    fn ticks_are_those_in_user_mode_and_in_the_kernel() {
        let stat = "42 (a) S) S 1 42 42 0 -1 4194560 100 0 0 0 250 30 7 8 20 0 3 0 100 1000 10";
        assert_eq!(parse_ticks(stat), Some(280));
        assert_eq!(parse_ticks("42 (a) S 1"), None);
    }

    #[test]
    fn this_process_takes_memory_and_time() {
        let pid = std::process::id();
        let memory = memory(pid).unwrap();
        assert!(memory.resident > 0 && memory.peak >= memory.resident);
        let before = cpu_time(pid).unwrap();
        let mut sum = 0_u64;
        while cpu_time(pid).unwrap() == before {
            sum = (0..100_000_u64).fold(sum, |sum, number| std::hint::black_box(sum ^ number));
        }
    }
}
