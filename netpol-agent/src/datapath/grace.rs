// SPDX-License-Identifier: Apache-2.0
//! Waits for programs that began earlier. Between two lookups of one packet a program may be
//! interrupted for milliseconds, for example where a hypervisor takes its CPU away.

use std::{io, sync::Once, thread, time::Duration};

use tracing::warn;

/// Wait where the kernel has no call for it: far above what programs take, and what a hypervisor
/// usually takes away.
const PAUSE: Duration = Duration::from_millis(100);

/// Returns once every program has ended that was running when this was called, on any CPU. It takes
/// some 10 to 30 milliseconds, more on a busy node.
///
/// It is `MEMBARRIER_CMD_GLOBAL` of membarrier(2). On more than one CPU, that is a grace period of
/// RCU (`synchronize_rcu`, `kernel/sched/membarrier.c`), and programs run within a read-side
/// section. On one CPU it returns at once: programs run with softirqs off, so none is half done
/// while this process runs.
///
/// A kernel with CPUs in `nohz_full` (EINVAL) or without the call (ENOSYS), and a seccomp filter
/// (EPERM), refuse it. Then this sleeps for 100 milliseconds, and the log says so once.
pub fn wait_for_programs() {
    wait_by(membarrier);
}

fn membarrier() -> io::Result<()> {
    // SAFETY: three numbers and no memory of this process.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "nothing tells when the programs have ended, if the kernel does not"
)]
fn wait_by(barrier: impl FnOnce() -> io::Result<()>) {
    static TOLD: Once = Once::new();
    if let Err(error) = barrier() {
        TOLD.call_once(|| {
            warn!(
                %error,
                pause_ms = PAUSE.as_millis() as u64,
                "the kernel does not wait for running programs (membarrier); pausing instead: a packet whose program is \
                 interrupted for longer, just when its policy is replaced, may be dropped although both policies allow it"
            );
        });
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn b4_a_refused_wait_is_a_pause() {
        for errno in [libc::EINVAL, libc::ENOSYS, libc::EPERM] {
            let start = Instant::now();
            wait_by(|| Err(io::Error::from_raw_os_error(errno)));
            assert!(start.elapsed() >= PAUSE, "{errno}");
        }
        let start = Instant::now();
        wait_by(|| Ok(()));
        assert!(start.elapsed() < PAUSE);
    }

    #[test]
    fn the_call_is_known_to_the_kernel() {
        if let Err(error) = membarrier() {
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{error}");
        }
    }
}
