// SPDX-License-Identifier: Apache-2.0
//! The kernel side: programs, maps, links, and the interfaces that they are attached to. Besides
//! this module, only [`crate::observe`] uses aya, for the ring buffers.

pub mod attach;
pub mod bpffs;
mod btf;
mod capabilities;
mod capacity;
mod conntrack;
pub mod dump;
mod expiry;
mod features;
mod fill;
mod grace;
pub mod interfaces;
mod keep;
mod load;
mod maps;
mod netlink;
pub mod object;
mod pins;
mod rivals;
mod run;
pub mod scratch;
mod shares;
mod sk_buff;
mod tracking;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use aya::{Ebpf, maps::RingBuf};
use netpol_common::{
    abi::{self, Binding, Counters, Direction, Lifetimes},
    quota::Quota,
};
use thiserror::Error;

pub use conntrack::Seeded;
use conntrack::{Earlier, Seeder};
pub use expiry::Expired;
use expiry::{Expiry, Living};
pub use fill::{Fill, fill};
pub use grace::wait_for_programs;
use load::{Sight, load};
pub use maps::MapError;
use maps::{Doubted, FlowTable, Maps};
use pins::make_folders;
pub use pins::{OBSERVED_MAPS, PINNED_MAPS, cleanup, links_folder, lock, pin, pin_folder};
pub use rivals::alone;
pub use run::Size;

use self::attach::{AttachError, Attacher};
use self::shares::Shares;
use crate::{
    causes::causes,
    sync::{Put, Remove, State, Write},
};

/// Options for opening the datapath.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder on bpffs that holds the versioned folder of pins.
    pub pin_path: PathBuf,
    /// How to attach programs.
    pub attach: attach::Mode,
    /// Entries of map `flows`. `None` keeps the pinned size, or else chooses by the machine's
    /// memory.
    pub flow_capacity: Option<u32>,
    /// Level of the programs' own log: 0 is off, 1 to 5 are errors to trace.
    pub log_level: u8,
}

/// Why the datapath cannot be opened or used.
#[derive(Debug, Error)]
pub enum DatapathError {
    /// The build contains no programs.
    #[error("this build of netpol has no eBPF programs in it: build it with `cargo xtask build`")]
    NoObject,
    /// The kernel refused something, and the process lacks capabilities.
    #[error(
        "without {missing}: give it to the container (`securityContext.capabilities.add`), or run as root"
    )]
    NoCapability {
        /// Their names.
        missing: String,
        /// What was refused.
        #[source]
        source: Box<DatapathError>,
    },
    /// The kernel lets this process create no map.
    #[error("the kernel refuses to create a BPF map")]
    NotPermitted(#[source] io::Error),
    /// The kernel is too old for the programs.
    #[error("this kernel lacks what the programs need: {0}")]
    NoFeature(String),
    /// bpffs is not usable.
    #[error(transparent)]
    Bpffs(#[from] bpffs::BpffsError),
    /// Another agent, with other pins, works on the same node.
    #[error(
        "another netpol agent works on this node, with its pins in {0}: stop it first; packets would have to be allowed \
         by both"
    )]
    Rival(PathBuf),
    /// The object does not load.
    #[error("loading the eBPF object into the kernel")]
    Load(#[source] Box<aya::EbpfError>),
    /// The kernel has no memory for a map, or makes none of its size, or the container may not have
    /// that much.
    #[error(
        "no room for the maps: raise the memory limit of the container, or give a smaller --flow-capacity"
    )]
    NoRoom(#[source] Box<aya::EbpfError>),
    /// A pinned map differs from what this version expects.
    #[error(
        "the pinned map {path} has {found}, expected {expected}: it is of another build with the same ABI version; \
         `netpol cleanup` removes it, and the enforcement with it"
    )]
    OtherLayout {
        /// Path of the pin.
        path: PathBuf,
        /// Form that the pinned map has.
        found: String,
        /// Form that it should have.
        expected: String,
    },
    /// An operation on a map failed.
    #[error(transparent)]
    Map(#[from] MapError),
    /// A program could not be attached or detached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The interface of a write is unknown.
    #[error("interface {0} is gone")]
    NoInterface(u32),
    /// A program cannot be run on a frame.
    #[error("running program {hook} on a frame of {length} bytes")]
    Run {
        /// The program.
        hook: attach::Hook,
        /// Length of the frame.
        length: usize,
        /// The kernel's error.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// The kernel does not describe a program.
    #[error("asking the kernel about program {hook}")]
    Inspect {
        /// The program.
        hook: attach::Hook,
        /// The kernel's error.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// The counts of flows cannot be mapped.
    #[error("mapping the counts of flows into memory")]
    Shares(#[source] io::Error),
    /// Flows past their lifetime cannot be removed.
    #[error("removing flows that are past their lifetime")]
    Expiry(#[source] io::Error),
    /// The programs' own log cannot be read.
    #[error("reading the log of the eBPF programs")]
    Log(#[from] aya_log::Error),
}

/// The programs and maps in the kernel.
pub struct Datapath {
    ebpf: Ebpf,
    maps: Maps,
    attacher: Attacher,
    sight: Sight,
    seeder: Seeder,
    /// Number of flows of each endpoint.
    shares: Shares,
    /// Addresses for which the programs do not ask connection tracking.
    doubted: Doubted,
    expiry: Expiry,
    /// Lifetimes of flows, as in map `config`.
    lifetimes: Lifetimes,
    /// Names of interfaces by index, for attaching.
    names: BTreeMap<u32, String>,
    /// Why interfaces lack the programs that they should have.
    unattached: BTreeMap<u32, String>,
    /// Interfaces whose programs came before their endpoint. Writing the endpoint looks up earlier
    /// connections (rule C6).
    unread: BTreeSet<u32>,
}

/// Minimum number of endpoints that the flow table keeps places for.
const LEAST_ENDPOINTS: u64 = 16;

impl Datapath {
    /// Loads the programs over the maps that an earlier agent pinned, if there are any. Attaches
    /// and changes nothing yet.
    ///
    /// # Errors
    /// Missing permission, no bpffs, or a kernel without a needed feature. Each error says what is
    /// missing.
    pub fn open(options: &Options) -> Result<Self, DatapathError> {
        Self::try_open(options).map_err(capabilities::explained)
    }

    fn try_open(options: &Options) -> Result<Self, DatapathError> {
        let object = object::EBPF_OBJECT.ok_or(DatapathError::NoObject)?;
        maps::probe().map_err(DatapathError::NotPermitted)?;
        let folder = pin_folder(&options.pin_path);
        make_folders(&options.pin_path)?;
        keep::keep_maps(&options.pin_path)?;
        keep::tell_layouts(&options.pin_path)?;
        let pinned = folder.join("flows");
        let flows = maps::set_aside_flows(&pinned, options.flow_capacity)?;
        let (mut ebpf, sight) = load(object, options)?;
        let maps = Maps::take(&mut ebpf, &folder)?;
        maps::restore_flows(&mut ebpf, flows, &pinned)?;
        let shares = Shares::open(maps::descriptor(&ebpf, "flow_shares")?).map_err(DatapathError::Shares)?;
        let flows = FlowTable::open(&mut ebpf)?;
        shares.set_quota(Quota::of(flows.capacity()?.into(), LEAST_ENDPOINTS));
        let recounted = shares.recount(|| expiry::endpoints(flows.descriptor()));
        recounted.map_err(DatapathError::Expiry)?;
        let doubted = Doubted::open(&mut ebpf)?;
        let mut seeder = Seeder::default();
        seeder.doubt(doubted.addresses().clone());
        if let Some(folder) = keep::other_flows(&options.pin_path)? {
            match Earlier::open(&folder) {
                Ok(earlier) => seeder.set_earlier(Some(earlier)),
                Err(error) => tracing::warn!(error = causes(&error), "reading the flows of another version"),
            }
        }
        let attacher = Attacher::new(options.attach, links_folder(&options.pin_path))?;
        Ok(Self {
            ebpf,
            maps,
            attacher,
            sight,
            seeder,
            shares,
            doubted,
            expiry: Expiry::default(),
            lifetimes: Lifetimes::default(),
            names: BTreeMap::new(),
            unattached: BTreeMap::new(),
            unread: BTreeSet::new(),
        })
    }

    /// Returns how programs are attached.
    pub fn mechanism(&self) -> attach::Mechanism {
        self.attacher.mechanism()
    }

    /// Returns true if the programs see where a device is to write a checksum, and drop packets
    /// where that is over what was judged.
    pub fn checks_checksums(&self) -> bool {
        self.sight.checksums
    }

    /// Returns true if the programs can ask connection tracking who opened a connection that they
    /// do not know (rule C4).
    pub fn asks_tracking(&self) -> bool {
        self.sight.tracking
    }

    /// Reads what the maps hold. Interfaces count as not attached until this agent has put its own
    /// programs there.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn read(&self) -> Result<State, DatapathError> {
        Ok(self.maps.read()?)
    }

    /// Reads what this agent, or earlier ones, stored about interfaces (rule A8).
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn bindings(&self) -> Result<BTreeMap<u32, Binding>, DatapathError> {
        Ok(self.maps.bindings()?)
    }

    /// Stores what an interface is for as long as it lives, or removes that.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn set_binding(&mut self, ifindex: u32, binding: Option<&Binding>) -> Result<(), DatapathError> {
        Ok(self.maps.set_binding(ifindex, binding)?)
    }

    /// Sets the name of each interface, for attaching.
    pub fn set_interfaces(&mut self, names: BTreeMap<u32, String>) {
        self.unattached.retain(|ifindex, _| names.contains_key(ifindex));
        self.names = names;
    }

    /// Looks up the name of an interface.
    pub fn name(&self, ifindex: u32) -> Option<&str> {
        self.names.get(&ifindex).map(String::as_str)
    }

    /// Returns the interfaces to which programs could not be attached, with the reason. Nothing is
    /// enforced there.
    pub fn unattached(&self) -> &BTreeMap<u32, String> {
        &self.unattached
    }

    /// Compares what the kernel runs at the hooks of these interfaces, which have this agent's
    /// programs, and returns the faults.
    pub fn faults(&mut self, interfaces: &BTreeSet<u32>) -> BTreeMap<u32, String> {
        let mut found = BTreeMap::new();
        for ifindex in interfaces {
            let Some(name) = self.names.get(ifindex) else {
                continue;
            };
            match self.attacher.faults(&mut self.ebpf, *ifindex, name) {
                Ok(faults) if faults.is_empty() => {}
                Ok(faults) => {
                    let told = faults.iter().map(|(hook, fault)| format!("{hook} {fault}"));
                    found.insert(*ifindex, told.collect::<Vec<_>>().join(", "));
                }
                Err(AttachError::Gone { .. }) => {}
                Err(error) => {
                    found.insert(*ifindex, causes(&error));
                }
            }
        }
        found
    }

    /// A turn's writes follow, on what the maps hold. `node`: the node's addresses. Without it no
    /// connection that was open before a pod's programs is known (rule C6). `unread`: interfaces
    /// whose programs are there before their endpoint, and came after connections may have.
    pub fn begin<'a>(
        &mut self,
        state: &State,
        writes: impl Iterator<Item = &'a Write> + Clone,
        node: &BTreeSet<IpAddr>,
        unread: BTreeSet<u32>,
    ) {
        self.unread = unread;
        let planned = writes.clone().filter_map(|write| match write {
            Write::Endpoints(Put(ifindex, endpoint)) => Some((*ifindex, *endpoint)),
            _ => None,
        });
        let config = writes.clone().find_map(|write| match write {
            Write::Config(config) => Some(config),
            _ => None,
        });
        self.lifetimes = config.unwrap_or(&state.config).lifetimes;
        self.seeder
            .begin(&state.endpoints, &planned.collect(), node, self.lifetimes);
        let endpoints = self.seeder.ids().len() as u64;
        let endpoints = endpoints.next_power_of_two().max(LEAST_ENDPOINTS);
        let ready = FlowTable::open(&mut self.ebpf).and_then(|table| {
            self.shares
                .set_quota(Quota::of(table.capacity()?.into(), endpoints));
            self.doubted.set(self.seeder.doubtful())
        });
        if let Err(error) = ready {
            tracing::error!(
                error = causes(&error),
                "preparing the flow table for new endpoints"
            );
        }
    }

    /// Looks up connections that were opened while programs were attached. More writes may follow.
    /// Returns the counts of all seeded connections since the start.
    ///
    /// # Errors
    /// Map `flows` cannot be written.
    pub fn read_connections_again(&mut self) -> Result<Seeded, DatapathError> {
        self.seeder
            .read_again(&mut FlowTable::open(&mut self.ebpf)?, &self.shares)?;
        Ok(self.seeder.seeded())
    }

    /// Ends a turn's writes: looks up connections that were opened while programs were attached.
    /// Returns the counts of all seeded connections since the start.
    ///
    /// # Errors
    /// Map `flows` cannot be written.
    pub fn finish(&mut self) -> Result<Seeded, DatapathError> {
        self.seeder
            .finish(&mut FlowTable::open(&mut self.ebpf)?, &self.shares)?;
        self.doubted.set(self.seeder.doubtful())?;
        Ok(self.seeder.seeded())
    }

    /// Removes expired flows from a part of the table (rule C3). Returns true if the part behind it
    /// is to be checked at once.
    ///
    /// # Errors
    /// Map `flows` cannot be read or written.
    pub fn expire_flows(&mut self) -> Result<bool, DatapathError> {
        let table = FlowTable::open(&mut self.ebpf)?;
        let living = Living {
            now: conntrack::now(),
            lifetimes: &self.lifetimes,
            endpoints: &self.seeder.ids(),
        };
        let more = self.expiry.turn(table.descriptor(), living, &self.shares);
        more.map_err(DatapathError::Expiry)
    }

    /// Returns the counts of expired flows since the start.
    pub fn expired(&self) -> Expired {
        self.expiry.expired()
    }

    /// Removes what other versions left, once this one enforces.
    ///
    /// # Errors
    /// The first thing that cannot be removed.
    pub fn remove_other_versions(&mut self, pin_path: &Path) -> Result<(), DatapathError> {
        pins::remove_other_versions(pin_path)?;
        self.seeder.set_earlier(None);
        Ok(())
    }

    /// Counts the flows of each endpoint again, in case someone else removed some.
    ///
    /// # Errors
    /// Map `flows` cannot be read.
    pub fn recount_flows(&mut self) -> Result<(), DatapathError> {
        let table = FlowTable::open(&mut self.ebpf)?;
        let recounted = self.shares.recount(|| expiry::endpoints(table.descriptor()));
        recounted.map_err(DatapathError::Expiry)
    }

    /// Makes one write.
    ///
    /// # Errors
    /// What the kernel said, with the object it was said of.
    pub fn write(&mut self, write: &Write) -> Result<(), DatapathError> {
        match write {
            Write::Attached(Put(ifindex, ())) => {
                self.seed(*ifindex);
                self.attach(*ifindex)
            }
            Write::Attached(Remove(ifindex)) => {
                self.unattached.remove(ifindex);
                Ok(self.attacher.detach_pod(*ifindex)?)
            }
            Write::AttachedDevices(Put(ifindex, ())) => self.attach_with(*ifindex, Attacher::attach_device),
            Write::AttachedDevices(Remove(ifindex)) => {
                self.unattached.remove(ifindex);
                Ok(self.attacher.detach_device(*ifindex)?)
            }
            write => {
                match write {
                    Write::Endpoints(Remove(ifindex)) => self.seeder.removing(*ifindex),
                    Write::Endpoints(Put(ifindex, _)) if self.unread.remove(ifindex) => {
                        let read = self.read_into_flows(*ifindex);
                        told_unread(*ifindex, read);
                    }
                    _ => {}
                }
                Ok(self.maps.write(write)?)
            }
        }
    }

    /// Makes flows of the connections that are open at an interface.
    fn read_into_flows(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        let mut table = FlowTable::open(&mut self.ebpf)?;
        Ok(self.seeder.attaching(ifindex, &mut table, &self.shares)?)
    }

    /// Before programs are attached. Trouble here does not keep them away: connections that were
    /// open are then judged as new.
    fn seed(&mut self, ifindex: u32) {
        let attached = self.attacher.is_attached(ifindex).map_err(DatapathError::from);
        let seeded = attached.and_then(|attached| {
            if attached {
                return Ok(());
            }
            self.read_into_flows(ifindex)
        });
        told_unread(ifindex, seeded);
    }

    /// Attaches the programs to an interface, and looks for no connections.
    ///
    /// # Errors
    /// As [`Datapath::write`].
    pub fn attach(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        self.attach_with(ifindex, Attacher::attach)
    }

    fn attach_with(
        &mut self,
        ifindex: u32,
        attach: impl FnOnce(&mut Attacher, &mut Ebpf, u32, &str) -> Result<(), AttachError>,
    ) -> Result<(), DatapathError> {
        let name = self
            .names
            .get(&ifindex)
            .ok_or(DatapathError::NoInterface(ifindex))?;
        match attach(&mut self.attacher, &mut self.ebpf, ifindex, name) {
            // Pods come and go: there is nothing left to enforce on, and the next reading of the
            // interfaces says so.
            Err(error @ AttachError::Gone { .. }) => {
                tracing::debug!(%error, "an interface vanished while programs were attached to it");
                self.unattached.remove(&ifindex);
                Ok(())
            }
            Err(error) => {
                self.unattached.insert(ifindex, causes(&error));
                Err(error.into())
            }
            Ok(()) => {
                self.unattached.remove(&ifindex);
                Ok(())
            }
        }
    }

    /// Returns true if an interface has this version's programs, as an earlier agent left them.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn has_programs(&self, ifindex: u32) -> Result<bool, DatapathError> {
        Ok(self.attacher.has_programs(ifindex)?)
    }

    /// Returns true if an interface has programs of another ABI version, which enforce by their own
    /// maps.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn has_other_version(&self, ifindex: u32) -> Result<bool, DatapathError> {
        Ok(self.attacher.has_other_version(ifindex)?)
    }

    /// Makes flows of the connections that these endpoints had before their programs, which let
    /// everything pass. `held` has all endpoints, these with the addresses inside their pods.
    /// Returns the endpoints for which all connections are known then.
    ///
    /// # Errors
    /// Map `flows` cannot be written.
    pub fn read_connections(
        &mut self,
        held: &BTreeMap<u32, abi::Endpoint>,
        of: &BTreeSet<u32>,
        node: &BTreeSet<IpAddr>,
    ) -> Result<BTreeSet<u32>, DatapathError> {
        self.seeder.begin(held, &BTreeMap::new(), node, self.lifetimes);
        let mut table = FlowTable::open(&mut self.ebpf)?;
        Ok(self.seeder.read_for(of, &mut table, &self.shares)?)
    }

    /// Removes links that an earlier agent left on interfaces without an endpoint.
    ///
    /// # Errors
    /// The first error that occurred.
    pub fn retain(&mut self, wanted: &BTreeSet<u32>) -> Result<(), DatapathError> {
        Ok(self.attacher.retain(wanted)?)
    }

    /// Takes the ring buffer of events. It can be taken once.
    pub fn take_events(&mut self) -> Option<RingBuf<aya::maps::MapData>> {
        RingBuf::try_from(self.ebpf.take_map("events")?).ok()
    }

    /// Takes the programs' own log. It can be taken once.
    ///
    /// # Errors
    /// The log's ring buffer cannot be opened.
    pub fn take_log(&mut self) -> Result<ProgramLog, DatapathError> {
        Ok(ProgramLog(aya_log::EbpfLogger::init(&mut self.ebpf)?))
    }
}

/// Logs that connections are unknown. Such an error keeps nothing else from being done.
fn told_unread(ifindex: u32, seeded: Result<(), DatapathError>) {
    if let Err(error) = seeded {
        tracing::error!(ifindex, error = causes(&error), "looking for open connections");
    }
}

/// The debug log of the programs, if they were loaded with a log level.
pub struct ProgramLog(aya_log::EbpfLogger<&'static dyn log::Log>);

impl ProgramLog {
    /// Passes pending messages to the logger of the process.
    pub fn flush(&mut self) {
        self.0.flush();
    }
}

impl std::os::fd::AsRawFd for ProgramLog {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

/// The packet counters, summed over CPUs.
pub struct CounterReader(maps::CounterMap);

impl CounterReader {
    /// Opens the pinned counters.
    ///
    /// # Errors
    /// There are none below `pin_path`.
    pub fn open(pin_path: &Path) -> Result<Self, DatapathError> {
        Ok(Self(maps::CounterMap::open(&pin(pin_path, "counters"))?))
    }

    /// Returns the sums of one direction.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn read(&self, direction: Direction) -> Result<Counters, DatapathError> {
        Ok(self.0.read(direction)?)
    }
}
