// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The maps. Sizes here are defaults. When the agent loads the object, it sets those of flows,
//! identities and policies.

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

/// Maps the interface index of a pod's host-side veth to the pod's endpoint. Written by the agent.
#[btf_map(name = "endpoints")]
pub static ENDPOINTS: HashMap<u32, Endpoint, 1024> = HashMap::new();

/// Maps the same index to the state of the interface when its pod was bound. Only the agent reads
/// and writes it.
#[btf_map(name = "bindings")]
pub static BINDINGS: HashMap<u32, Binding, 4096, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// Maps an address to its class of peers, while there is room. A lookup costs the same for any
/// number of entries. Written by the agent.
#[btf_map(name = "addresses")]
pub static ADDRESSES: HashMap<Address, Peer, 262144, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// Maps a prefix to the class of peers of those of its addresses that have no entry of their own.
/// Written by the agent.
#[btf_map(name = "identities")]
pub static IDENTITIES: LpmTrie<Address, Identity, 1048576> = LpmTrie::new();

/// Maps a Service's frontend to the class of its backends. Written by the agent.
#[btf_map(name = "frontends")]
pub static FRONTENDS: HashMap<Frontend, Identity, 262144, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// Maps a bridge and the number in a packet's tag to the interface index of the sender's host-side
/// veth. Written by the agent.
#[btf_map(name = "senders")]
pub static SENDERS: HashMap<Sender, u32, 4096> = HashMap::new();

/// Backends of Services that not every pod of this node may reach. The value is 1. Written by the
/// agent.
#[btf_map(name = "restricted")]
pub static RESTRICTED: HashMap<Frontend, u32, 262144, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// Maps a local pod's address to the interface index of its host-side veth. Written by the agent.
#[btf_map(name = "local_pods")]
pub static LOCAL_PODS: HashMap<Address, u32, 4096> = HashMap::new();

/// Interfaces and the prefixes that their pods send and receive for besides their own addresses.
/// The value is 1. Written by the agent.
#[btf_map(name = "forwards")]
pub static FORWARDS: LpmTrie<Forwarded, u32, 65536> = LpmTrie::new();

/// Maps policy, identity, protocol and one port to the policy's verdict, while there is room.
/// Written by the agent.
#[btf_map(name = "ports")]
pub static PORTS: HashMap<PolicyMatch, PortValue, 262144, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// Maps policy, identity, protocol and a range of ports to the policy's verdict. Also holds single
/// ports for which map `ports` has no room. Written by the agent.
#[btf_map(name = "policies")]
pub static POLICIES: LpmTrie<PolicyMatch, PolicyValue, 4194304> = LpmTrie::new();

/// Open connections. Written by the programs.
#[btf_map(name = "flows")]
pub static FLOWS: HashMap<FlowKey, Flow, 65536> = HashMap::new();

/// Number of flows of each endpoint, by endpoint number. Written by the programs and, through
/// shared memory, by the agent.
#[btf_map(name = "flow_shares")]
pub static FLOW_SHARES: Array<FlowShare, { FlowShare::NUMBER }, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Flows that endpoints made beyond their share: a ring per endpoint, by endpoint number. Written
/// by the programs.
#[btf_map(name = "flow_rings")]
pub static FLOW_RINGS: Array<FlowKey, { FlowShare::NUMBER * RING as usize }> = Array::new();

/// Addresses of local pods that another pod had before. Connection tracking may hold connections of
/// that pod, so it is not asked about these addresses. Written by the agent.
#[btf_map(name = "inherited")]
pub static INHERITED: HashMap<Address, u32, 4096> = HashMap::new();

/// What first fragments told. Written by the programs.
#[btf_map(name = "fragments")]
pub static FRAGMENTS: LruHashMap<FragmentKey, Fragment, 8192> = LruHashMap::new();

/// Events of dropped packets. Read by the agent.
#[btf_map(name = "events")]
pub static EVENTS: RingBuf<Event, 524288> = RingBuf::new();

/// The rate limit of [`EVENTS`], by endpoint number. Entry 0 limits all endpoints together.
#[btf_map(name = "event_budget")]
pub static EVENT_BUDGET: PerCpuArray<EventBudget, { FlowShare::NUMBER }> = PerCpuArray::new();

/// Counters of packets and bytes, by direction. Read by the agent.
#[btf_map(name = "counters")]
pub static COUNTERS: PerCpuArray<Counters, { Direction::ALL.len() }> = PerCpuArray::new();

/// Settings and the epoch. Written by the agent.
#[btf_map(name = "config")]
pub static CONFIG: Array<Config, 1> = Array::new();

/// Memory where one run of a program builds what its stack cannot hold. Programs on one CPU never
/// interrupt each other.
#[btf_map(name = "scratch")]
pub static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();
