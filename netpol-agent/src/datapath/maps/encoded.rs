// SPDX-License-Identifier: Apache-2.0
//! Keys and values as the maps have them.

use std::net::IpAddr;

use aya::maps::lpm_trie::Key;
use ipnet::IpNet;
use netpol_common::abi::{self, Address, Endpoint, Forwarded, Identity, PolicyMatch, Sender};

use super::table::Encoded;
use crate::{
    model::{Frontend, ProtocolMatch},
    sync::EntryKey,
};

/// Bits that IPv4 prefixes are longer by when they are mapped into IPv6.
const MAPPED_BITS: u32 = 96;
/// Bits of the interface index, which comes before the prefix.
const INDEX_BITS: u32 = u32::BITS;
/// Replaces a value where it is (linux/bpf.h): see [`Endpoint::lock`].
pub(super) const BPF_F_LOCK: u64 = 4;

/// Types that the maps have as the agent does.
macro_rules! as_it_is {
    ($($type:ty, $flags:expr;)*) => {
        $(impl Encoded for $type {
            type Bytes = Self;
            const FLAGS: u64 = $flags;

            fn encode(self) -> Self {
                self
            }

            fn decode(bytes: Self) -> Self {
                bytes
            }
        })*
    };
}

as_it_is! {
    u32, 0;
    Endpoint, BPF_F_LOCK;
    Identity, 0;
}

/// What a map has for a key of a set.
impl Encoded for () {
    type Bytes = u32;

    fn encode(self) -> u32 {
        1
    }

    fn decode(_: u32) -> Self {}
}

impl Encoded for IpAddr {
    type Bytes = Address;

    fn encode(self) -> Address {
        match self {
            Self::V4(address) => Address::from_ipv4(address.octets()),
            Self::V6(address) => Address::from_ipv6(address.octets()),
        }
    }

    fn decode(address: Address) -> Self {
        Self::from(address.octets).to_canonical()
    }
}

/// Bridge and number.
impl Encoded for (u32, u32) {
    type Bytes = Sender;

    fn encode(self) -> Sender {
        let (bridge, number) = self;
        Sender { bridge, number }
    }

    fn decode(Sender { bridge, number }: Sender) -> Self {
        (bridge, number)
    }
}

impl Encoded for Frontend {
    type Bytes = abi::Frontend;

    fn encode(self) -> abi::Frontend {
        abi::Frontend {
            address: self.address.encode(),
            port: self.port.to_be_bytes(),
            protocol: self.protocol,
            pad: 0,
        }
    }

    fn decode(key: abi::Frontend) -> Self {
        Self {
            address: IpAddr::decode(key.address),
            protocol: key.protocol,
            port: u16::from_be_bytes(key.port),
        }
    }
}

impl Encoded for IpNet {
    type Bytes = Key<Address>;

    fn encode(self) -> Key<Address> {
        let net = self.trunc();
        let mapped = if net.addr().is_ipv4() { MAPPED_BITS } else { 0 };
        Key::new(mapped + u32::from(net.prefix_len()), net.network().encode())
    }

    fn decode(key: Key<Address>) -> Self {
        let address = std::net::Ipv6Addr::from(key.data().octets);
        let length = key.prefix_len();
        let (address, length) = match address.to_ipv4_mapped() {
            Some(v4) if length >= MAPPED_BITS => (IpAddr::V4(v4), length - MAPPED_BITS),
            _ => (IpAddr::V6(address), length),
        };
        // The kernel refuses longer prefixes than the key has bits.
        Self::new(address, length as u8)
            .unwrap_or_else(|_| Self::from(address))
            .trunc()
    }
}

/// Interface index and prefix.
impl Encoded for (u32, IpNet) {
    type Bytes = Key<Forwarded>;

    fn encode(self) -> Key<Forwarded> {
        let (ifindex, prefix) = self;
        let key = prefix.encode();
        let address = key.data();
        Key::new(INDEX_BITS + key.prefix_len(), Forwarded { ifindex, address })
    }

    fn decode(key: Key<Forwarded>) -> Self {
        let Forwarded { ifindex, address } = key.data();
        // Each entry has the whole index: the agent writes no others.
        let length = key.prefix_len().saturating_sub(INDEX_BITS);
        (ifindex, IpNet::decode(Key::new(length, address)))
    }
}

/// Policy number and what of it.
impl Encoded for (u32, EntryKey) {
    type Bytes = Key<PolicyMatch>;

    fn encode(self) -> Key<PolicyMatch> {
        let (policy, EntryKey { identity, protocol }) = self;
        let (prefix_len, protocol, port) = match protocol {
            None => (PolicyMatch::ALL_PROTOCOLS, 0, 0),
            Some(ProtocolMatch {
                protocol,
                port,
                prefix_len,
            }) => (PolicyMatch::ALL_PORTS + u32::from(prefix_len), protocol, port),
        };
        let data = PolicyMatch {
            policy,
            identity,
            protocol,
            port: port.to_be_bytes(),
            pad: 0,
        };
        Key::new(prefix_len, data)
    }

    fn decode(key: Key<PolicyMatch>) -> Self {
        let data = key.data();
        let bits = key.prefix_len().checked_sub(PolicyMatch::ALL_PORTS);
        let protocol = bits.map(|bits| ProtocolMatch {
            protocol: data.protocol,
            port: u16::from_be_bytes(data.port),
            prefix_len: bits as u8,
        });
        let identity = data.identity;
        (data.policy, EntryKey { identity, protocol })
    }
}
