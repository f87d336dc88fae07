// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The maps. The sizes here are the defaults; the agent sets those of flows, identities and policies when it loads the object.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use netpol_common::abi::{
    Address, Binding, Config, Counters, Direction, Endpoint, Event, EventBudget, Flow, FlowKey, FlowShare,
    Forwarded, Fragment, FragmentKey, Frontend, Identity, Peer, PolicyMatch, PolicyValue, PortValue, Sender,
};

use netpol_common::quota::RING;

use crate::scratch::Scratch;

/// Interface index of a pod's host-side veth to the pod's endpoint. Written by the agent.
#[btf_map(name = "endpoints")]
pub static ENDPOINTS: HashMap<u32, Endpoint, 1024> = HashMap::new();

/// The same index to what the interface was when its pod was bound. Written and read by the agent only.
#[btf_map(name = "bindings")]
pub static BINDINGS: HashMap<u32, Binding, 4096, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// Address to the class of peers it belongs to, for as many as there is room: one lookup costs the same whatever the number. Written by the agent.
#[btf_map(name = "addresses")]
pub static ADDRESSES: HashMap<Address, Peer, 262144, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// Prefix to the class of peers that its addresses belong to, where they have none of their own. Written by the agent.
#[btf_map(name = "identities")]
pub static IDENTITIES: LpmTrie<Address, Identity, 1048576> = LpmTrie::new();

/// Where a Service is reached to the class of its backends. Written by the agent.
#[btf_map(name = "frontends")]
pub static FRONTENDS: HashMap<Frontend, Identity, 262144, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// Bridge and number in a packet's tag to the interface index of its sender's host-side veth. Written by the agent.
#[btf_map(name = "senders")]
pub static SENDERS: HashMap<Sender, u32, 4096> = HashMap::new();

/// Backends that Services lead to and that not every pod of this node may reach; the value is 1. Written by the agent.
#[btf_map(name = "guarded")]
pub static GUARDED: HashMap<Frontend, u32, 262144, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// Address of a local pod to the interface index of its host-side veth. Written by the agent.
#[btf_map(name = "local_pods")]
pub static LOCAL_PODS: HashMap<Address, u32, 4096> = HashMap::new();

/// Interface and prefix of addresses that its pod sends and receives for beside its own; the value
/// is 1. Written by the agent.
#[btf_map(name = "forwards")]
pub static FORWARDS: LpmTrie<Forwarded, u32, 65536> = LpmTrie::new();

/// Policy, identity, protocol and one port to what the policy says, for as many as there is room. Written by the agent.
#[btf_map(name = "ports")]
pub static PORTS: HashMap<PolicyMatch, PortValue, 262144, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// The same for more than one port. Written by the agent.
#[btf_map(name = "policies")]
pub static POLICIES: LpmTrie<PolicyMatch, PolicyValue, 4194304> = LpmTrie::new();

/// Connections. Written by the programs.
#[btf_map(name = "flows")]
pub static FLOWS: HashMap<FlowKey, Flow, 65536> = HashMap::new();

/// How many flows each endpoint has, by its number. Written by the programs and the agent, which
/// has it in its memory.
#[btf_map(name = "flow_shares")]
pub static FLOW_SHARES: Array<FlowShare, { FlowShare::NUMBER }, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Flows that endpoints made beyond what they may have: a ring for each, by its number. Written by
/// the programs.
#[btf_map(name = "flow_rings")]
pub static FLOW_RINGS: Array<FlowKey, { FlowShare::NUMBER * RING as usize }> = Array::new();

/// Addresses of local pods whose connections in the kernel's tracking may be of a pod that had the
/// address before: it is not asked about them. Written by the agent.
#[btf_map(name = "inherited")]
pub static INHERITED: HashMap<Address, u32, 4096> = HashMap::new();

/// What the first fragments of packets told. Written by the programs.
#[btf_map(name = "fragments")]
pub static FRAGMENTS: LruHashMap<FragmentKey, Fragment, 8192> = LruHashMap::new();

/// Dropped packets. Read by the agent.
#[btf_map(name = "events")]
pub static EVENTS: RingBuf<Event, 524288> = RingBuf::new();

/// The rate limit of [`EVENTS`], by the number of an endpoint; entry 0 is of all.
#[btf_map(name = "event_budget")]
pub static EVENT_BUDGET: PerCpuArray<EventBudget, { FlowShare::NUMBER }> = PerCpuArray::new();

/// Packets and bytes by direction. Read by the agent.
#[btf_map(name = "counters")]
pub static COUNTERS: PerCpuArray<Counters, { Direction::ALL.len() }> = PerCpuArray::new();

/// Settings and the epoch. Written by the agent.
#[btf_map(name = "config")]
pub static CONFIG: Array<Config, 1> = Array::new();

/// Where one run of a program builds what its stack does not hold. Programs of one CPU never run inside each other.
#[btf_map(name = "scratch")]
pub static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();
