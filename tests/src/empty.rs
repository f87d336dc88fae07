// SPDX-License-Identifier: Apache-2.0
//! The minimal TC program: it passes every packet. Its cost is the kernel's own cost of running a
//! program, and the baseline of every other program. It has two instructions and is loaded without
//! a compiler or loader (`bpf(2)`).

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::libc;

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_F_BEFORE: u32 = 1 << 3;

/// `r0 = -1; exit`: returns `TC_ACT_UNSPEC`, as the programs do to pass a packet.
const INSTRUCTIONS: [u64; 2] = [0xffff_ffff_0000_00b7, 0x0000_0000_0000_0095];

/// The start of `union bpf_attr` for `BPF_PROG_LOAD`, `linux/bpf.h`.
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
    /// Duration of a run, nanoseconds.
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

/// The packets of an interface that a program runs on: `enum bpf_attach_type`.
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
    /// Loads the program.
    ///
    /// # Errors
    /// Permission is missing.
    pub fn load() -> Result<Self> {
        Self::load_all(&INSTRUCTIONS)
    }

    /// Loads a program that accepts every packet: later programs on its hook do not run (`r0 =
    /// TC_ACT_OK; exit`).
    ///
    /// # Errors
    /// Permission is missing.
    pub fn that_ends_it() -> Result<Self> {
        Self::load_all(&[instruction(0xb7, 0, 0, 0, 0), INSTRUCTIONS[1]])
    }

    /// Loads the program with one lookup first, of this key in this map.
    ///
    /// # Errors
    /// Permission is missing, or the key is not of whole words or not of the map.
    pub fn with_lookup(map: BorrowedFd<'_>, key: &[u8]) -> Result<Self> {
        let mut instructions = Vec::new();
        let (words, rest) = key.as_chunks::<4>();
        ensure!(rest.is_empty(), "a key of {} bytes", key.len());
        for (offset, word) in (-(key.len() as i16)..0).step_by(4).zip(words) {
            // `*(u32 *)(r10 + offset) = word`
            instructions.push(instruction(0x62, 10, 0, offset, i32::from_ne_bytes(*word)));
        }
        instructions.extend([
            // `r2 = r10; r2 -= length; r1 = map; call bpf_map_lookup_elem`
            instruction(0xbf, 2, 10, 0, 0),
            instruction(0x07, 2, 0, 0, -(key.len() as i32)),
            instruction(0x18, 1, 1, 0, map.as_raw_fd()),
            0,
            instruction(0x85, 0, 0, 0, 1),
        ]);
        instructions.extend(INSTRUCTIONS);
        Self::load_all(&instructions)
    }

    pub(crate) fn load_all(instructions: &[u64]) -> Result<Self> {
        let mut attributes = Load {
            program_type: BPF_PROG_TYPE_SCHED_CLS,
            instruction_count: instructions.len() as u32,
            instructions: instructions.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            ..Load::default()
        };
        let fd = bpf(BPF_PROG_LOAD, &mut attributes).context("loading an empty program")?;
        // SAFETY: the kernel just gave us this descriptor, and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Attaches it to an interface for as long as the result lives.
    ///
    /// # Errors
    /// There is no such interface, or no TCX.
    pub fn attach(&self, ifindex: u32, hook: Hook) -> Result<OwnedFd> {
        self.attach_with(ifindex, hook, 0)
    }

    /// Like [`Empty::attach`], before all other programs.
    ///
    /// # Errors
    /// As [`Empty::attach`].
    pub fn attach_first(&self, ifindex: u32, hook: Hook) -> Result<OwnedFd> {
        self.attach_with(ifindex, hook, BPF_F_BEFORE)
    }

    fn attach_with(&self, ifindex: u32, hook: Hook, flags: u32) -> Result<OwnedFd> {
        let mut attributes = LinkCreate {
            program: self.0.as_raw_fd().cast_unsigned(),
            ifindex,
            flags,
            attach_type: hook as u32,
            ..LinkCreate::default()
        };
        let link = bpf(BPF_LINK_CREATE, &mut attributes);
        let link = link.with_context(|| format!("attaching an empty program to interface {ifindex}"))?;
        // SAFETY: the kernel just gave us this descriptor, and nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(link) })
    }

    /// Runs it `times` over on a frame. Returns the average duration of a run, in whole
    /// nanoseconds.
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

/// Encodes a `struct bpf_insn`, little-endian.
pub(crate) fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> u64 {
    u64::from(code)
        | u64::from(to) << 8
        | u64::from(from) << 12
        | u64::from(offset.cast_unsigned()) << 16
        | u64::from(value.cast_unsigned()) << 32
}

/// Makes a call of bpf(2).
pub(crate) fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the attributes are laid out as the command's part of `union bpf_attr`, of the size
    // that is told. The memory that they point to lives through the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    match libc::c_int::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}
