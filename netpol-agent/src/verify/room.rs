// SPDX-License-Identifier: Apache-2.0
//! Network namespaces for the scratch pods, joined to the node's bridge. They have no name and end
//! with this process, however it ends, and their interfaces with them.

use std::{
    fs::File,
    os::fd::{AsFd as _, OwnedFd},
    thread,
};

use anyhow::{Context, anyhow};
use nix::sched::{CloneFlags, setns, unshare};

use super::Scratch;
use crate::datapath::scratch;

/// The namespaces of both scratch pods.
#[derive(Debug)]
pub struct Rooms {
    client: OwnedFd,
    server: OwnedFd,
    /// Names of the ends on the node.
    ends: Vec<String>,
}

impl Rooms {
    /// Makes both, joins them to the bridge of this index, and gives them their addresses.
    ///
    /// # Errors
    /// Without root, or if the kernel refuses one of the steps.
    pub fn new(bridge: u32) -> anyhow::Result<Self> {
        let mut rooms = Self {
            client: namespace()?,
            server: namespace()?,
            ends: Vec::new(),
        };
        for scratch in Scratch::ALL {
            let end = format!("npv{}{}", std::process::id(), &scratch.name()[..1]);
            let netns = rooms.netns(scratch);
            scratch::join(&end, netns.as_fd(), bridge)
                .with_context(|| format!("making interface {end} on the node's bridge"))?;
            rooms.ends.push(end);
            let addresses = scratch.all_addresses();
            let set = rooms.run(scratch, move || Ok(scratch::set_up(&addresses)?));
            set.with_context(|| format!("setting the addresses of the scratch {}", scratch.name()))?;
        }
        Ok(rooms)
    }

    fn netns(&self, scratch: Scratch) -> &OwnedFd {
        match scratch {
            Scratch::Client => &self.client,
            Scratch::Server => &self.server,
        }
    }

    /// Runs `work` in the namespace of a scratch pod.
    ///
    /// # Errors
    /// Its error, or why the namespace cannot be entered.
    pub fn run<T: Send>(
        &self,
        scratch: Scratch,
        work: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        let netns = self.netns(scratch);
        let enter = || {
            setns(netns, CloneFlags::CLONE_NEWNET).context("entering a scratch namespace")?;
            work()
        };
        let result = thread::scope(|scope| scope.spawn(enter).join());
        result.unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
    }
}

/// The interfaces would go with the namespaces, but a moment later.
impl Drop for Rooms {
    fn drop(&mut self) {
        for end in &self.ends {
            let _ = scratch::remove(end);
        }
    }
}

/// Makes a namespace that lives as long as the descriptor.
fn namespace() -> anyhow::Result<OwnedFd> {
    let make = || {
        unshare(CloneFlags::CLONE_NEWNET).context(
            "making a network namespace: run on the node as root, not in the agent's container (CAP_SYS_ADMIN)",
        )?;
        let file = File::open("/proc/thread-self/ns/net").context("opening the network namespace")?;
        Ok(OwnedFd::from(file))
    };
    thread::spawn(make)
        .join()
        .unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
}
