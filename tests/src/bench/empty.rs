// SPDX-License-Identifier: Apache-2.0
//! The least that a TC program can be: it passes every packet. What it costs is what the kernel's way of running programs costs, and
//! what every other program is held against. Two instructions, loaded without a compiler and a loader (`bpf(2)`).

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::libc;

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;

/// `r0 = -1; exit`: `TC_ACT_UNSPEC`, as the programs pass packets.
const INSTRUCTIONS: [u64; 2] = [0xffff_ffff_0000_00b7, 0x0000_0000_0000_0095];

/// The beginning of `union bpf_attr` for `BPF_PROG_LOAD`, `linux/bpf.h`.
#[repr(C)]
#[derive(Default)]
struct Load {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// The same for `BPF_PROG_TEST_RUN`.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    action: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    /// Nanoseconds a run.
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// The same for `BPF_LINK_CREATE`.
#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    pad: u32,
    revision: u64,
}

/// Which of an interface's packets a program runs on: `enum bpf_attach_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Hook {
    /// `BPF_TCX_INGRESS`.
    Ingress = 46,
    /// `BPF_TCX_EGRESS`.
    Egress = 47,
}

/// The empty program.
#[derive(Debug)]
pub struct Empty(OwnedFd);

impl Empty {
    /// Loads it.
    ///
    /// # Errors
    /// Without the right to.
    pub fn load() -> Result<Self> {
        let mut attributes = Load {
            program_type: BPF_PROG_TYPE_SCHED_CLS,
            instruction_count: INSTRUCTIONS.len() as u32,
            instructions: INSTRUCTIONS.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            ..Load::default()
        };
        let fd = bpf(BPF_PROG_LOAD, &mut attributes).context("loading an empty program")?;
        // SAFETY: the kernel just gave us this descriptor, and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Attaches it to an interface, as long as the result lives.
    ///
    /// # Errors
    /// There is no such interface, or no TCX.
    pub fn attach(&self, ifindex: u32, hook: Hook) -> Result<OwnedFd> {
        let mut attributes = LinkCreate {
            program: self.0.as_raw_fd().cast_unsigned(),
            ifindex,
            attach_type: hook as u32,
            ..LinkCreate::default()
        };
        let link = bpf(BPF_LINK_CREATE, &mut attributes);
        let link = link.with_context(|| format!("attaching an empty program to interface {ifindex}"))?;
        // SAFETY: the kernel just gave us this descriptor, and nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(link) })
    }

    /// Runs it `times` over on a frame; how long a run took on average, in whole nanoseconds.
    ///
    /// # Errors
    /// The frame is shorter than an Ethernet header.
    pub fn time(&self, frame: &[u8], times: u32) -> Result<Duration> {
        let mut attributes = TestRun {
            program: self.0.as_raw_fd().cast_unsigned(),
            data_size_in: frame.len() as u32,
            data_in: frame.as_ptr() as u64,
            repeat: times,
            ..TestRun::default()
        };
        bpf(BPF_PROG_TEST_RUN, &mut attributes).context("running the empty program")?;
        Ok(Duration::from_nanos(attributes.duration.into()))
    }
}

fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the attributes are laid out as the command's part of `union bpf_attr`, of the size that is told; the memory that they point
    // to lives through the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    match libc::c_int::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}
