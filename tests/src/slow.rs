// SPDX-License-Identifier: Apache-2.0
//! A TC program that runs for some hundred milliseconds and tells how far it is, for what must wait
//! for a program. It copies a large value of a map again and again.

use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context, Result};
use nix::libc;

use crate::empty::{Empty, bpf, instruction};

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_MAP_TYPE_ARRAY: u32 = 2;

/// Bytes that a copy takes.
const VALUE: usize = 1 << 20;
/// Number of copies: each takes some 50 microseconds.
const COPIES: i32 = 6000;

/// The start of `union bpf_attr` for `BPF_MAP_CREATE`, `linux/bpf.h`.
#[repr(C)]
struct Create {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

/// The same for `BPF_MAP_LOOKUP_ELEM`.
#[repr(C)]
struct Lookup {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// How far the program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It has not begun.
    None,
    /// It runs.
    Running,
    /// It has made its last write.
    Ended,
}

/// The slow program.
#[derive(Debug)]
pub struct Slow {
    program: Empty,
    map: OwnedFd,
}

impl Slow {
    /// Loads the program.
    ///
    /// # Errors
    /// Permission is missing.
    pub fn load() -> Result<Self> {
        let mut attributes = Create {
            map_type: BPF_MAP_TYPE_ARRAY,
            key_size: size_of::<u32>() as u32,
            value_size: VALUE as u32,
            max_entries: 2,
        };
        let map = bpf(BPF_MAP_CREATE, &mut attributes).context("creating a map")?;
        // SAFETY: the kernel just gave us this descriptor, and nobody else has it.
        let map = unsafe { OwnedFd::from_raw_fd(map) };
        let program = Empty::load_all(&instructions(map.as_fd().as_raw_fd()))?;
        Ok(Self { program, map })
    }

    /// Runs it once on a frame.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn run(&self, frame: &[u8]) -> Result<()> {
        self.program.time(frame, 1).map(drop)
    }

    /// Returns how far it is.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn progress(&self) -> Result<Progress> {
        let (key, mut value) = (0u32, vec![0u8; VALUE]);
        let mut attributes = Lookup {
            map: self.map.as_raw_fd().cast_unsigned(),
            pad: 0,
            key: (&raw const key) as u64,
            value: value.as_mut_ptr() as u64,
            flags: 0,
        };
        bpf(BPF_MAP_LOOKUP_ELEM, &mut attributes).context("looking how far the program is")?;
        Ok(match value[0] {
            0 => Progress::None,
            1 => Progress::Running,
            _ => Progress::Ended,
        })
    }
}

fn instructions(map: i32) -> Vec<u64> {
    let lookup = |key: i16| {
        [
            // `r1 = map; r2 = r10; r2 += key`
            instruction(0x18, 1, 1, 0, map),
            0,
            instruction(0xbf, 2, 10, 0, 0),
            instruction(0x07, 2, 0, 0, key.into()),
        ]
    };
    let exit = [instruction(0xb7, 0, 0, 0, -1), instruction(0x95, 0, 0, 0, 0)];
    let mut program = vec![
        // The keys 0 and 1, at `r10 - 4` and `r10 - 8`.
        instruction(0x62, 10, 0, -4, 0),
        instruction(0x62, 10, 0, -8, 1),
    ];
    program.extend(lookup(-4));
    program.extend([
        // `call bpf_map_lookup_elem; if r0 != 0 goto +2`
        instruction(0x85, 0, 0, 0, 1),
        instruction(0x55, 0, 0, 2, 0),
    ]);
    program.extend(exit);
    program.extend([
        // `r7 = r0; *(u64 *)r7 = 1; r8 = COPIES`
        instruction(0xbf, 7, 0, 0, 0),
        instruction(0x7a, 7, 0, 0, 1),
        instruction(0xb7, 8, 0, 0, COPIES),
    ]);
    let start = program.len();
    program.extend(lookup(-8));
    program.extend([
        // `r3 = r7; r4 = 0; call bpf_map_update_elem; r8 -= 1`
        instruction(0xbf, 3, 7, 0, 0),
        instruction(0xb7, 4, 0, 0, 0),
        instruction(0x85, 0, 0, 0, 2),
        instruction(0x07, 8, 0, 0, -1),
    ]);
    let back = start as i16 - program.len() as i16 - 1;
    // `if r8 != 0 goto start; *(u64 *)r7 = 2`
    program.extend([instruction(0x55, 8, 0, back, 0), instruction(0x7a, 7, 0, 0, 2)]);
    program.extend(exit);
    program
}
