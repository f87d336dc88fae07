// SPDX-License-Identifier: Apache-2.0
//! A program that rewrites unchanged entries of a pinned map again and again: the same writes that
//! the agent makes with one system call each, much faster.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use aya::{Ebpf, EbpfLoader, TestRun as _, TestRunOptions, maps::MapInfo, programs::SchedClassifier};

use super::assembly::{self, CALL_MAP_UPDATE, Map, instruction, map_into};

const PROGRAM: &str = "rewrite";
/// From linux/bpf.h.
const BPF_F_LOCK: i32 = 4;

/// The program, loaded.
#[derive(Debug)]
pub struct Rewriter(Ebpf);

impl Rewriter {
    /// Loads a rewriter of entries, key and value, of the hash map pinned as `name` in a folder.
    /// `lock` replaces them in place, as the agent replaces endpoints.
    ///
    /// # Errors
    /// There is no such map, the entries are not of its sizes, or the kernel refuses.
    pub fn load(folder: &Path, name: &str, entries: &[(&[u8], &[u8])], lock: bool) -> Result<Self> {
        let info = MapInfo::from_pin(folder.join(name))?;
        let map = Map {
            name,
            kind: info.map_type()? as u32,
            sizes: [info.key_size(), info.value_size()],
            entries: info.max_entries(),
            flags: info.map_flags(),
            pinned: true,
        };
        let mut code = Vec::new();
        let mut uses = Vec::new();
        for (key, value) in entries {
            let sizes = [key, value].map(|bytes| bytes.len() as u32);
            ensure!(sizes == map.sizes, "map {name} has sizes {:?}", map.sizes);
            // Value and key are on the stack, below the frame pointer.
            let bytes = [*value, *key].concat();
            ensure!(bytes.len() % 4 == 0, "entries of {} bytes", bytes.len());
            let bottom = -(bytes.len() as i16);
            for (offset, word) in (bottom..).step_by(4).zip(bytes.chunks(4)) {
                let word = i32::from_le_bytes(word.try_into()?);
                code.push(instruction(0x62, [10, 0], offset, word));
            }
            uses.push(code.len());
            code.extend(map_into(1));
            for (register, offset) in [(2, -(key.len() as i32)), (3, bottom.into())] {
                code.push(instruction(0xbf, [register, 10], 0, 0));
                code.push(instruction(0x07, [register, 0], 0, offset));
            }
            let flags = if lock { BPF_F_LOCK } else { 0 };
            code.push(instruction(0xb7, [4, 0], 0, flags));
            code.push(CALL_MAP_UPDATE);
        }
        code.extend([instruction(0xb7, [0, 0], 0, 0), instruction(0x95, [0, 0], 0, 0)]);
        let elf = assembly::object(PROGRAM, &code, map, &uses)?;
        let mut ebpf = EbpfLoader::new().default_map_pin_directory(folder).load(&elf)?;
        program(&mut ebpf)?.load().context("loading the rewriter")?;
        Ok(Self(ebpf))
    }

    /// Writes all entries `times` over.
    ///
    /// # Errors
    /// The program cannot be run.
    pub fn run(&mut self, times: u32) -> Result<()> {
        let frame = [0; 14];
        let options = TestRunOptions {
            data_in: Some(&frame),
            repeat: times,
            ..TestRunOptions::default()
        };
        program(&mut self.0)?.test_run(options)?;
        Ok(())
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier> {
    Ok(ebpf
        .program_mut(PROGRAM)
        .context("there is no program")?
        .try_into()?)
}
