// SPDX-License-Identifier: Apache-2.0
//! Converts bindings to and from the kernel's copy, which outlives the agent (map `bindings`).

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

use netpol_common::abi::{self, Address};
use zerocopy::IntoBytes as _;

use super::{Binding, Bindings, PodRef, Source};
use crate::{datapath::interfaces::Sight, model::ObjectKey};

impl Binding {
    /// Converts to the map's form. Drops the last addresses if they do not fit.
    pub fn to_stored(&self, ifindex: u32) -> abi::Binding {
        let mut stored = abi::Binding {
            ifindex,
            told_by: match &self.pod {
                None => abi::Binding::NOBODY,
                Some((_, Source::Seen)) => abi::Binding::SEEN,
                Some((_, Source::Record)) => abi::Binding::RECORD,
            },
            mac: self.mac,
            peer_mac: self.peer_mac.unwrap_or_default(),
            link_local: self
                .link_local
                .map(|address| address.octets())
                .unwrap_or_default(),
            ..abi::Binding::default()
        };
        for (place, address) in stored.addresses.iter_mut().zip(&self.addresses) {
            *place = match address {
                IpAddr::V4(address) => Address::from_ipv4(address.octets()),
                IpAddr::V6(address) => Address::from_ipv6(address.octets()),
            };
        }
        if let Some((pod, _)) = &self.pod {
            put(stored.uid.as_mut_bytes(), &pod.uid);
            put(stored.namespace.as_mut_bytes(), &pod.key.namespace);
            put(stored.name.as_mut_bytes(), &pod.key.name);
        }
        stored
    }

    /// Converts from the map's form.
    pub fn from_stored(stored: &abi::Binding) -> Self {
        let source = match stored.told_by {
            abi::Binding::SEEN => Some(Source::Seen),
            abi::Binding::RECORD => Some(Source::Record),
            _ => None,
        };
        let addresses = stored
            .addresses
            .iter()
            .map(|address| Ipv6Addr::from(address.octets));
        let link_local = Ipv6Addr::from(stored.link_local);
        Self {
            mac: stored.mac,
            addresses: addresses
                .filter(|address| !address.is_unspecified())
                .map(|address| IpAddr::V6(address).to_canonical())
                .collect(),
            pod: source.map(|source| {
                let key = ObjectKey::new(
                    text(stored.namespace.as_bytes()).as_str(),
                    text(stored.name.as_bytes()).as_str(),
                );
                let uid = text(stored.uid.as_bytes());
                (PodRef { key, uid }, source)
            }),
            peer_mac: (stored.peer_mac != [0; 6]).then_some(stored.peer_mac),
            link_local: (!link_local.is_unspecified()).then_some(link_local),
        }
    }

    /// Returns what was first seen, for the reader of interfaces.
    pub fn sight(&self) -> Sight {
        Sight {
            mac: self.mac,
            addresses: self.addresses.clone(),
            peer_mac: self.peer_mac,
            link_locals: self.link_local.into_iter().collect(),
        }
    }
}

/// Converts the map's bindings.
pub fn stored_bindings(stored: &BTreeMap<u32, abi::Binding>) -> Bindings {
    let bindings = stored.iter();
    bindings
        .map(|(ifindex, binding)| (*ifindex, Binding::from_stored(binding)))
        .collect()
}

/// Cuts a UID to the map's field. Kubernetes' UIDs fit.
pub(super) fn cut(uid: &str) -> &str {
    let mut end = uid.len().min(size_of_val(&abi::Binding::default().uid));
    while !uid.is_char_boundary(end) {
        end -= 1;
    }
    &uid[..end]
}

fn put(place: &mut [u8], text: &str) {
    for (byte, from) in place.iter_mut().zip(text.bytes()) {
        *byte = from;
    }
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
