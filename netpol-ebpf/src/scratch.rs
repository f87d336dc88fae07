// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Memory for one run of a program besides its stack.

use aya_ebpf::btf_maps::lpm_trie::Key;
use netpol_common::{
    abi::{Address, Endpoint, Flow, FlowKey, Forwarded, Frontend, PolicyMatch},
    parse::Packet,
};

use crate::{offload, tracking};

/// Values that do not fit on the stack of a program, which has 512 bytes.
pub struct Scratch {
    /// The parsed packet.
    pub packet: Packet,
    /// The packet that it quotes.
    pub quoted: Packet,
    /// The [`Endpoint`] whose policy judges the packet, as words: the kernel allows its lock in no
    /// value of such a map.
    pub endpoint: [u32; size_of::<Endpoint>() / size_of::<u32>()],
    /// Copy of the packet's `struct sk_buff`.
    pub sk_buff: offload::Part,
    /// Key of map `identities`.
    pub address: Prefix<Address>,
    /// Key of map `policies`.
    pub policy: Prefix<PolicyMatch>,
    /// Key of maps `frontends` and `restricted`.
    pub frontend: Frontend,
    /// Key of map `forwards`.
    pub forwarded: Prefix<Forwarded>,
    /// A flow to write.
    pub flow: Flow,
    /// Key of that flow.
    pub flow_key: FlowKey,
    /// Address of the pod of that flow.
    pub own: Address,
    /// Arguments for connection tracking.
    pub question: tracking::Question,
}

/// A [`Key`] that is aligned to words. The compiler would write the original byte by byte.
#[repr(C)]
pub struct Prefix<K> {
    /// Number of bits that count.
    pub length: u32,
    /// The data that they belong to.
    pub data: K,
}

impl<K> Prefix<K> {
    /// Returns the key in the form that the map takes.
    #[inline(always)]
    pub fn key(&self) -> &Key<K> {
        // SAFETY: both types are a length followed by the data, and the key's alignment is smaller.
        unsafe { &*(&raw const *self).cast() }
    }
}

const _: () = assert!(size_of::<Prefix<PolicyMatch>>() == size_of::<Key<PolicyMatch>>());
const _: () = assert!(size_of::<Prefix<Address>>() == size_of::<Key<Address>>());
const _: () = assert!(size_of::<Prefix<Forwarded>>() == size_of::<Key<Forwarded>>());
