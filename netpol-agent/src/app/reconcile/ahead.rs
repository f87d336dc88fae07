// SPDX-License-Identifier: Apache-2.0
//! Attaches programs to interfaces before their pod is known (rule B2), and keeps interfaces closed
//! that nobody is found behind (rule A8).

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use tracing::{debug, error, info, warn};

use super::{
    super::{
        ahead::{Waiting, with_addresses},
        bind::Bound,
    },
    Reconciler,
};
use crate::{
    causes::causes,
    datapath::interfaces::{self, Interfaces},
    sync::{self, Put, Write},
};

impl Reconciler {
    /// Attaches programs to the next interface of the pod network that has none, before its pod is
    /// known (rule B2). Returns true if there was one. Each takes the kernel some milliseconds, in
    /// which more may become known.
    pub fn attach_ahead(&mut self) -> bool {
        let Some(interfaces) = self.interfaces.clone() else {
            return false;
        };
        self.ahead.retain(&interfaces);
        let Some(ifindex) = self.ahead.next(&interfaces, &self.state) else {
            self.read_ahead(&interfaces);
            return false;
        };
        self.name(&interfaces);
        let interface = self.datapath.name(ifindex).unwrap_or_default().to_owned();
        // The other version's programs enforce, by their own maps, until the first complete list is
        // in (rule B1).
        let done = !self.has_other_version(ifindex, &interface) && {
            let open = !self.ahead.is_strict() && !self.is_closed(ifindex, &interface);
            self.attach_one(ifindex, &interface, open)
        };
        if !done {
            self.ahead.left.insert(ifindex);
            return true;
        }
        let behind = interfaces::addresses_behind(ifindex);
        let known = self.ahead.waiting.get(&ifindex);
        let waiting = Waiting {
            since: known.map_or_else(Instant::now, |known| known.since),
            // Without an address no connection was opened before.
            unread: behind.map_or(true, |addresses| !addresses.is_empty()),
            read_for: Default::default(),
        };
        if self.ahead.is_strict() {
            info!(
                interface,
                ifindex, "closed to all but the node until its pod is known"
            );
        } else {
            debug!(interface, ifindex, "programs are there before the pod is known");
        }
        self.ahead.waiting.insert(ifindex, waiting);
        self.publish_ahead();
        true
    }

    /// Returns true if an interface has programs of another version. Where the kernel does not
    /// answer, it counts as such.
    fn has_other_version(&self, ifindex: u32, interface: &str) -> bool {
        self.datapath.has_other_version(ifindex).unwrap_or_else(|error| {
            warn!(
                interface,
                error = causes(&error),
                "whose programs are on the interface"
            );
            true
        })
    }

    /// Returns true if an interface has no endpoint, and this agent or an earlier one closed it.
    /// Where the kernel does not answer, it counts as closed.
    fn is_closed(&self, ifindex: u32, interface: &str) -> bool {
        if self.state.endpoints.contains_key(&ifindex) {
            return false;
        }
        self.ahead.closed(&self.state).contains(&ifindex)
            || self.datapath.has_programs(ifindex).unwrap_or_else(|error| {
                warn!(
                    interface,
                    error = causes(&error),
                    "whether an earlier agent closed the interface"
                );
                true
            })
    }

    /// Takes over the interfaces that an earlier agent found no pod behind, now that all pods are
    /// known. Those that it closed stay closed. Nothing tells what an agent of another version
    /// closed: so all those are. Returns false if one could not be taken over: until then, the
    /// earlier agent's programs are what closes it.
    pub(super) fn inherit(&mut self, interfaces: &Interfaces, bound: &Bound) -> bool {
        self.name(interfaces);
        let mut all = true;
        for (ifindex, interface) in &interfaces.pods {
            if self.state.attached.contains(ifindex) {
                continue;
            }
            let waits = match self.state.endpoints.get(ifindex) {
                Some(endpoint) => endpoint.is_pending(),
                None => {
                    let is_unknown = !bound.pods.contains_key(ifindex);
                    let closed = is_unknown && self.has_other_version(*ifindex, &interface.name)
                        || self.is_closed(*ifindex, &interface.name);
                    let taken = closed && self.attach_one(*ifindex, &interface.name, false);
                    all &= taken || !closed;
                    taken
                }
            };
            if waits {
                self.ahead.left.remove(ifindex);
                self.ahead.wait(*ifindex);
            }
        }
        all
    }

    fn attach_one(&mut self, ifindex: u32, interface: &str, open: bool) -> bool {
        for write in sync::ahead(&self.state, ifindex, open) {
            let made = match write {
                Write::Attached(Put(ifindex, ())) => self.datapath.attach(ifindex),
                ref write => self.datapath.write(write),
            };
            if let Err(error) = made {
                error!(
                    interface,
                    ifindex,
                    error = causes(&error),
                    "programs cannot be attached before the pod is known"
                );
                return false;
            }
            self.state.record(&write);
        }
        true
    }

    /// Looks for connections that are older than the programs, on interfaces that let everything
    /// pass.
    fn read_ahead(&mut self, interfaces: &Interfaces) {
        let mut held = self.state.endpoints.clone();
        let mut of = BTreeSet::new();
        for (ifindex, waiting) in &self.ahead.waiting {
            let inside = interfaces.pods.get(ifindex).map(|interface| &interface.addresses);
            if let (true, Some(endpoint), Some(inside)) = (waiting.unread, held.get_mut(ifindex), inside)
                && let Some(known) = with_addresses(endpoint, inside)
                && !inside.is_empty()
            {
                *endpoint = known;
                of.insert(*ifindex);
            }
        }
        if of.is_empty() {
            return;
        }
        match self
            .datapath
            .read_connections(&held, &of, &interfaces.node_addresses)
        {
            Ok(read) => {
                for ifindex in read {
                    if let (Some(waiting), Some(endpoint)) =
                        (self.ahead.waiting.get_mut(&ifindex), held.get(&ifindex))
                    {
                        waiting.unread = false;
                        waiting.read_for = (endpoint.ipv4, endpoint.ipv6);
                    }
                }
            }
            Err(error) => error!(error = causes(&error), "looking for open connections"),
        }
    }

    pub(super) fn publish_ahead(&mut self) {
        let closed = self.ahead.closed(&self.state);
        let names = closed.iter().filter_map(|ifindex| self.datapath.name(*ifindex));
        let names = names.map(str::to_owned).collect();
        self.status
            .send_modify(|status| Arc::make_mut(status).closed = names);
    }

    /// Records how long interfaces were closed whose pod is now known.
    pub(super) fn settle_ahead(&mut self) {
        for (ifindex, waiting) in self.ahead.take_known(&self.state) {
            if self.ahead.is_strict() {
                let closed = waiting.since.elapsed();
                let interface = self.datapath.name(ifindex);
                let pod = self.memory.pods.get(&ifindex).map(|(pod, _)| pod.to_string());
                info!(
                    interface,
                    pod,
                    closed_ms = closed.as_millis() as u64,
                    "the pod of a closed interface is known"
                );
                self.status.borrow().closed_for.observe(closed);
            }
        }
        self.publish_ahead();
    }
}
