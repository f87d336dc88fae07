// SPDX-License-Identifier: Apache-2.0
//! Replaces instructions of the programs that this kernel does not know by older ones.

use std::{
    ops::Range,
    os::fd::{FromRawFd as _, OwnedFd},
};

use object::{File, Object as _, ObjectSection as _, SectionFlags, elf::SHF_EXECINSTR};
use zerocopy::IntoBytes as _;

/// `r0 = bpf_ktime_get_coarse_ns()`, from Linux 5.11 on.
const COARSE_CLOCK: u64 = 160 << 32 | 0x85;
/// `r0 = bpf_ktime_get_ns()`: the same clock, read exactly, which takes longer.
const EXACT_CLOCK: u64 = 5 << 32 | 0x85;

/// Atomic addition that returns the number before, from Linux 5.12 on. `netpol-ebpf/src/flows.rs`
/// has these: `r2 = atomic_fetch_add(r1, r2)`, `r0 = r2`, `r0 = r0`.
const FETCH_AND_ADD: [u64; 3] = [0x1_0000_21db, 0x20bf, 0x00bf];
/// Atomic addition, and a look at the sum: `lock *(u64 *)r1 += r2`, `r0 = *(u64 *)r1`, `r0 -= r2`.
/// What others add in between counts as there before.
const ADD_AND_READ: [u64; 3] = [0x21db, 0x1079, 0x201f];

/// `r0 = 0`.
const ZERO: u64 = 0xb7;
/// Ends a program.
const EXIT: u64 = 0x95;

/// What this kernel knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instructions {
    coarse_clock: bool,
    fetch_and_add: bool,
}

impl Instructions {
    /// Those of every kernel that the programs run on.
    pub(super) const OLDEST: Self = Self {
        coarse_clock: false,
        fetch_and_add: false,
    };

    /// Asks the kernel, by loading programs that use them.
    pub(super) fn of_this_kernel() -> Self {
        // `*(u64 *)(r10 - 8) = 0`, `r1 = r10`, `r1 += -8`, `r2 = 1`.
        const PLACE: [u64; 4] = [0xfff8_0a7a, 0xa1bf, 0xffff_fff8_0000_0107, 1 << 32 | 0x2b7];
        let [fetch, copy, same] = FETCH_AND_ADD;
        let [first, second, third, fourth] = PLACE;
        Self {
            coarse_clock: loads(&[COARSE_CLOCK, ZERO, EXIT]),
            fetch_and_add: loads(&[first, second, third, fourth, fetch, copy, same, EXIT]),
        }
    }

    /// Replaces, in the code of an object, what the kernel does not know.
    pub(super) fn put_into(self, object: &mut [u64]) {
        let code = code(object.as_bytes());
        for part in code {
            let Some(words) = object.get_mut(part) else {
                continue;
            };
            if !self.coarse_clock {
                let calls = words.iter_mut().filter(|word| **word == COARSE_CLOCK);
                calls.for_each(|call| *call = EXACT_CLOCK);
            }
            if !self.fetch_and_add {
                let starts = 0..words.len().saturating_sub(FETCH_AND_ADD.len() - 1);
                for start in starts {
                    let found = &mut words[start..start + FETCH_AND_ADD.len()];
                    if found == FETCH_AND_ADD {
                        found.copy_from_slice(&ADD_AND_READ);
                    }
                }
            }
        }
    }
}

/// Where code is in an object, in words.
fn code(object: &[u8]) -> Vec<Range<usize>> {
    const WORD: u64 = size_of::<u64>() as u64;
    let Ok(file) = File::parse(object) else {
        return Vec::new();
    };
    let sections = file.sections().filter(|section| {
        matches!(section.flags(), SectionFlags::Elf { sh_flags } if sh_flags & u64::from(SHF_EXECINSTR) != 0)
    });
    let ranges = sections.filter_map(|section| section.file_range());
    let words = |(start, length): (u64, u64)| {
        let (first, end) = (start / WORD, (start + length) / WORD);
        Some(usize::try_from(first).ok()?..usize::try_from(end).ok()?)
    };
    ranges.filter_map(words).collect()
}

/// `union bpf_attr` of `BPF_PROG_LOAD`, up to the license.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
}

/// Returns true if the kernel takes a program.
fn loads(instructions: &[u64]) -> bool {
    const BPF_PROG_LOAD: libc::c_long = 5;
    const SOCKET_FILTER: u32 = 1;
    let mut load = Load {
        kind: SOCKET_FILTER,
        count: u32::try_from(instructions.len()).unwrap_or_default(),
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
    };
    // SAFETY: the attributes are those of the command, and what they point to lives until it
    // returns.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            std::ptr::from_mut(&mut load),
            size_of::<Load>(),
        )
    };
    let Ok(descriptor) = i32::try_from(result) else {
        return false;
    };
    if descriptor < 0 {
        return false;
    }
    // SAFETY: the kernel just made it, for this function.
    drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
    true
}
