// SPDX-License-Identifier: Apache-2.0
//! Benchmarks: what netpol costs, and what a comparison costs in the same run. A group measures
//! [`Figure`]s. The rest of this module prints, stores and compares them.

pub mod agent;
pub mod changes;
pub mod compare;
pub mod figure;
pub mod json;
pub mod memory;
pub mod packet;
pub mod page;
pub mod plot;
pub mod run;
pub mod table;
pub mod wire;

pub use figure::{Baseline, Figure, Target};
pub use run::{Options, Run, run};

/// Figures that are measured together.
pub struct Group {
    /// Its name for `--only`.
    pub name: &'static str,
    /// What it measures, as the table's heading.
    pub title: &'static str,
    /// The figures that show where the time of others is spent.
    pub profile: &'static str,
    /// Measures its figures.
    pub measure: fn(&mut Run) -> anyhow::Result<()>,
}

/// All groups, in the order in which they run.
pub const GROUPS: &[Group] = &[
    Group {
        name: "packet",
        title: "what a packet costs, above an empty program",
        profile: "`lookups` says how often a path looks into which map, `one_lookup` what a lookup costs; the rest is in the programs, whose instructions \
                  `program` counts. A denied SYN is looked up in `flows` too: what one end claims of an open connection is kept there (C4). `to_pod` looks how an answer came, some 5 ns (A6).",
        measure: packet::measure,
    },
    Group {
        name: "wire",
        title: "traffic between pods",
        profile: "`..._in_programs` is the part of the time that is spent in the agent's programs.",
        measure: wire::measure,
    },
    Group {
        name: "memory",
        title: "kernel memory of the maps",
        profile: "`idle` and `agent` tell each map.",
        measure: memory::measure,
    },
    Group {
        name: "agent",
        title: "the agent by the size of the cluster: from change to kernel, start, memory, CPU time",
        profile: "`kernel_two_programs` and `kernel_connections` are what the kernel takes for itself for a pod that is new, and \
                  110 times the first of a start; `start_cpu` is the agent's own part of a start, `request_...` less its baseline that of a change.",
        measure: agent::measure,
    },
];
