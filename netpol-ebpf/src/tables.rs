// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Implements the tables of a decision over the maps.

use core::{mem::offset_of, ptr::read_volatile};

use aya_ebpf::{
    bindings::{__sk_buff, BPF_ANY},
    helpers::bpf_ktime_get_coarse_ns,
    programs::TcContext,
};
use netpol_common::{
    abi::{
        Address, Config, Counters, Endpoint, Flow, FlowKey, Forwarded, Fragment, FragmentKey, Frontend,
        IDENTITY_NONE, Identity, Lifetimes, POLICY_DENY, POLICY_UNRESTRICTED, Peer, PolicyMatch, PolicyValue,
        PortValue, SENDER_AMBIGUOUS, Sender,
    },
    decide::{Buffer, FlowEntry, Flows, Lookups, Opener},
};

use crate::{
    flows,
    maps::{
        ADDRESSES, ENDPOINTS, FLOWS, FORWARDS, FRAGMENTS, FRONTENDS, IDENTITIES, LOCAL_PODS, POLICIES, PORTS,
        RESTRICTED, SENDERS,
    },
    scratch::Scratch,
    tracking,
};

const REMOTE: u32 = Opener::Remote as u32;
const POD: u32 = Opener::Pod as u32;

/// How many times a value is read until it does not change meanwhile. Values are replaced far less
/// often than programs run.
const ATTEMPTS: usize = 3;
/// The same limit for a value that is replaced in place, and moves only when its key is removed.
const LOOKS: usize = 2;
/// An identity that no policy has an entry for.
const IDENTITY_UNKNOWN: u32 = u32::MAX;

/// Prefix length of a whole address.
const ADDRESS_BITS: u32 = 128;

/// The maps, as seen for one packet.
pub struct Maps {
    /// The epoch, read once.
    pub epoch: u32,
    /// Lifetimes, in map `config`.
    pub lifetimes: &'static Lifetimes,
    /// Counters for new flows.
    pub counters: *mut Counters,
    /// Memory for keys and values.
    pub scratch: *mut Scratch,
    /// Length of the frame in bytes.
    pub length: u32,
    /// Rate limit of events.
    pub events_per_second: u32,
    /// The packet.
    pub skb: *mut __sk_buff,
}

impl Lookups for Maps {
    /// When a value is replaced, the kernel may at once give its old slot to another endpoint, and
    /// write that one while this one is read here.
    #[inline(always)]
    fn endpoint(&self, ifindex: u32, into: &mut Endpoint) -> bool {
        for _ in 0..ATTEMPTS {
            // A lookup may miss a value while it is replaced.
            let Some(slot) = ENDPOINTS.get_ptr(ifindex) else {
                continue;
            };
            let (from, to) = (slot.cast::<u32>(), (&raw mut *into).cast::<u32>());
            // The owner's index is the first word and is read last, so it vouches for all other
            // words.
            for word in (0..offset_of!(Endpoint, lock) / 4).rev() {
                // SAFETY: the value is readable while this program runs (RCU), and both have so
                // many words; volatile, so that it is read here, in this order, and nowhere else.
                unsafe { to.add(word).write(read_volatile(from.add(word))) };
            }
            if into.ifindex == ifindex {
                return true;
            }
        }
        *into = Endpoint::CLOSED;
        false
    }

    #[inline(always)]
    fn is_endpoint(&self, ifindex: u32) -> bool {
        // SAFETY: the value is not read.
        unsafe { ENDPOINTS.get(ifindex) }.is_some()
    }

    #[inline(always)]
    fn egress_policy(&self, ifindex: u32) -> u32 {
        if ifindex == 0 {
            return POLICY_UNRESTRICTED;
        }
        for _ in 0..ATTEMPTS {
            let Some(endpoint) = ENDPOINTS.get_ptr(ifindex) else {
                continue;
            };
            // SAFETY: readable while the program runs (RCU); the value names its owner, which is
            // read last.
            let (policy, of) = unsafe {
                let policy = read_volatile(&raw const (*endpoint).egress_policy);
                (policy, read_volatile(&raw const (*endpoint).ifindex))
            };
            if of == ifindex {
                return policy;
            }
        }
        POLICY_DENY
    }

    #[inline(always)]
    fn policy(&self, key: &PolicyMatch) -> Option<PolicyValue> {
        // SAFETY: a per-CPU value that only this run of the program uses; checked for null at its
        // lookup.
        let prefix = unsafe { &mut (*self.scratch).policy };
        prefix.length = PolicyMatch::ONE_PORT;
        prefix.data = *key;
        match of_port(&prefix.data) {
            Some(value) => Some(value),
            None => POLICIES.get(prefix.key()).copied(),
        }
    }

    #[inline(always)]
    fn identity(&self, address: &Address) -> Identity {
        for _ in 0..LOOKS {
            if let Some(slot) = ADDRESSES.get_ptr(address) {
                if let Some(class) = class_at(slot, address) {
                    return class;
                }
                continue;
            }
            // The agent writes an address before the prefixes that contain it. If the address
            // appeared meanwhile, the prefix's class may be newer.
            let by_prefix = self.by_prefix(address);
            if ADDRESSES.get_ptr(address).is_none() {
                return by_prefix;
            }
        }
        Identity {
            identity: IDENTITY_UNKNOWN,
            flags: 0,
        }
    }

    #[inline(always)]
    fn frontend(&self, address: &Address, protocol: u8, port: [u8; 2]) -> u32 {
        // SAFETY: as above.
        let key = unsafe { &mut (*self.scratch).frontend };
        key.address = *address;
        key.port = port;
        key.protocol = protocol;
        frontend(key)
    }

    #[inline(always)]
    fn node_port(&self, address: &Address, protocol: u8, port: [u8; 2]) -> u32 {
        // SAFETY: as above.
        let key = unsafe { &mut (*self.scratch).frontend };
        key.address = address.any();
        key.port = port;
        key.protocol = protocol;
        frontend(key)
    }

    #[inline(always)]
    fn is_restricted(&self, backend: &Address, protocol: u8, port: [u8; 2]) -> bool {
        // SAFETY: a per-CPU value that only this run of the program uses; checked for null at its
        // lookup.
        let key = unsafe { &mut (*self.scratch).frontend };
        key.address = *backend;
        key.port = port;
        key.protocol = protocol;
        is_restricted(key)
    }

    #[inline(always)]
    fn sender(&self, bridge: u32, number: u16) -> u32 {
        let key = Sender {
            bridge,
            number: number.into(),
        };
        still(
            || SENDERS.get_ptr(key),
            // SAFETY: as `still` says.
            |ifindex| unsafe { read_volatile(ifindex) },
            0,
            SENDER_AMBIGUOUS,
        )
    }

    #[inline(always)]
    fn local_pod(&self, address: &Address) -> u32 {
        still(
            || LOCAL_PODS.get_ptr(address),
            // SAFETY: as `still` says.
            |ifindex| unsafe { read_volatile(ifindex) },
            0,
            SENDER_AMBIGUOUS,
        )
    }

    #[inline(always)]
    fn forwards(&self, ifindex: u32, address: &Address) -> bool {
        // SAFETY: a per-CPU value that only this run of the program uses; checked for null at its
        // lookup.
        let prefix = unsafe { &mut (*self.scratch).forwarded };
        prefix.length = Forwarded::ONE_ADDRESS;
        prefix.data.ifindex = ifindex;
        prefix.data.address = *address;
        FORWARDS.get(prefix.key()).is_some()
    }
}

impl Flows for Maps {
    type Entry = Entry;

    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: takes nothing, always allowed.
        unsafe { bpf_ktime_get_coarse_ns() }
    }

    #[inline(always)]
    fn lifetimes(&self) -> &Lifetimes {
        self.lifetimes
    }

    #[inline(always)]
    fn epoch(&self) -> u32 {
        self.epoch
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<Entry> {
        FLOWS.get_ptr_mut(key).map(Entry)
    }

    #[inline(always)]
    fn insert_flow(&self, key: &FlowKey, flow: &Flow) {
        // SAFETY: as above.
        unsafe {
            (*self.scratch).flow = *flow;
            (*self.scratch).flow_key = *key;
        }
        let inserted = flows::insert_flow() != 0;
        // SAFETY: a per-CPU value that only this CPU writes; checked for null at its lookup.
        let counters = unsafe { &mut *self.counters };
        if inserted {
            counters.flows_created.packets += 1;
            counters.flows_created.bytes += u64::from(self.length);
        } else {
            counters.flow_insert_failures += 1;
        }
    }

    #[inline(always)]
    fn opener(&self, key: &FlowKey, own: &Address) -> Opener {
        // SAFETY: a per-CPU value that only this run of the program uses.
        unsafe {
            (*self.scratch).flow_key = *key;
            (*self.scratch).own = *own;
        }
        match tracking::ask_tracking(self.skb) {
            REMOTE => Opener::Remote,
            POD => Opener::Pod,
            _ => Opener::Unknown,
        }
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<Fragment> {
        still(
            || FRAGMENTS.get_ptr(key),
            // SAFETY: as `still` says.
            |fragment| Some(unsafe { read_volatile(fragment) }),
            None,
            None,
        )
    }

    #[inline(always)]
    fn insert_fragment(&self, key: &FragmentKey, fragment: &Fragment) {
        // A full map evicts by itself. After a failed write, the first fragment counts as not seen.
        let _ = FRAGMENTS.insert(key, fragment, BPF_ANY.into());
    }
}

impl Buffer for Maps {
    #[inline(always)]
    fn length(&self) -> u32 {
        self.length
    }

    #[inline(always)]
    fn has_socket(&self) -> bool {
        // SAFETY: the context pointer is valid for the run of the program; the verifier checks the
        // access.
        let socket = unsafe { (*self.skb).__bindgen_anon_2.sk };
        !socket.is_null()
    }

    #[inline(always)]
    fn put_tag(&self, tag: u16) {
        // SAFETY: the context pointer is valid for the run of the program; the verifier checks the
        // access.
        unsafe { (*self.skb).tc_index = tag.into() };
    }
}

impl Maps {
    /// Reads the epoch. It must be read before anything that it dates: a verdict on an identity
    /// from before a change carries the epoch from before that change.
    #[inline(always)]
    pub fn new(
        ctx: &TcContext,
        config: &'static Config,
        counters: *mut Counters,
        scratch: *mut Scratch,
    ) -> Self {
        Self {
            // SAFETY: a valid reference; volatile, so that it is read here and nowhere else.
            epoch: unsafe { read_volatile(&raw const config.epoch) },
            lifetimes: &config.lifetimes,
            counters,
            scratch,
            length: ctx.len(),
            events_per_second: config.events_per_second,
            skb: ctx.skb.skb,
        }
    }

    /// Looks up an address in map `identities`.
    #[inline(always)]
    fn by_prefix(&self, address: &Address) -> Identity {
        // SAFETY: a per-CPU value that only this run of the program uses; checked for null at its
        // lookup.
        let prefix = unsafe { &mut (*self.scratch).address };
        prefix.length = ADDRESS_BITS;
        prefix.data = *address;
        match IDENTITIES.get(prefix.key()) {
            Some(identity) => *identity,
            None => Identity {
                identity: IDENTITY_NONE,
                flags: 0,
            },
        }
    }
}

#[inline(always)]
fn frontend(key: &Frontend) -> u32 {
    still(
        || FRONTENDS.get_ptr(key),
        // SAFETY: as `still` says.
        |identity| unsafe { read_volatile(&raw const (*identity).identity) },
        IDENTITY_NONE,
        IDENTITY_UNKNOWN,
    )
}

#[inline(always)]
fn is_restricted(backend: &Frontend) -> bool {
    // SAFETY: the value is not read.
    unsafe { RESTRICTED.get(backend) }.is_some()
}

/// Reads an entry of map `addresses`. Returns `None` if its slot belongs to another address by now.
#[inline(always)]
fn class_at(slot: *const Peer, address: &Address) -> Option<Identity> {
    // SAFETY: readable while the program runs (RCU), on words of eight bytes. Volatile, so that the
    // class is read at once, then its address, then the class again. To pass for this address's,
    // the slot would have to change its owner three times in between.
    let (class, of, again) = unsafe {
        let class = (&raw const (*slot).class).cast::<u64>();
        (
            read_volatile(class),
            read_volatile((&raw const (*slot).address).cast::<[u32; 4]>()),
            read_volatile(class),
        )
    };
    (of == address.words() && class == again).then(|| Identity::from_word(class))
}

/// Reads an entry of map `ports`. Returns a value that drops if the entry is removed and written
/// again at each attempt.
#[inline(always)]
fn of_port(entry: &PolicyMatch) -> Option<PolicyValue> {
    for _ in 0..LOOKS {
        let slot: *const PortValue = PORTS.get_ptr(entry)?;
        // SAFETY: readable while the program runs (RCU), on words; volatile, so that it is read in
        // this order, see `class_at`.
        let (value, of, again) = unsafe {
            let value = (&raw const (*slot).value).cast::<[u32; 2]>();
            (
                read_volatile(value),
                read_volatile((&raw const (*slot).entry).cast::<[u32; 3]>()),
                read_volatile(value),
            )
        };
        if of == entry.words() && value == again {
            return Some(PolicyValue::from_words(value));
        }
    }
    Some(PolicyValue::default())
}

/// Reads a value that does not move meanwhile. When a value is replaced, the kernel may at once
/// give its old slot to another key, so what was read counts only if the value is still in the same
/// place.
///
/// Returns `none` if there is no value, and `moved`, which lets nothing pass, if it was replaced at
/// each attempt. What `look` finds is readable while the program runs (RCU). `read` reads only
/// there.
#[inline(always)]
fn still<V, R>(look: impl Fn() -> Option<*const V>, read: impl Fn(*const V) -> R, none: R, moved: R) -> R {
    for _ in 0..ATTEMPTS {
        let Some(slot) = look() else { return none };
        let value = read(slot);
        if look() == Some(slot) {
            return value;
        }
    }
    moved
}

/// A value of map `flows` in its slot. Two CPUs may write one flow concurrently. The later write
/// wins, which costs a count or a second judgement, never a verdict.
pub struct Entry(*mut Flow);

impl FlowEntry for Entry {
    #[inline(always)]
    fn with<R>(&self, change: impl FnOnce(&mut Flow) -> R) -> R {
        // SAFETY: the pointer came from a lookup in this run of the program; values of hash maps
        // outlive the run (RCU).
        let flow = unsafe { &mut *self.0 };
        // Keeps a condition in `change` apart from the caller's, that there is an entry: the
        // compiler would make them one, and verifiers up to Linux 6.1 then lose the pointer.
        // SAFETY: it is a reference.
        unsafe { (&raw const flow.initiator).read_volatile() };
        change(flow)
    }
}
