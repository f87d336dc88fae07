// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Memory of one run of a program beside its stack.

use aya_ebpf::btf_maps::lpm_trie::Key;
use netpol_common::{
    abi::{Address, Endpoint, Flow, FlowKey, Forwarded, Frontend, PolicyMatch},
    parse::Packet,
};

use crate::{offload, tracking};

/// What does not fit on the stack of a program, which is 512 bytes.
pub struct Scratch {
    /// The packet.
    pub packet: Packet,
    /// What it quotes.
    pub quoted: Packet,
    /// Whose policy it is judged by: an [`Endpoint`], whose lock the kernel allows in no value of such a map.
    pub endpoint: [u32; size_of::<Endpoint>() / size_of::<u32>()],
    /// What the kernel says of the packet.
    pub sk_buff: offload::Part,
    /// Key of map `identities`.
    pub address: Prefix<Address>,
    /// Key of map `policies`.
    pub policy: Prefix<PolicyMatch>,
    /// Key of maps `frontends` and `guarded`.
    pub frontend: Frontend,
    /// Key of map `forwards`.
    pub forwarded: Prefix<Forwarded>,
    /// A flow to be written, and its key.
    pub flow: Flow,
    /// See there.
    pub flow_key: FlowKey,
    /// The address of the pod of that flow.
    pub own: Address,
    /// For connection tracking.
    pub question: tracking::Question,
}

/// A [`Key`], on words: the compiler would write the other byte by byte.
#[repr(C)]
pub struct Prefix<K> {
    /// Bits that count.
    pub length: u32,
    /// What they are of.
    pub data: K,
}

impl<K> Prefix<K> {
    /// As the map takes it.
    #[inline(always)]
    pub fn key(&self) -> &Key<K> {
        // SAFETY: both are a length and the data behind it, and the key's alignment is less.
        unsafe { &*(&raw const *self).cast() }
    }
}

const _: () = assert!(size_of::<Prefix<PolicyMatch>>() == size_of::<Key<PolicyMatch>>());
const _: () = assert!(size_of::<Prefix<Address>>() == size_of::<Key<Address>>());
const _: () = assert!(size_of::<Prefix<Forwarded>>() == size_of::<Key<Forwarded>>());
