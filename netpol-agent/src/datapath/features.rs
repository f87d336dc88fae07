// SPDX-License-Identifier: Apache-2.0
//! Which features of the kernel the programs need that an older kernel lacks.

use std::{
    io,
    os::fd::{FromRawFd as _, OwnedFd},
};

/// A feature, the first version of Linux that has it, and a program of which nothing else is newer.
struct Feature {
    name: &'static str,
    since: &'static str,
    program: &'static [u64],
}

/// `r0 = 0`.
const ZERO: u64 = 0xb7;
/// Ends a program.
const EXIT: u64 = 0x95;

/// From the oldest to the newest. What is older than all of them, BTF and ring buffers, has Linux
/// 5.8.
const NEEDED: [Feature; 2] = [
    Feature {
        name: "the clock of ticks (bpf_ktime_get_coarse_ns)",
        since: "5.11",
        program: &[160 << 32 | 0x85, ZERO, EXIT],
    },
    Feature {
        name: "atomic addition that returns the number before (BPF_FETCH)",
        since: "5.12",
        program: &[
            0xfff8_0a7a,           // *(u64 *)(r10 - 8) = 0
            0xa1bf,                // r1 = r10
            0xffff_fff8_0000_0107, // r1 += -8
            1 << 32 | 0x2b7,       // r2 = 1
            1 << 32 | 0x21db,      // r2 = atomic_fetch_add((u64 *)r1, r2)
            ZERO,
            EXIT,
        ],
    },
];

/// Says what this kernel lacks, in one line; `None` if that is nothing.
pub(super) fn missing() -> Option<String> {
    said(loads)
}

/// The same, of a kernel that loads these programs.
fn said(loads: impl Fn(&[u64]) -> io::Result<()>) -> Option<String> {
    let lacking = NEEDED.iter().filter(|feature| {
        // Another error is not about what is in the program.
        loads(feature.program).is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL))
    });
    let named: Vec<String> = lacking
        .map(|feature| format!("{}, which Linux {} has", feature.name, feature.since))
        .collect();
    (!named.is_empty()).then(|| named.join(" and "))
}

/// `union bpf_attr` of `BPF_PROG_LOAD`, up to the license.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
}

/// Loads a program, which ends at once.
fn loads(program: &[u64]) -> io::Result<()> {
    const BPF_PROG_LOAD: libc::c_long = 5;
    const SOCKET_FILTER: u32 = 1;
    let mut load = Load {
        kind: SOCKET_FILTER,
        count: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr() as u64,
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
    let descriptor = i32::try_from(result).map_err(io::Error::other)?;
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made it, for this function.
    drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kernel_lacks_is_named_with_the_version_that_has_it() {
        let refusing = |refused: &'static [usize], error: i32| {
            said(move |program| {
                let index = NEEDED.iter().position(|feature| feature.program == program);
                match index.is_some_and(|index| refused.contains(&index)) {
                    true => Err(io::Error::from_raw_os_error(error)),
                    false => Ok(()),
                }
            })
        };
        assert_eq!(refusing(&[], libc::EINVAL), None);
        assert_eq!(refusing(&[0, 1], libc::EPERM), None);
        let of_5_11 = "atomic addition that returns the number before (BPF_FETCH), which Linux 5.12 has";
        assert_eq!(refusing(&[1], libc::EINVAL).as_deref(), Some(of_5_11));
        let of_5_10 =
            format!("the clock of ticks (bpf_ktime_get_coarse_ns), which Linux 5.11 has and {of_5_11}");
        assert_eq!(refusing(&[0, 1], libc::EINVAL), Some(of_5_10));
    }

    /// The programs are right: a kernel that runs the tests takes them.
    #[test]
    fn this_kernel_lacks_nothing() {
        assert_eq!(missing(), None);
    }
}
