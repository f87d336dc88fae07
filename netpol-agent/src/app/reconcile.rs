// SPDX-License-Identifier: Apache-2.0
//! One turn of the loop: compiles what is known of the cluster and the node, plans and writes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use tokio::sync::watch;
use tracing::{debug, error, warn};

mod ahead;
mod tell;
mod writing;

use self::writing::{Writing, Written};
use super::{
    Options,
    ahead::Ahead,
    bind::{Bindings, Bound, Locals, World, bind},
    memory,
    others::Others,
    standing::{self, over_budget, standings},
    troubles::Troubles,
};
use crate::{
    causes::causes,
    compile::Compiler,
    datapath::{
        Datapath,
        interfaces::{Interfaces, Settled},
    },
    explain::Held,
    model::{Diagnostic, Node, ObjectKey, Set, Snapshot},
    observe::status::{GRACE, Status, Unenforced},
    progress::{Part, Progress, Step},
    records::Records,
    sync::{self, Desired, Memory, Put, State, Write},
    verify,
};

/// The last binding, with the interfaces and records that it came from.
type Told = (Arc<Interfaces>, Arc<Records>, Arc<Bound>);

/// The state of the loop.
pub struct Reconciler {
    datapath: Datapath,
    state: State,
    memory: Memory,
    options: Options,
    snapshot: Option<Arc<Snapshot>>,
    /// When the first event came that no turn has handled.
    received: Option<Instant>,
    interfaces: Option<Arc<Interfaces>>,
    records: Option<Arc<Records>>,
    /// True while a self-test runs: its pods are added to each snapshot.
    holds_scratch: bool,
    /// Why they are not.
    scratch_refused: Option<String>,
    locals: Locals,
    /// The binding for these interfaces and records, and for the current pods.
    bound: Option<Told>,
    /// Facts about interfaces that last for their life.
    bindings: Bindings,
    /// Local pods that are not enforced on.
    unenforced: BTreeMap<ObjectKey, Unenforced>,
    /// The node names that exist, if this node's is not among them.
    misnamed: Option<BTreeSet<String>>,
    compiler: Compiler,
    reported: Set<Diagnostic>,
    troubles: Troubles,
    others: Others,
    /// The diagnostics about budgets.
    over_budget: Set<Diagnostic>,
    /// Number of diagnostics of each code.
    by_code: BTreeMap<&'static str, u64>,
    applied: Option<u64>,
    /// What earlier agents closed is closed by this one.
    inherited: bool,
    swept: bool,
    ahead: Ahead,
    status: watch::Sender<Arc<Status>>,
    settled: watch::Sender<Settled>,
    progress: Progress,
}

/// Facts about a turn, beside its report.
struct Turn {
    /// Local pods whose interface is not known yet.
    waiting: usize,
    /// True if nothing was written except that programs were attached anew.
    routine: bool,
    /// From the first event of the revision until all endpoints are enforced, if this is the
    /// revision's first turn.
    delay: Option<Duration>,
    /// Part of the turn that waited for running programs.
    waited: Duration,
    /// Duration of the turn itself.
    duration: Duration,
}

impl Reconciler {
    /// Starts from what the kernel holds.
    pub fn new(
        datapath: Datapath,
        state: State,
        bindings: Bindings,
        options: Options,
        (status, settled): (watch::Sender<Arc<Status>>, watch::Sender<Settled>),
        progress: Progress,
    ) -> Self {
        Self {
            datapath,
            state,
            memory: Memory::default(),
            snapshot: None,
            received: None,
            interfaces: None,
            records: None,
            holds_scratch: false,
            scratch_refused: None,
            locals: Locals::default(),
            bound: None,
            bindings,
            unenforced: BTreeMap::new(),
            misnamed: None,
            compiler: Compiler::default(),
            reported: Set::new(),
            troubles: Troubles::default(),
            others: Others::default(),
            over_budget: Set::new(),
            by_code: BTreeMap::new(),
            applied: None,
            inherited: false,
            swept: false,
            ahead: Ahead {
                startup: options.startup,
                given: options.pod_cidrs.clone(),
                ..Ahead::default()
            },
            options,
            status,
            settled,
            progress,
        }
    }

    /// Takes the source's snapshot. Call it while the source can publish nothing new, so that the
    /// time of an event stays with its snapshot.
    pub fn set_snapshot(&mut self, snapshot: Option<&Arc<Snapshot>>) {
        let received = snapshot.and_then(|_| self.progress.take(Part::Objects));
        self.received = self.received.into_iter().chain(received).min();
        self.snapshot = snapshot.cloned().or(self.snapshot.take());
        let node = snapshot.and_then(|snapshot| snapshot.nodes.get(self.options.node_name.as_str()));
        if snapshot.is_some() {
            self.set_pod_cidrs(node.map(|node| node.pod_cidrs.clone()).unwrap_or_default());
            if self.ahead.is_strict() && self.ahead.cidrs().is_empty() && self.applied.is_none() {
                error!(
                    node = self.options.node_name,
                    "--startup-mode=strict closes no interface: neither --pod-cidr nor spec.podCIDRs of the Node tells the addresses of its pods"
                );
            }
        }
    }

    /// Takes the Node's pod ranges.
    pub fn set_pod_cidrs(&mut self, cidrs: Vec<IpNet>) {
        self.ahead.told = cidrs;
    }

    /// Returns true if interfaces stay closed until their pod is known.
    pub fn is_strict(&self) -> bool {
        self.ahead.is_strict()
    }

    fn name(&mut self, interfaces: &Interfaces) {
        let pods = interfaces.pods.iter();
        let names = pods
            .map(|(index, interface)| (*index, interface.name.clone()))
            .chain(interfaces.devices.clone());
        self.datapath.set_interfaces(names.collect());
    }

    /// Takes the node's interfaces. Call it while they cannot change.
    pub fn set_interfaces(&mut self, interfaces: Option<Arc<Interfaces>>) {
        self.progress.take(Part::Interfaces);
        if let Some(interfaces) = &interfaces {
            self.others.tell(&interfaces.devices);
        }
        self.interfaces = interfaces.or(self.interfaces.take());
    }

    /// Begins or ends to hold the scratch pods of a self-test.
    pub fn hold_scratch(&mut self, holds: bool) {
        self.holds_scratch = holds;
    }

    /// Adds the scratch pods, if they are held and nobody has their addresses.
    fn with_scratch(&mut self, snapshot: Arc<Snapshot>, interfaces: &Interfaces) -> Arc<Snapshot> {
        if !self.holds_scratch {
            self.scratch_refused = None;
            return snapshot;
        }
        self.scratch_refused = verify::taken(&snapshot, &interfaces.node_addresses, self.ahead.cidrs());
        if self.scratch_refused.is_some() {
            return snapshot;
        }
        Arc::new(verify::with_scratch(&snapshot, &self.options.node_name))
    }

    /// Takes the runtime's records, in the same way.
    pub fn set_records(&mut self, records: Option<Arc<Records>>) {
        self.progress.take(Part::Records);
        self.records = records.or(self.records.take());
    }

    /// Returns when to report a pod that is not enforced on, or to close an interface that it may
    /// be behind: the interface may have come later.
    pub fn next_overdue(&self) -> Option<tokio::time::Instant> {
        let astray = self.unenforced.values().map(|pod| pod.since).min()?;
        let untold = self.unenforced.values().filter(|pod| !pod.overdue);
        let untold = untold.map(|pod| pod.since + GRACE);
        // A late interface that could not be closed is tried again.
        let now = Instant::now();
        let closing = self.ahead.open(&self.state).map(|since| {
            let due = since.max(astray) + GRACE;
            if due > now { due } else { now + super::RETRY_FIRST }
        });
        untold.chain(closing).min().map(tokio::time::Instant::from_std)
    }

    /// Reads back what the kernel holds and runs. Anything that differs from what was written or
    /// attached is drift, and the next turn repairs it. Returns what was found.
    pub fn reread(&mut self) -> Vec<String> {
        let mut found = Vec::new();
        let attached = self.check(self.state.attached.clone(), &mut found);
        let attached_devices = self.check(self.state.attached_devices.clone(), &mut found);
        match self.datapath.read() {
            Ok(read) => {
                debug!(endpoints = read.endpoints.len(), "the maps were compared");
                let expected = State {
                    attached: BTreeSet::new(),
                    attached_devices: BTreeSet::new(),
                    ..std::mem::take(&mut self.state)
                };
                let differing = read.differences(&expected);
                if !differing.is_empty() {
                    let maps = differing.join(", ");
                    warn!(
                        maps,
                        endpoints = read.endpoints.len(),
                        identities = read.identities.len(),
                        "the maps are not as they were written; repairing"
                    );
                    self.status
                        .send_modify(|status| Arc::make_mut(status).drifts += 1);
                    self.memory.last = None;
                    found.push(format!("maps are not as they were written: {maps}"));
                }
                self.state = read;
            }
            Err(error) => {
                let error = causes(&error);
                error!(error, "reading the maps back");
                found.push(format!("the maps cannot be read back: {error}"));
            }
        }
        self.state.attached = attached;
        self.state.attached_devices = attached_devices;
        if !found.is_empty() {
            let last = Some((Instant::now(), found.clone()));
            self.status
                .send_modify(|status| Arc::make_mut(status).last_drift = last);
        }
        found
    }

    /// Keeps the interfaces where the kernel runs the programs as they were attached. Adds what is
    /// wrong at the others to `found`.
    fn check(&mut self, mut attached: BTreeSet<u32>, found: &mut Vec<String>) -> BTreeSet<u32> {
        let faults = self.datapath.faults(&attached);
        for (ifindex, fault) in &faults {
            let interface = self.datapath.name(*ifindex);
            warn!(
                interface,
                ifindex, fault, "programs are not as they were attached; repairing"
            );
            found.push(format!(
                "interface {}: {fault}",
                interface.map_or_else(|| ifindex.to_string(), str::to_owned)
            ));
            attached.remove(ifindex);
        }
        if !faults.is_empty() {
            self.status
                .send_modify(|status| Arc::make_mut(status).repairs += faults.len() as u64);
        }
        attached
    }

    /// Returns true if a local pod's interface is not known yet.
    pub fn is_waiting(&self) -> bool {
        !self.unenforced.is_empty()
    }

    /// Returns true once something is enforced.
    pub fn has_applied(&self) -> bool {
        self.applied.is_some()
    }

    /// Removes expired flows in a part of the table. Returns true if the part behind it is to be
    /// checked at once.
    pub fn expire_flows(&mut self) -> bool {
        // The lifetimes in force are known from the first turn on.
        if !self.has_applied() {
            return false;
        }
        let more = self.datapath.expire_flows().unwrap_or_else(|error| {
            warn!(error = causes(&error), "looking for flows past their lifetime");
            false
        });
        let expired = self.datapath.expired();
        self.status
            .send_modify(|status| Arc::make_mut(status).expired = expired);
        more
    }

    /// Brings the kernel to what is known. Changes nothing before both the cluster and the
    /// interfaces are known (rule B1). Returns true if nothing failed.
    #[expect(
        clippy::too_many_lines,
        reason = "one turn of the loop: its steps in order, each a call"
    )]
    pub fn reconcile(&mut self) -> bool {
        let (Some(snapshot), Some(interfaces), Some(records)) = (
            self.snapshot.clone(),
            self.interfaces.clone(),
            self.records.clone(),
        ) else {
            return true;
        };
        self.progress.begin(Step::Compiling);
        let started = Instant::now();
        let snapshot = self.with_scratch(snapshot, &interfaces);
        let bound = self.bind(&snapshot, &interfaces, &records);
        let node = Node {
            name: self.options.node_name.clone(),
            addresses: interfaces.node_addresses.clone(),
            link_locals: bound.link_locals(),
            ..Node::default()
        };
        let compiled = self.compiler.compile(&snapshot, &node);
        self.report_diagnostics(&compiled.diagnostics);
        let present = interfaces.pods.keys().copied().collect();
        if !self.inherited {
            self.inherited = self.inherit(&interfaces, &bound);
        }
        // Interfaces of the pod network get a pod's programs, whether the pod is known or not.
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
        self.ahead.astray = self.unenforced.values().any(|pod| pod.overdue);
        let closed = self.ahead.closed(&self.state);
        self.tell_closed(&closed, &bound);
        let unread = self.ahead.unread(&bound.pods, &compiled);
        let desired = Desired {
            closed: &closed,
            compiled: &compiled,
            pods: &bound.pods,
            present: &present,
            devices: &devices,
            bridges: &bridges,
            links: &bound.links,
            settings: self.options.settings,
        };
        let plan = sync::plan(&self.state, &self.memory, desired);
        self.progress.begin(Step::Writing);
        self.name(&interfaces);
        let routine = plan
            .writes()
            .all(|write| matches!(write, Write::Attached(Put(..)) | Write::AttachedDevices(Put(..))));
        self.datapath
            .begin(&self.state, plan.writes(), &interfaces.node_addresses, unread);
        let mut writing = Writing::new(&mut self.datapath, self.status.borrow().seeded);
        let report = sync::apply(plan, &mut self.state, &mut self.memory, &mut writing);
        // Later turns of a revision repair or follow the interfaces: they do not count as its
        // delay.
        let Written {
            seeded,
            delay,
            waited,
        } = writing.finish(self.received.take());
        self.status
            .send_modify(|status| Arc::make_mut(status).seeded = seeded);
        self.settle_ahead();
        if !self.swept && self.inherited && report.failures.is_empty() {
            self.sweep();
        }
        let waiting = self.unenforced.len();
        let first = self.applied.is_none();
        let turn = Turn {
            waiting,
            routine,
            delay,
            waited,
            duration: started.elapsed(),
        };
        let of = standing::Interfaces {
            held_back: &report.held_back,
            attached: &self.state.attached,
            unattached: self.datapath.unattached(),
            some_closed: !self.ahead.closed(&self.state).is_empty(),
        };
        let held = Held {
            node: self.options.node_name.clone(),
            pods: standings(&bound.standing, of),
            over_budget: over_budget(&compiled),
            closed: compiled.closed.clone(),
            link_locals: bound.link_locals(),
            ..Held::default()
        };
        self.publish(&report, &turn, held);
        self.progress.end(report.failures.is_empty());
        self.log(&report, &turn);
        if first || report.writes > memory::LARGE {
            memory::give_back();
        }
        self.inherited && report.failures.is_empty()
    }

    /// Compiles what is known before the first lists are complete, and drops the result: the
    /// compiler remembers the work, and less of it is left to do when the lists are.
    pub fn compile_draft(&mut self, draft: &Snapshot) {
        if self.snapshot.is_none() {
            let node = Node {
                name: self.options.node_name.clone(),
                ..Node::default()
            };
            self.compiler.compile(draft, &node);
        }
    }

    /// Binds pods to interfaces, and stores the bindings in the kernel before anything is enforced
    /// by them.
    fn bind(
        &mut self,
        snapshot: &Snapshot,
        interfaces: &Arc<Interfaces>,
        records: &Arc<Records>,
    ) -> Arc<Bound> {
        let changed = self.locals.update(&snapshot.pods, &self.options.node_name);
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
            // The index belongs to another interface now. The old programs went with the old
            // interface, and its endpoint's number with its pod.
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
                error!(
                    ifindex,
                    error = causes(&error),
                    "a restart may forget which pod is behind an interface"
                );
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

    /// Removes what earlier agents left, once this agent's own state is complete. What cannot be
    /// replaced stays.
    fn sweep(&mut self) {
        let wanted = self
            .state
            .endpoints
            .keys()
            .chain(&self.state.attached)
            .chain(&self.state.attached_devices)
            .copied()
            .collect();
        let swept = self.datapath.retain(&wanted).and_then(|()| {
            let pin_path = &self.options.datapath.pin_path;
            self.datapath.remove_other_versions(pin_path)
        });
        match swept {
            Ok(()) => self.swept = true,
            Err(error) => error!(error = causes(&error), "removing what an earlier agent left"),
        }
    }
}
