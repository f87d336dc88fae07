// SPDX-License-Identifier: Apache-2.0
//! Memory that was needed for a moment: the first lists, the first plan.

/// Writes of a turn from which on it is a large one.
pub const LARGE: usize = 10_000;

/// Gives what is free back to the kernel. It takes milliseconds: for after large turns only.
pub fn give_back() {
    // SAFETY: `malloc_trim` asks nothing of its caller, and moves no memory that is in use.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
