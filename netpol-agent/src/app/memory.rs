// SPDX-License-Identifier: Apache-2.0
//! Returns memory that was needed only briefly: for the first lists and the first plan.

/// Number of writes that makes a turn a large one.
pub const LARGE: usize = 10_000;

/// Returns free memory to the kernel. This takes milliseconds, so it is for large turns only.
pub fn give_back() {
    // SAFETY: `malloc_trim` has no preconditions and moves no memory that is in use.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
