// SPDX-License-Identifier: Apache-2.0
//! Runs a program on a made-up frame (`BPF_PROG_TEST_RUN`), for tests and measurements.

use std::time::Duration;

use aya::{
    TestRun as _, TestRunOptions,
    programs::{ProgramFd, SchedClassifier},
};
use zerocopy::IntoBytes as _;

use super::{
    Datapath, DatapathError,
    attach::{self, AttachError, Hook},
};

/// Indices of fields in `struct __sk_buff` (`linux/bpf.h`), in 32-bit words.
const INGRESS_IFINDEX: usize = 9;
const IFINDEX: usize = 10;

/// Sizes of a program in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Instructions after the verifier's rewriting.
    pub instructions: u32,
    /// Machine code, bytes; 0 without the JIT.
    pub machine_code: u32,
    /// Instructions that the verifier processed, on all paths through the program.
    pub verified: u32,
}

impl Datapath {
    /// Runs a hook's program on an Ethernet frame as if at interface `ifindex`, received from
    /// `ingress_ifindex`; 0 is a frame that the node itself made. Returns the action:
    /// `TC_ACT_UNSPEC` (-1) passes it on, `TC_ACT_SHOT` (2) drops it. Writes flows, counters and
    /// events as for any packet.
    ///
    /// # Errors
    /// `ifindex` is no interface of the calling thread's network namespace, or the frame is shorter
    /// than an Ethernet header.
    pub fn run(
        &mut self,
        hook: Hook,
        frame: &[u8],
        ifindex: u32,
        ingress_ifindex: u32,
    ) -> Result<i32, DatapathError> {
        let (action, _) = self.run_often(hook, frame, ifindex, ingress_ifindex, 1)?;
        Ok(action)
    }

    /// Like [`Datapath::run`], `times` over on one buffer: a run finds what the run before wrote
    /// into it. Returns the last action and the average duration of a run, in whole nanoseconds.
    ///
    /// # Errors
    /// As [`Datapath::run`].
    pub fn run_often(
        &mut self,
        hook: Hook,
        frame: &[u8],
        ifindex: u32,
        ingress_ifindex: u32,
        times: u32,
    ) -> Result<(i32, Duration), DatapathError> {
        let mut context = [0u32; IFINDEX + 1];
        context[IFINDEX] = ifindex;
        context[INGRESS_IFINDEX] = ingress_ifindex;
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(context.as_bytes()),
            repeat: times,
            ..TestRunOptions::default()
        };
        let result = attach::program(&mut self.ebpf, hook)?
            .test_run(options)
            .map_err(|error| DatapathError::Run {
                hook,
                length: frame.len(),
                source: Box::new(error),
            })?;
        Ok((result.return_value.cast_signed(), result.duration))
    }

    /// Returns the size of a hook's program in the kernel.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn size(&mut self, hook: Hook) -> Result<Size, DatapathError> {
        const INSTRUCTION: u32 = 8;
        let info = attach::program(&mut self.ebpf, hook)?
            .info()
            .map_err(|error| DatapathError::Inspect {
                hook,
                source: Box::new(error),
            })?;
        Ok(Size {
            instructions: info.size_translated().unwrap_or_default() / INSTRUCTION,
            machine_code: info.size_jitted(),
            verified: info.verified_instruction_count().unwrap_or_default(),
        })
    }

    /// Returns a hook's program, for another program that ends with it.
    ///
    /// # Errors
    /// It cannot be loaded.
    pub fn program(&mut self, hook: Hook) -> Result<ProgramFd, DatapathError> {
        let program: &SchedClassifier = attach::program(&mut self.ebpf, hook)?;
        let shared = program.fd().and_then(|fd| Ok(fd.try_clone()?));
        shared.map_err(|error| {
            let source = Box::new(error);
            AttachError::Program { hook, source }.into()
        })
    }
}
