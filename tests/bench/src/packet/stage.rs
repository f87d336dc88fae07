// SPDX-License-Identifier: Apache-2.0
//! Runs a [`World`] on its own thread, in its own namespaces, so that several can be measured in
//! turn.

use std::{
    sync::mpsc::{Sender, channel},
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, anyhow};

use super::world::{Shape, World};

type Job = Box<dyn FnOnce(&mut World) + Send>;

/// A handle to a world, which ends on drop.
pub struct Stage {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Stage {
    /// Makes a world.
    ///
    /// # Errors
    /// As [`World::new`].
    pub fn new(shape: Shape) -> Result<Self> {
        let (jobs, inbox) = channel::<Job>();
        let (told, made) = channel();
        let thread = thread::Builder::new()
            .name("bench-world".to_owned())
            .spawn(move || {
                let mut world = match World::new(shape) {
                    Ok(world) => world,
                    Err(error) => {
                        let _ = told.send(Err(error));
                        return;
                    }
                };
                let _ = told.send(Ok(()));
                inbox.iter().for_each(|job| job(&mut world));
            })?;
        made.recv().context("a world ended while it was made")??;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// Runs work in the world, and waits for it.
    ///
    /// # Errors
    /// The work's own, or its panic.
    pub fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut World) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (told, result) = channel();
        let job: Job = Box::new(move |world| {
            let _ = told.send(work(world));
        });
        let jobs = self.jobs.as_ref().context("a world that ended")?;
        jobs.send(job).map_err(|_| anyhow!("a world ended"))?;
        result.recv().context("work in a world panicked")?
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("netpol-bench: a world ended with a panic");
        }
    }
}
