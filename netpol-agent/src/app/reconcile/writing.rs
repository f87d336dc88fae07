// SPDX-License-Identifier: Apache-2.0
//! A turn's writes to the datapath, and when all endpoints were enforced.

use std::time::{Duration, Instant};

use tracing::error;

use crate::{
    causes::causes,
    datapath::{self, Datapath, DatapathError, Seeded},
    sync::{Kernel, Stage, Write},
};

/// The datapath during a turn.
pub(super) struct Writing<'a> {
    datapath: &'a mut Datapath,
    /// Counts of seeded connections since the start.
    seeded: Seeded,
    /// When all endpoints had their policies and the flows of their open connections.
    enforced: Option<Instant>,
    /// Time spent waiting for programs.
    waited: Duration,
}

/// What a turn's writes came to.
pub(super) struct Written {
    /// Counts of seeded connections since the start.
    pub(super) seeded: Seeded,
    /// From the first event of the revision until all endpoints were enforced. The removals after
    /// that, and the wait before them, do not count.
    pub(super) delay: Option<Duration>,
    /// Time spent waiting for programs.
    pub(super) waited: Duration,
}

impl<'a> Writing<'a> {
    pub(super) fn new(datapath: &'a mut Datapath, seeded: Seeded) -> Self {
        Self {
            datapath,
            seeded,
            enforced: None,
            waited: Duration::ZERO,
        }
    }

    /// Ends the writes. `received` is when the first event of the revision came.
    pub(super) fn finish(mut self, received: Option<Instant>) -> Written {
        self.read_connections(Datapath::finish);
        let delay = received.zip(self.enforced);
        Written {
            seeded: self.seeded,
            delay: delay.map(|(received, enforced)| enforced.saturating_duration_since(received)),
            waited: self.waited,
        }
    }

    /// All endpoints have their policies: connections that were opened meanwhile are looked up.
    fn read_connections(&mut self, read: fn(&mut Datapath) -> Result<Seeded, DatapathError>) {
        self.enforced.get_or_insert_with(Instant::now);
        match read(self.datapath) {
            Ok(seeded) => {
                if seeded.flows > self.seeded.flows {
                    self.enforced = Some(Instant::now());
                }
                self.seeded = seeded;
            }
            Err(error) => error!(error = causes(&error), "looking for open connections"),
        }
    }
}

impl Kernel for Writing<'_> {
    type Error = DatapathError;

    fn write(&mut self, write: &Write) -> Result<(), DatapathError> {
        self.datapath.write(write)
    }

    fn wait(&mut self, next: Stage) {
        if next > Stage::Enforce && self.enforced.is_none() {
            self.read_connections(Datapath::read_connections_again);
        }
        let start = Instant::now();
        datapath::wait_for_programs();
        self.waited += start.elapsed();
    }
}
