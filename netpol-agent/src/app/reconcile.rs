// SPDX-License-Identifier: Apache-2.0
//! One turn of the loop: what is known of the cluster and of the node, compiled, planned and written.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use netpol_common::abi::{Config, Lifetimes};
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use super::{
    Options,
    ahead::{Ahead, Waiting, with_addresses},
    bind::{Bindings, Bound, Locals, Standing, World, bind},
    memory,
    standing::{self, over_budget, standings},
    troubles::{self, Troubles},
};
use crate::{
    compile::Compiler,
    datapath::{
        self, Datapath,
        interfaces::{self, Interfaces, Settled},
    },
    explain::Held,
    model::{Diagnostic, Node, ObjectKey, Pod, Set, Snapshot},
    observe::status::{GRACE, Status, Unenforced},
    records::Records,
    sync::{self, Desired, Memory, Report, State, Write},
};

/// Names of nodes that are listed where none is this one's.
const NAMES: usize = 10;

/// What was bound, with the interfaces and the records that said so.
type Told = (Arc<Interfaces>, Arc<Records>, Arc<Bound>);

/// The state of the loop.
pub struct Reconciler {
    datapath: Datapath,
    state: State,
    memory: Memory,
    node_name: String,
    pin_path: PathBuf,
    events_per_second: u32,
    lifetimes: Lifetimes,
    snapshot: Option<Arc<Snapshot>>,
    /// When the first event came that no turn has followed.
    received: Option<Instant>,
    interfaces: Option<Arc<Interfaces>>,
    records: Option<Arc<Records>>,
    locals: Locals,
    /// What was bound by these interfaces and records, and by the pods of now.
    bound: Option<Told>,
    /// What is known of interfaces for their life.
    bindings: Bindings,
    /// Local pods that are not enforced on.
    unenforced: BTreeMap<ObjectKey, Unenforced>,
    /// The names that there are, where none of them is this node's.
    misnamed: Option<BTreeSet<String>>,
    compiler: Compiler,
    reported: Set<Diagnostic>,
    troubles: Troubles,
    /// Number of diagnostics of each code.
    by_code: BTreeMap<&'static str, u64>,
    applied: Option<u64>,
    swept: bool,
    ahead: Ahead,
    status: watch::Sender<Arc<Status>>,
    settled: watch::Sender<Settled>,
}

/// What is told of a turn, beside its report.
struct Turn {
    /// Local pods whose interface is not known yet.
    waiting: usize,
    /// Nothing was written but programs attached anew.
    routine: bool,
    /// From the first event of the revision to its last write, if this is its first turn.
    delay: Option<Duration>,
    /// Of the turn itself.
    duration: Duration,
}

impl Reconciler {
    /// Starts from what the kernel holds.
    pub fn new(
        datapath: Datapath,
        state: State,
        bindings: Bindings,
        options: &Options,
        status: watch::Sender<Arc<Status>>,
        settled: watch::Sender<Settled>,
    ) -> Self {
        Self {
            datapath,
            state,
            memory: Memory::default(),
            node_name: options.node_name.clone(),
            pin_path: options.datapath.pin_path.clone(),
            events_per_second: options.events_per_second,
            lifetimes: options.lifetimes,
            snapshot: None,
            received: None,
            interfaces: None,
            records: None,
            locals: Locals::default(),
            bound: None,
            bindings,
            unenforced: BTreeMap::new(),
            misnamed: None,
            compiler: Compiler::default(),
            reported: Set::new(),
            troubles: Troubles::default(),
            by_code: BTreeMap::new(),
            applied: None,
            swept: false,
            ahead: Ahead {
                startup: options.startup,
                given: options.pod_cidrs.clone(),
                ..Ahead::default()
            },
            status,
            settled,
        }
    }

    /// Takes what the source knows, while the source can publish nothing new: a moment is taken with its snapshot, or left to the next.
    pub fn set_snapshot(&mut self, snapshot: Option<&Arc<Snapshot>>) {
        let received = snapshot.and_then(|snapshot| snapshot.received.take());
        self.received = self.received.into_iter().chain(received).min();
        self.snapshot = snapshot.cloned().or(self.snapshot.take());
        let node = snapshot.and_then(|snapshot| snapshot.nodes.get(self.node_name.as_str()));
        if snapshot.is_some() {
            self.set_pod_cidrs(node.map(|node| node.pod_cidrs.clone()).unwrap_or_default());
            if self.ahead.is_strict() && self.ahead.cidrs().is_empty() && self.applied.is_none() {
                error!(
                    node = self.node_name,
                    "--startup-mode=strict closes no interface: neither --pod-cidr nor spec.podCIDRs of the Node tells the addresses of its pods"
                );
            }
        }
    }

    /// Takes what the Node says that its pods have addresses of.
    pub fn set_pod_cidrs(&mut self, cidrs: Vec<IpNet>) {
        self.ahead.told = cidrs;
    }

    /// Whether interfaces are closed until their pod is known.
    pub fn is_strict(&self) -> bool {
        self.ahead.is_strict()
    }

    /// Attaches programs to the next interface of the pod network that has none, before its pod is known (rule B2). Returns whether there was
    /// one: each takes the kernel some milliseconds, in which more may become known.
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
        let done = match self.datapath.has_other_version(ifindex) {
            // It enforces, by its own maps, until the first complete list is in (rule B1).
            Ok(true) => false,
            Ok(false) => self.attach_one(ifindex, &interface, !self.ahead.is_strict()),
            Err(error) => {
                warn!(interface, error = %anyhow::Error::from(error), "whose programs are on the interface");
                false
            }
        };
        if !done {
            self.ahead.left.insert(ifindex);
            return true;
        }
        let behind = interfaces::addresses_behind(ifindex);
        let waiting = Waiting {
            since: Instant::now(),
            // Without an address nothing was opened before.
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

    /// Takes over the interfaces that an earlier agent found no pod behind: those that it closed
    /// stay closed.
    fn inherit(&mut self, interfaces: &Interfaces) {
        self.name(interfaces);
        for (ifindex, interface) in &interfaces.pods {
            if self.state.attached.contains(ifindex) {
                continue;
            }
            let waits = match self.state.endpoints.get(ifindex) {
                Some(endpoint) => endpoint.is_pending(),
                None => match self.datapath.has_programs(*ifindex) {
                    Ok(closed) => closed && self.attach_one(*ifindex, &interface.name, false),
                    Err(error) => {
                        let error = anyhow::Error::from(error);
                        warn!(interface = interface.name, error = %error, "whether an earlier agent closed the interface");
                        false
                    }
                },
            };
            if waits {
                self.ahead.wait(*ifindex);
            }
        }
    }

    fn attach_one(&mut self, ifindex: u32, interface: &str, open: bool) -> bool {
        for write in sync::ahead(&self.state, ifindex, open) {
            let made = match write {
                Write::Attach(ifindex) => self.datapath.attach(ifindex),
                ref write => self.datapath.write(write),
            };
            if let Err(error) = made {
                error!(interface, ifindex, error = %anyhow::Error::from(error), "programs cannot be attached before the pod is known");
                return false;
            }
            self.state.record(&write);
        }
        true
    }

    /// Looks for connections that were open before the programs of interfaces that let everything pass.
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
            Err(error) => error!(error = %anyhow::Error::from(error), "looking for open connections"),
        }
    }

    fn name(&mut self, interfaces: &Interfaces) {
        let pods = interfaces.pods.iter();
        let names = pods
            .map(|(index, interface)| (*index, interface.name.clone()))
            .chain(interfaces.devices.clone());
        self.datapath.set_interfaces(names.collect());
    }

    fn publish_ahead(&mut self) {
        let closed = self.ahead.closed(&self.state);
        let names = closed.iter().filter_map(|ifindex| self.datapath.name(*ifindex));
        let names = names.map(str::to_owned).collect();
        self.status
            .send_modify(|status| Arc::make_mut(status).closed = names);
    }

    /// Tells how long interfaces were closed whose pod is known now.
    fn settle_ahead(&mut self) {
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

    /// Takes what the node's interfaces are.
    pub fn set_interfaces(&mut self, interfaces: Option<Arc<Interfaces>>) {
        self.interfaces = interfaces.or(self.interfaces.take());
    }

    /// Takes what the runtime has written of interfaces.
    pub fn set_records(&mut self, records: Option<Arc<Records>>) {
        self.records = records.or(self.records.take());
    }

    /// When a pod that is not enforced on is to be told of.
    pub fn next_overdue(&self) -> Option<tokio::time::Instant> {
        let waiting = self.unenforced.values().filter(|pod| !pod.overdue);
        let since = waiting.map(|pod| pod.since).min()?;
        Some(tokio::time::Instant::from_std(since + GRACE))
    }

    /// Reads back what the kernel holds and runs: what differs from what was written or attached is drift, and the next turn repairs it.
    pub fn reread(&mut self) {
        let attached = self.check(self.state.attached.clone());
        let attached_devices = self.check(self.state.attached_devices.clone());
        match self.datapath.read() {
            Ok(found) => {
                debug!(endpoints = found.endpoints.len(), "the maps were compared");
                let expected = State {
                    attached: BTreeSet::new(),
                    attached_devices: BTreeSet::new(),
                    ..std::mem::take(&mut self.state)
                };
                if found != expected {
                    warn!(
                        endpoints = found.endpoints.len(),
                        identities = found.identities.len(),
                        "the maps are not as they were written; repairing"
                    );
                    self.status
                        .send_modify(|status| Arc::make_mut(status).drifts += 1);
                    self.memory.last = None;
                }
                self.state = found;
            }
            Err(error) => error!(error = %anyhow::Error::from(error), "reading the maps back"),
        }
        self.state.attached = attached;
        self.state.attached_devices = attached_devices;
    }

    /// Of interfaces with programs, those where the kernel runs them as they were attached.
    fn check(&mut self, mut attached: BTreeSet<u32>) -> BTreeSet<u32> {
        let faults = self.datapath.faults(&attached);
        for (ifindex, fault) in &faults {
            let interface = self.datapath.name(*ifindex);
            warn!(
                interface,
                ifindex, fault, "programs are not as they were attached; repairing"
            );
            attached.remove(ifindex);
        }
        if !faults.is_empty() {
            self.status
                .send_modify(|status| Arc::make_mut(status).repairs += faults.len() as u64);
        }
        attached
    }

    /// Whether there is a local pod whose interface is not known yet.
    pub fn is_waiting(&self) -> bool {
        !self.unenforced.is_empty()
    }

    /// Removes a part of the flows that are past their lifetime.
    pub fn expire_flows(&mut self) {
        // The lifetimes in force are known from the first turn on.
        if self.applied.is_none() {
            return;
        }
        match self.datapath.expire_flows() {
            Ok(expired) => self
                .status
                .send_modify(|status| Arc::make_mut(status).expired = expired),
            Err(error) => warn!(error = %anyhow::Error::from(error), "looking for flows past their lifetime"),
        }
    }

    /// Brings the kernel to what is known. Nothing changes before both the cluster and the interfaces are known (rule B1). Returns
    /// whether all writes succeeded.
    pub fn reconcile(&mut self) -> bool {
        let (Some(snapshot), Some(interfaces), Some(records)) = (
            self.snapshot.clone(),
            self.interfaces.clone(),
            self.records.clone(),
        ) else {
            return true;
        };
        self.settle_lifetimes();
        let started = Instant::now();
        let bound = self.bind(&snapshot, &interfaces, &records);
        let node = Node {
            name: self.node_name.clone(),
            addresses: interfaces.node_addresses.clone(),
            link_locals: bound.link_locals(),
            ..Node::default()
        };
        let compiled = self.compiler.compile(&snapshot, &node);
        self.report_diagnostics(&compiled.diagnostics);
        let present = interfaces.pods.keys().copied().collect();
        // Interfaces of pods get a pod's programs, known or not.
        let awaited = self.ahead.awaited(&interfaces);
        let devices = interfaces.devices.keys();
        let devices = devices
            .filter(|ifindex| !awaited.contains(ifindex))
            .copied()
            .collect();
        let bridges = interfaces
            .pods
            .iter()
            .filter_map(|(ifindex, interface)| Some((*ifindex, interface.bridge?)))
            .collect();
        if self.applied.is_none() {
            self.inherit(&interfaces);
        }
        self.ahead.astray = self.unenforced.values().any(|pod| pod.overdue);
        let closed = self.ahead.closed(&self.state);
        self.tell_closed(&closed, &bound);
        let (kept, unread) = self.ahead.known(&bound.pods, &compiled);
        let desired = Desired {
            closed: &closed,
            kept: &kept,
            compiled: &compiled,
            pods: &bound.pods,
            present: &present,
            devices: &devices,
            bridges: &bridges,
            links: &bound.links,
            events_per_second: self.events_per_second,
        };
        let plan = sync::plan(&self.state, &self.memory, desired);
        self.name(&interfaces);
        let routine = plan
            .writes
            .iter()
            .all(|write| matches!(write, Write::Attach(_) | Write::AttachDevice(_)));
        self.datapath
            .begin(&self.state, &plan.writes, &interfaces.node_addresses, unread);
        let datapath = &mut self.datapath;
        let report = sync::apply(plan, &mut self.state, &mut self.memory, |write| {
            datapath.write(write)
        });
        // Later turns of a revision repair, or follow the interfaces: they are not its delay.
        let received = self.received.take();
        let mut delay = received.map(|received| received.elapsed());
        match self.datapath.finish() {
            Ok(seeded) => self.status.send_modify(|status| {
                if seeded.flows > status.seeded.flows {
                    delay = received.map(|received| received.elapsed());
                }
                Arc::make_mut(status).seeded = seeded;
            }),
            Err(error) => error!(error = %anyhow::Error::from(error), "looking for open connections"),
        }
        self.settle_ahead();
        if !self.swept && report.failures.is_empty() {
            self.sweep();
        }
        let waiting = self.unenforced.len();
        let first = self.applied.is_none();
        let turn = Turn {
            waiting,
            routine,
            delay,
            duration: started.elapsed(),
        };
        let of = standing::Interfaces {
            held_back: &report.held_back,
            attached: &self.state.attached,
            unattached: self.datapath.unattached(),
            some_closed: !self.ahead.closed(&self.state).is_empty(),
        };
        let held = Held {
            node: self.node_name.clone(),
            pods: standings(&bound.standing, of),
            over_budget: over_budget(&compiled),
            link_locals: bound.link_locals(),
            ..Held::default()
        };
        self.publish(&report, &turn, held);
        self.log(&report, &turn);
        if first || report.writes > memory::LARGE {
            memory::give_back();
        }
        report.failures.is_empty()
    }

    /// Finds out which pod is behind which interface, and remembers it in the kernel before anything is enforced by it.
    fn bind(
        &mut self,
        snapshot: &Snapshot,
        interfaces: &Arc<Interfaces>,
        records: &Arc<Records>,
    ) -> Arc<Bound> {
        let changed = self.locals.update(&snapshot.pods, &self.node_name);
        let same = |(of, by, _): &&(Arc<Interfaces>, Arc<Records>, _)| {
            !changed && Arc::ptr_eq(of, interfaces) && Arc::ptr_eq(by, records)
        };
        let bound = match self.bound.as_ref().filter(same) {
            Some((_, _, bound)) => bound.clone(),
            None => {
                let bound = Arc::new(self.bind_anew(interfaces, records));
                self.bound = Some((interfaces.clone(), records.clone(), bound.clone()));
                bound
            }
        };
        self.tell_unenforced(&bound);
        self.check_name(snapshot);
        bound
    }

    fn bind_anew(&mut self, interfaces: &Interfaces, records: &Records) -> Bound {
        let world = World {
            pods: &self.locals.pods,
            interfaces,
            records,
            holds: &self.state.endpoints,
        };
        let bound = bind(world, &self.bindings);
        for ifindex in &bound.replaced {
            // What was there is another interface's: its programs went with it, and its endpoint's number with its pod.
            self.state.attached.remove(ifindex);
            let nobody = (ObjectKey::new("", ""), String::new());
            self.memory.pods.insert(*ifindex, nobody);
        }
        let gone = self
            .bindings
            .keys()
            .filter(|ifindex| !bound.bindings.contains_key(ifindex));
        let gone: Vec<_> = gone.copied().map(|ifindex| (ifindex, None)).collect();
        let changed = bound.bindings.iter().filter_map(|(ifindex, binding)| {
            let stored = binding.to_stored(*ifindex);
            let known = self.bindings.get(ifindex).map(|known| known.to_stored(*ifindex));
            (known != Some(stored)).then_some((*ifindex, Some(stored)))
        });
        for (ifindex, binding) in gone.into_iter().chain(changed) {
            if let Err(error) = self.datapath.set_binding(ifindex, binding.as_ref()) {
                error!(ifindex, error = %anyhow::Error::from(error), "a restart may forget which pod is behind an interface");
            }
        }
        self.bindings.clone_from(&bound.bindings);
        let settled = bound.settled();
        self.settled.send_if_modified(|known| {
            let changed = *known != settled;
            *known = settled;
            changed
        });
        bound
    }

    /// Tells of interfaces that this turn closes, since nobody was found behind them.
    fn tell_closed(&self, closed: &BTreeSet<u32>, bound: &Bound) {
        let is_new =
            |ifindex: &&u32| self.state.endpoints.contains_key(ifindex) && !bound.pods.contains_key(ifindex);
        for ifindex in closed.iter().filter(is_new) {
            let interface = self.datapath.name(*ifindex);
            warn!(
                interface,
                ifindex,
                "closed to all but the node: no pod was found behind it, and a pod of this node is on no interface"
            );
        }
    }

    /// Tells of pods that are not enforced on, once each.
    fn tell_unenforced(&mut self, bound: &Bound) {
        let now = Instant::now();
        let mut before = std::mem::take(&mut self.unenforced);
        for (key, standing) in &bound.standing {
            let Standing::Not(why) = standing else { continue };
            let why = why.to_string();
            let known = before.remove(key);
            let mut pod = Unenforced {
                since: known.as_ref().map_or(now, |known| known.since),
                overdue: known
                    .as_ref()
                    .is_some_and(|known| known.overdue && known.why == why),
                why,
            };
            if !pod.overdue && now.duration_since(pod.since) >= GRACE {
                pod.overdue = true;
                warn!(
                    namespace = &*key.namespace,
                    pod = &*key.name,
                    why = pod.why,
                    "a pod is not enforced on"
                );
            }
            self.unenforced.insert(key.clone(), pod);
        }
        for (key, _) in before.iter().filter(|(_, pod)| pod.overdue) {
            if matches!(bound.standing.get(key), Some(Standing::Bound(_))) {
                info!(
                    namespace = &*key.namespace,
                    pod = &*key.name,
                    "a pod is enforced on now"
                );
            }
        }
    }

    /// Tells, once, if nothing in the cluster knows a node of this name: then no pod here is enforced on.
    fn check_name(&mut self, snapshot: &Snapshot) {
        let named = |pod: &Arc<Pod>| pod.node.as_deref() == Some(self.node_name.as_str());
        let known = !self.locals.pods.is_empty()
            || snapshot.nodes.get(&self.node_name).is_some()
            || snapshot.pods.values().any(named);
        if known {
            self.misnamed = None;
            return;
        }
        let of_pods = snapshot
            .pods
            .values()
            .filter_map(|pod| Some(pod.node.as_deref()?.to_owned()));
        let names: BTreeSet<String> = snapshot.nodes.keys().cloned().chain(of_pods).collect();
        if self.misnamed.as_ref() == Some(&names) {
            return;
        }
        let mut listed = names.iter().take(NAMES).cloned().collect::<Vec<_>>().join(", ");
        if names.len() > NAMES {
            listed += &format!(" and {} more", names.len() - NAMES);
        }
        error!(
            node = self.node_name,
            names = listed,
            "no node and no pod has the name of --node-name: no pod of this node is enforced on"
        );
        self.misnamed = Some(names);
    }

    /// Writes the lifetimes of flows, should the kernel hold others.
    fn settle_lifetimes(&mut self) {
        if self.state.config.lifetimes == self.lifetimes {
            return;
        }
        let write = Write::Config(Config {
            lifetimes: self.lifetimes,
            ..self.state.config
        });
        match self.datapath.write(&write) {
            Ok(()) => self.state.record(&write),
            Err(error) => error!(error = %anyhow::Error::from(error), "writing the lifetimes of flows"),
        }
    }

    /// Removes what earlier agents left, once all of this agent's own is in place: what cannot be replaced stays.
    fn sweep(&mut self) {
        let wanted = self
            .state
            .endpoints
            .keys()
            .chain(&self.state.attached)
            .chain(&self.state.attached_devices)
            .copied()
            .collect();
        let swept = self
            .datapath
            .retain(&wanted)
            .and_then(|()| datapath::remove_other_versions(&self.pin_path));
        match swept {
            Ok(()) => self.swept = true,
            Err(error) => error!(error = %anyhow::Error::from(error), "removing what an earlier agent left"),
        }
    }

    fn log(&mut self, report: &Report, turn: &Turn) {
        self.troubles.tell(report, |ifindex| self.datapath.name(ifindex));
        if self.applied == Some(report.revision) && turn.routine {
            return;
        }
        self.applied = Some(report.revision);
        info!(
            revision = report.revision,
            endpoints = self.state.endpoints.len(),
            waiting = turn.waiting,
            policies = self.state.policies.len(),
            identities = self.state.identities.len(),
            writes = report.writes,
            failures = report.failed(),
            duration_ms = turn.duration.as_millis() as u64,
            delay_us = turn.delay.map(|delay| delay.as_micros() as u64),
            "revision applied"
        );
    }

    fn report_diagnostics(&mut self, diagnostics: &Set<Diagnostic>) {
        let mut new = BTreeSet::new();
        for (diagnostic, _, now) in self.reported.diff(diagnostics) {
            let count = self.by_code.entry(diagnostic.code).or_default();
            if now.is_some() {
                *count += 1;
                new.insert(diagnostic);
            } else {
                *count -= 1;
                debug!(
                    code = diagnostic.code,
                    object = diagnostic.object,
                    field = diagnostic.field,
                    "no longer wrong"
                );
            }
        }
        troubles::tell_diagnostics(new);
        self.by_code.retain(|_, count| *count > 0);
        self.reported = diagnostics.clone();
    }

    fn publish(&self, report: &Report, turn: &Turn, held: Held) {
        let endpoints: BTreeMap<u32, _> = self
            .state
            .endpoints
            .iter()
            .filter_map(|(ifindex, endpoint)| Some((endpoint.id, self.memory.pods.get(ifindex)?.0.clone())))
            .collect();
        let pod = |ifindex: &u32| Some((*ifindex, self.memory.pods.get(ifindex)?.0.clone()));
        let interfaces = self.state.endpoints.keys().filter_map(pod).collect();
        self.status.send_modify(|status| {
            let status = Arc::make_mut(status);
            status.interfaces = interfaces;
            status.held = held;
            status.revision = report.revision;
            status.ready |= report.failures.is_empty();
            status.endpoints = endpoints;
            status.endpoints_waiting = turn.waiting;
            status.unenforced.clone_from(&self.unenforced);
            status.misnamed = self.misnamed.is_some();
            status.endpoints_held_back = report.held_back.len();
            status.policies = self.state.policies.len();
            status.identities = self.state.identities.len();
            status.diagnostics.clone_from(&self.by_code);
            status.write_failures += report.failed() as u64;
            status.writes += report.writes as u64;
            status.last_duration = turn.duration;
            if let Some(delay) = turn.delay {
                status.delays.observe(delay);
            }
        });
    }
}
