// SPDX-License-Identifier: Apache-2.0
//! Runs the real programs with the real maps in this kernel, on made-up frames
//! (`BPF_PROG_TEST_RUN`). The maps are written as the agent writes them: compile, plan, apply. A
//! bench has its own network namespace and bpffs, which end with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{HashMap, Map, MapData, MapInfo, RingBuf};
use netpol_agent::{
    compile::compile,
    datapath::{
        Datapath, Options, Size,
        attach::{Hook, Mode},
        pin_folder,
    },
    evaluate::Packet,
    model::{Direction, Node, ObjectKey, Snapshot},
    sync::{Desired, Link, Memory, Settings, State, Write, apply, plan},
};
use netpol_common::abi::{Event, Flow, FlowKey, Fragment, FragmentKey};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    net::if_::if_nametoindex,
    sched::{CloneFlags, unshare},
};

use zerocopy::FromBytes;

use crate::{frames, kernel::Idle, privilege};

mod assembly;
mod lead;
mod rewriter;

use lead::Lead;
pub use {lead::Met, rewriter::Rewriter};

/// Entries of map `flows`; tests have few flows at a time.
const FLOW_CAPACITY: u32 = 64;

/// Maps that the programs write to: `flows` and `fragments`.
type Written = (
    HashMap<MapData, FlowKey, Flow>,
    HashMap<MapData, FragmentKey, Fragment>,
);

/// The datapath of a node, on interfaces without pods.
pub struct Bench {
    datapath: Datapath,
    state: State,
    memory: Memory,
    written: Written,
    lead: Lead,
    settings: Settings,
    events: Option<RingBuf<MapData>>,
    /// Interfaces for pods.
    interfaces: Vec<u32>,
    names: BTreeMap<u32, String>,
    /// The interface by which packets from other nodes and from outside arrive.
    uplink: u32,
    /// The bridge with the pods.
    bridge: u32,
    source_port: u16,
    runs: usize,
    // Last field: unmounted after all handles are closed.
    folder: Bpffs,
}

/// The bench's own bpffs.
struct Bpffs(tempfile::TempDir);

impl Drop for Bpffs {
    fn drop(&mut self) {
        let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
    }
}

/// Runs `test` with a bench for up to `pods` pods, on a thread in its own namespaces. Skips it
/// where that is impossible.
///
/// # Panics
/// If the bench cannot be made, `test` fails, or it cannot run here and every suite has to run.
pub fn on_bench(suite: &str, pods: usize, test: impl FnOnce(&mut Bench) -> Result<()> + Send) {
    if !privilege::can_load(suite) {
        return;
    }
    thread::scope(|scope| {
        let worker = scope.spawn(|| Bench::new(pods).and_then(|mut bench| test(&mut bench)));
        match worker.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => panic!("{error:?}"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
}

/// Returns the pods that a node enforces on, by interface, and their interfaces by address.
pub fn local_pods(
    snapshot: &Snapshot,
    node: &Node,
    interface: impl Fn(&ObjectKey) -> u32,
) -> (BTreeMap<u32, ObjectKey>, BTreeMap<IpAddr, u32>) {
    let (mut pods, mut addresses) = (BTreeMap::new(), BTreeMap::new());
    for pod in snapshot.pods.values() {
        if pod.node.as_deref() == Some(node.name.as_str()) && !pod.host_network && !pod.terminal {
            let ifindex = interface(&pod.key);
            pods.insert(ifindex, pod.key.clone());
            addresses.extend(pod.addresses.iter().map(|address| (*address, ifindex)));
        }
    }
    (pods, addresses)
}

/// Opens the datapath, the maps that its programs write, and a lead into them.
fn open(pin_path: &Path, flow_capacity: u32) -> Result<(Datapath, Written, Lead)> {
    let mut datapath = Datapath::open(&Options {
        pin_path: pin_path.to_owned(),
        attach: Mode::Auto,
        flow_capacity: Some(flow_capacity),
        log_level: 0,
    })?;
    let map = |name: &str| anyhow::Ok(MapData::from_pin(pin_folder(pin_path).join(name))?);
    let flows = Map::HashMap(map("flows")?);
    let fragments = Map::LruHashMap(map("fragments")?);
    let written = (flows.try_into()?, fragments.try_into()?);
    let lead = Lead::load(|hook| Ok(datapath.program(hook)?))?;
    Ok((datapath, written, lead))
}

impl Bench {
    /// Moves the calling thread into new namespaces, for good, and makes a bench there.
    ///
    /// # Errors
    /// Without root, or without eBPF programs in this build.
    pub fn new(pods: usize) -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("making namespaces")?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context("keeping mounts to itself")?;
        let prefix = format!("netpol-progrun-{}-", std::process::id());
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir()?;
        mount(
            Some("bpf"),
            folder.path(),
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )
        .context("mounting bpffs")?;
        let folder = Bpffs(folder);

        let (uplink, bridge) = (interface("uplink0")?, interface("bridge0")?);
        let mut names = BTreeMap::new();
        for pod in 0..pods {
            let name = format!("pod{pod}");
            names.insert(interface(&name)?, name);
        }
        let interfaces = names.keys().copied().collect();
        let (mut datapath, written, lead) = open(folder.0.path(), FLOW_CAPACITY)?;
        datapath.set_interfaces(names.clone());
        Ok(Self {
            names,
            state: datapath.read()?,
            datapath,
            memory: Memory::default(),
            written,
            lead,
            settings: Settings::default(),
            events: None,
            interfaces,
            uplink,
            bridge,
            source_port: 0,
            runs: 0,
            folder,
        })
    }

    /// Restarts the agent: takes over what is pinned, with another capacity of the flow table.
    ///
    /// # Errors
    /// It cannot open the datapath.
    pub fn restart(&mut self, flow_capacity: u32) -> Result<()> {
        (self.datapath, self.written, self.lead) = open(self.folder.0.path(), flow_capacity)?;
        self.datapath.set_interfaces(self.names.clone());
        self.state = self.datapath.read()?;
        self.memory = Memory::default();
        self.events = None;
        Ok(())
    }

    /// Sets the number of drop events a second from the next [`Bench::enforce`] on; the default is
    /// none.
    pub fn set_events_per_second(&mut self, events: u32) {
        self.settings.events_per_second = events;
    }

    /// Returns true if drops are reported.
    pub fn writes_events(&self) -> bool {
        self.settings.events_per_second > 0
    }

    /// Reads all events, and returns their number.
    ///
    /// # Errors
    /// There is no such ring buffer.
    pub fn drain_events(&mut self) -> Result<usize> {
        Ok(self.take_events()?.len())
    }

    /// Reads all events.
    ///
    /// # Errors
    /// There is no such ring buffer, or a record in it is no event.
    pub fn take_events(&mut self) -> Result<Vec<Event>> {
        if self.events.is_none() {
            self.events = self.datapath.take_events();
        }
        let events = self.events.as_mut().context("no ring buffer of events")?;
        let event = |record: &[u8]| Event::read_from_bytes(record).ok().context("no event");
        std::iter::from_fn(|| events.next().map(|record| event(&record))).collect()
    }

    /// Returns the capacity of map `flows`.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn flow_capacity(&self) -> Result<u32> {
        Ok(MapInfo::from_pin(pin_folder(self.pin_path()).join("flows"))?.max_entries())
    }

    /// Adds a flow to the table.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn put_flow(&mut self, key: &FlowKey, flow: &Flow) -> Result<()> {
        Ok(self.written.0.insert(key, flow, 0)?)
    }

    /// Expires flows in a part of the table, as the agent does. Returns how many it has removed so
    /// far.
    ///
    /// # Errors
    /// It cannot.
    pub fn expire_flows(&mut self) -> Result<(bool, u64)> {
        let more = self.datapath.expire_flows()?;
        Ok((more, self.datapath.expired().flows))
    }

    /// Returns the interfaces for pods.
    pub fn interfaces(&self) -> &[u32] {
        &self.interfaces
    }

    /// Returns the interface by which packets from other nodes and from outside arrive.
    pub fn uplink(&self) -> u32 {
        self.uplink
    }

    /// Returns the bridge with the pods that the maps enforce on.
    pub fn bridge(&self) -> u32 {
        self.bridge
    }

    /// Returns the folder on bpffs that contains the versioned folder of pins.
    pub fn pin_path(&self) -> &Path {
        self.folder.0.path()
    }

    /// Returns how often a program was run.
    pub fn runs(&self) -> usize {
        self.runs
    }

    /// Makes the kernel enforce a snapshot as `node`, after whatever it enforced before. `pods` are
    /// those behind each interface.
    ///
    /// # Errors
    /// A write that failed.
    pub fn enforce(
        &mut self,
        snapshot: &Snapshot,
        node: &Node,
        pods: &BTreeMap<u32, ObjectKey>,
    ) -> Result<()> {
        let compiled = compile(snapshot, node);
        let bridge = self.bridge;
        let bridges = self.interfaces.iter().map(|ifindex| (*ifindex, bridge)).collect();
        let links = pods.iter().map(|(ifindex, key)| {
            let link_locals = node.link_locals.get(key);
            let link = Link {
                mac: frames::MAC,
                link_local: link_locals.and_then(|all| all.first()).copied(),
                ..Link::default()
            };
            (*ifindex, link)
        });
        let desired = Desired {
            compiled: &compiled,
            pods,
            present: &self.interfaces.iter().copied().collect::<BTreeSet<_>>(),
            devices: &BTreeSet::new(),
            closed: &BTreeSet::new(),
            bridges: &bridges,
            links: &links.collect(),
            settings: self.settings,
        };
        let plan = plan(&self.state, &self.memory, desired);
        let datapath = &mut self.datapath;
        let mut kernel = Idle(|write: &Write| datapath.write(write));
        let report = apply(plan, &mut self.state, &mut self.memory, &mut kernel);
        ensure!(report.failures.is_empty(), "failed writes: {:?}", report.failures);
        Ok(())
    }

    /// Makes a single write. After that, [`Bench::enforce`] no longer knows what is enforced.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn write(&mut self, write: &Write) -> Result<()> {
        Ok(self.datapath.write(write)?)
    }

    /// Compares the maps with what they should contain.
    ///
    /// # Errors
    /// They differ.
    pub fn check_maps(&self) -> Result<()> {
        let held = State {
            attached: self.state.attached.clone(),
            ..self.datapath.read()?
        };
        ensure!(
            held == self.state,
            "the maps hold {held:#?}\ninstead of {:#?}",
            self.state
        );
        Ok(())
    }

    /// Reads the maps.
    ///
    /// # Errors
    /// A map that cannot be read.
    pub fn read(&self) -> Result<State> {
        Ok(self.datapath.read()?)
    }

    /// Returns true if a pod's hook passes a frame. `ingress_ifindex` is the interface by which the
    /// frame came to the node; 0 if the node made it.
    ///
    /// # Errors
    /// The program cannot be run, or returns another action.
    pub fn passes(
        &mut self,
        direction: Direction,
        ifindex: u32,
        ingress_ifindex: u32,
        frame: &[u8],
    ) -> Result<bool> {
        let hook = match direction {
            Direction::Ingress => Hook::ToPod,
            Direction::Egress => Hook::FromPod,
        };
        self.runs_hook(hook, ifindex, ingress_ifindex, frame)
    }

    fn runs_hook(&mut self, hook: Hook, ifindex: u32, ingress_ifindex: u32, frame: &[u8]) -> Result<bool> {
        Ok(self.time(hook, ifindex, ingress_ifindex, frame, 1)?.0)
    }

    /// Runs a hook's program `times` over on a frame. Returns the last verdict and the average
    /// duration.
    ///
    /// # Errors
    /// The program cannot be run, or returns another action.
    pub fn time(
        &mut self,
        hook: Hook,
        ifindex: u32,
        ingress_ifindex: u32,
        frame: &[u8],
        times: u32,
    ) -> Result<(bool, Duration)> {
        self.runs += times as usize;
        let (action, took) = self
            .datapath
            .run_often(hook, frame, ifindex, ingress_ifindex, times)?;
        Ok((said(hook, action)?, took))
    }

    /// Returns true if a hook passes a frame with a tag.
    ///
    /// # Errors
    /// As [`Bench::passes`].
    pub fn passes_tagged(&mut self, met: Met, frame: &[u8]) -> Result<bool> {
        self.runs += 1;
        said(met.hook, self.lead.action(met, frame)?)
    }

    /// Returns the tag of a frame after a hook.
    ///
    /// # Errors
    /// The program cannot be run.
    pub fn tag_behind(&mut self, met: Met, frame: &[u8]) -> Result<u16> {
        self.runs += 1;
        self.lead.tag(met, frame)
    }

    /// Returns the datapath.
    pub fn datapath(&self) -> &Datapath {
        &self.datapath
    }

    /// Returns the size of a hook's program in the kernel.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn size(&mut self, hook: Hook) -> Result<Size> {
        Ok(self.datapath.size(hook)?)
    }

    /// Like [`Bench::passes`], for a packet that opens a connection without a known flow.
    ///
    /// # Errors
    /// As [`Bench::passes`].
    pub fn opens(
        &mut self,
        direction: Direction,
        ifindex: u32,
        ingress_ifindex: u32,
        packet: &Packet,
    ) -> Result<bool> {
        self.forget_flows()?;
        self.source_port = self.source_port.wrapping_add(1);
        let frame = frames::opening(packet, self.source_port);
        self.passes(direction, ifindex, ingress_ifindex, &frame)
    }

    /// Returns true if a packet of the pod behind an interface may leave the node, without a tag or
    /// flow that records an earlier verdict.
    ///
    /// # Errors
    /// As [`Bench::passes`].
    pub fn leaves(&mut self, came_by: u32, packet: &Packet) -> Result<bool> {
        self.forget_flows()?;
        self.source_port = self.source_port.wrapping_add(1);
        let frame = frames::opening(packet, self.source_port);
        let device = self.uplink;
        self.runs_hook(Hook::ToNetwork, device, came_by, &frame)
    }

    /// Returns the flows that the programs made.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn flows(&self) -> Result<Vec<(FlowKey, Flow)>> {
        let (flows, _) = &self.written;
        flows.iter().map(|entry| entry.context("reading flows")).collect()
    }

    /// Empties maps `flows` and `fragments`.
    ///
    /// # Errors
    /// An entry cannot be removed.
    pub fn forget_flows(&mut self) -> Result<()> {
        let (flows, fragments) = &mut self.written;
        let keys: Vec<FlowKey> = flows.keys().collect::<Result<_, _>>()?;
        keys.iter().try_for_each(|key| flows.remove(key))?;
        let keys: Vec<FragmentKey> = fragments.keys().collect::<Result<_, _>>()?;
        keys.iter().try_for_each(|key| fragments.remove(key))?;
        Ok(self.datapath.recount_flows()?)
    }
}

/// Interprets an action.
fn said(hook: Hook, action: i32) -> Result<bool> {
    const TC_ACT_UNSPEC: i32 = -1;
    const TC_ACT_SHOT: i32 = 2;
    match action {
        TC_ACT_UNSPEC => Ok(true),
        TC_ACT_SHOT => Ok(false),
        other => bail!("{hook} returned {other}"),
    }
}

fn interface(name: &str) -> Result<u32> {
    let output = Command::new("ip")
        .args(["link", "add", name, "type", "veth"])
        .output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "adding interface {name}: {stderr}");
    if_nametoindex(name).with_context(|| format!("the index of {name}"))
}
