// SPDX-License-Identifier: Apache-2.0
//! A program that leads into the hooks' programs. `BPF_PROG_TEST_RUN` can neither set nor return a
//! packet's tag (`__sk_buff.tc_index`). The lead sets it before it tail-calls the hook's program,
//! and returns it in a second run on the same packet.

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, TestRun as _, TestRunOptions,
    maps::ProgramArray,
    programs::{ProgramFd, SchedClassifier},
};
use netpol_agent::datapath::attach::Hook;
use netpol_common::{abi::Direction, decide::Place};
use zerocopy::IntoBytes as _;

use super::assembly::{self, CALL_TAIL_CALL, Map, instruction};

/// Indices of fields in `struct __sk_buff` (`linux/bpf.h`), in 32-bit words.
const INGRESS_IFINDEX: usize = 9;
const IFINDEX: usize = 10;
const TC_INDEX: usize = 11;
/// `cb[0]`: the tag to set; in the second run, the tag that was read.
const TAG: usize = 12;
/// `cb[1]`: nonzero after the hook's program has run.
const DONE: usize = 13;
/// `cb[2]`: the hook program to call.
const WHICH: usize = 14;
/// More fields than the structure has.
const FIELDS: usize = 64;

/// The lead's return value if the hook's program could not be called.
const NOT_CALLED: i16 = 99;
/// The lead's return value in its second run.
const TOLD: i16 = 0;

const PROGRAM: &str = "lead";
const MAP: &str = "hooks";

/// The lead, loaded.
#[derive(Debug)]
pub struct Lead(Ebpf);

/// The hook and interface where a packet is seen, and its tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Met {
    /// The hook.
    pub hook: Hook,
    /// Index of the interface.
    pub ifindex: u32,
    /// Index of the interface that it arrived by.
    pub ingress_ifindex: u32,
    /// Its tag.
    pub tag: u16,
}

impl Met {
    /// Returns the same for the decision.
    pub const fn place(self) -> Place {
        let direction = match self.hook {
            Hook::ToPod => Direction::Ingress,
            Hook::FromPod | Hook::ToNetwork => Direction::Egress,
        };
        Place {
            direction,
            ifindex: self.ifindex,
            ingress_ifindex: self.ingress_ifindex,
            tag: self.tag,
        }
    }
}

impl Lead {
    /// Loads a lead into these programs.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn load(mut program: impl FnMut(Hook) -> Result<ProgramFd>) -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(&elf()?).context("loading the lead")?;
        let map = ebpf.map_mut(MAP).context("the lead has no map")?;
        let mut hooks = ProgramArray::try_from(map)?;
        for (index, hook) in (0..).zip(Hook::ALL) {
            hooks.set(index, &program(hook)?, 0)?;
        }
        let mut lead = Self(ebpf);
        lead.program()?.load().context("loading the lead")?;
        Ok(lead)
    }

    fn program(&mut self) -> Result<&mut SchedClassifier> {
        let program = self.0.program_mut(PROGRAM).context("the lead has no program")?;
        Ok(program.try_into()?)
    }

    /// Returns the action of a hook's program on a frame.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn action(&mut self, met: Met, frame: &[u8]) -> Result<i32> {
        Ok(self.run(met, frame, 1)?.0)
    }

    /// Returns the tag of a frame after a hook's program has run on it, whatever the action.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn tag(&mut self, met: Met, frame: &[u8]) -> Result<u16> {
        let (action, tag) = self.run(met, frame, 2)?;
        ensure!(action == i32::from(TOLD), "the lead returned {action}");
        Ok(u16::try_from(tag)?)
    }

    fn run(&mut self, met: Met, frame: &[u8], repeat: u32) -> Result<(i32, u32)> {
        let mut context = [0u32; TAG + 3];
        context[INGRESS_IFINDEX] = met.ingress_ifindex;
        context[IFINDEX] = met.ifindex;
        context[TAG] = met.tag.into();
        context[WHICH] = Hook::ALL
            .iter()
            .position(|hook| *hook == met.hook)
            .context("no such hook")? as u32;
        let mut after = [0u32; FIELDS];
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(context.as_bytes()),
            ctx_out: Some(after.as_mut_bytes()),
            repeat,
            ..TestRunOptions::default()
        };
        let result = self
            .program()?
            .test_run(options)
            .with_context(|| format!("running {} on {} bytes", met.hook, frame.len()))?;
        let action = result.return_value.cast_signed();
        ensure!(action != i32::from(NOT_CALLED), "{} was not called", met.hook);
        Ok((action, after[TAG]))
    }
}

/// Builds the lead's object file.
fn elf() -> Result<Vec<u8>> {
    let field = |field: usize| (field * size_of::<u32>()) as i16;
    let copy = |to, from| instruction(0xbf, [to, from], 0, 0);
    let set = |to, number: i16| instruction(0xb7, [to, 0], 0, number.into());
    let read = |to, place| instruction(0x61, [to, 6], field(place), 0);
    let write = |place, from| instruction(0x63, [6, from], field(place), 0);
    let exit = instruction(0x95, [0, 0], 0, 0);
    let second = [read(2, TC_INDEX), write(TAG, 2), set(0, TOLD), exit];
    let [map, rest] = assembly::map_into(2);
    let first = [
        set(2, 1),
        write(DONE, 2),
        read(2, TAG),
        write(TC_INDEX, 2),
        read(3, WHICH),
        copy(1, 6),
        map,
        rest,
        CALL_TAIL_CALL,
        set(0, NOT_CALLED),
        exit,
    ];
    let map_at = 3 + 6;
    let start = [
        copy(6, 1),
        read(7, DONE),
        instruction(0x55, [7, 0], first.len() as i16, 0),
    ];
    let map = Map {
        name: MAP,
        // BPF_MAP_TYPE_PROG_ARRAY
        kind: 3,
        sizes: [4, 4],
        entries: Hook::ALL.len() as u32,
        flags: 0,
        pinned: false,
    };
    assembly::object(PROGRAM, &[&start[..], &first, &second].concat(), map, &[map_at])
}
