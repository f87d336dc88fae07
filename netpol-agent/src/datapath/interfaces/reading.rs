// SPDX-License-Identifier: Apache-2.0
//! One reading of the interfaces: links, the node's addresses, and the addresses on the far side of each veth.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    io,
    net::IpAddr,
};

use ipnet::IpNet;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::net::if_::if_nametoindex;
use tracing::{debug, warn};

use super::{Interfaces, InterfacesError, PodInterface};
use crate::datapath::netlink::{Requests, attributes, push_attribute, text, u32_at};

const INTERFACE_MESSAGE_BYTES: usize = 16;
const ADDRESS_MESSAGE_BYTES: usize = 8;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
const ROUTE_MESSAGE_BYTES: usize = 12;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_TARGET_NETNSID: u16 = 10;
/// Kinds of devices that no packet leaves the node by. A bridge passes it on to a port, where it is looked at; an `ifb` gives it back to the
/// interface that it was redirected from, before Services are translated; a dummy and a monitor of netlink end it.
const NO_WAY_OUT: [&[u8]; 4] = [b"bridge", b"ifb", b"dummy", b"nlmon"];
/// Readings of something that changes under them. The event of the change is already queued then, so the last may stand.
const ATTEMPTS: usize = 8;

/// A veth and where its peer is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Veth {
    name: String,
    /// Id of the peer's namespace, as this namespace numbers it. Negative while that namespace ends.
    namespace: i32,
    /// Index of the peer in its namespace.
    peer: u32,
    /// Index of the bridge, or other device, that it is a port of.
    bridge: Option<u32>,
}

/// What the links of this namespace are.
#[derive(Debug, Default, PartialEq, Eq)]
struct Links {
    /// Veths that lead into another namespace.
    veths: BTreeMap<u32, Veth>,
    /// Names of the interfaces by which packets can leave the node.
    devices: BTreeMap<u32, String>,
}

/// Addresses by index of the interface they are on.
type Addresses = BTreeMap<u32, BTreeSet<IpAddr>>;

/// A socket to read with.
pub(super) struct Reader(Requests);

impl Reader {
    /// Opens the socket in the calling thread's network namespace.
    pub(super) fn open() -> Result<Self, InterfacesError> {
        let failed = |attempt| move |source| InterfacesError::Socket { attempt, source };
        Requests::open(NETLINK_ROUTE)
            .map_err(failed("open a socket for requests"))?
            .strict()
            .map_err(failed(
                "ask for strict checking (NETLINK_GET_STRICT_CHK, Linux 4.20)",
            ))
            .map(Self)
    }

    /// Reads all. The links are read before and after the addresses: the id of a namespace that ended is soon another's, so the
    /// addresses found under an id are only a veth's if it led there all the time.
    pub(super) fn read(&mut self) -> Result<Interfaces, InterfacesError> {
        let mut links = self.links()?;
        for _ in 1..ATTEMPTS {
            let interfaces = self.read_behind(&links)?;
            let after = self.links()?;
            if after == links {
                return Ok(interfaces);
            }
            links = after;
        }
        debug!("interfaces keep changing while they are read");
        // Never an address that may be another pod's: those that moved during this last reading have none yet.
        let mut interfaces = self.read_behind(&links)?;
        let after = self.links()?;
        for (index, interface) in &mut interfaces.pods {
            if links.veths.get(index) != after.veths.get(index) {
                interface.addresses.clear();
            }
        }
        Ok(interfaces)
    }

    fn read_behind(&mut self, links: &Links) -> Result<Interfaces, InterfacesError> {
        // kube-proxy in IPVS mode keeps the virtual IPs of Services on an interface of its own: they are not the node (rule A5).
        let virtual_ips = if_nametoindex("kube-ipvs0").ok();
        let on_node = self.addresses(None)?;
        let node_addresses = on_node
            .iter()
            .filter(|(index, _)| Some(**index) != virtual_ips)
            .flat_map(|(_, addresses)| addresses)
            .filter(|address| !address.is_loopback())
            .copied()
            .collect();
        // Nodes may have many routes, which tell nothing where pods are on bridges.
        let mut routes = if links.veths.values().any(|veth| veth.bridge.is_none()) {
            self.routes()?
        } else {
            BTreeMap::new()
        };
        let mut namespaces: BTreeMap<i32, Addresses> = BTreeMap::new();
        let mut pods = BTreeMap::new();
        for (&index, veth) in &links.veths {
            let behind = match namespaces.entry(veth.namespace) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(self.addresses_behind(veth)?),
            };
            let addresses = behind
                .get(&veth.peer)
                .into_iter()
                .flatten()
                .copied()
                .filter(|address| !address.is_loopback() && !is_link_local(*address))
                .collect();
            let name = veth.name.clone();
            pods.insert(
                index,
                PodInterface {
                    index,
                    name,
                    addresses,
                    bridge: veth.bridge,
                    gateways: gateways(veth, &on_node),
                    routed: match veth.bridge {
                        None => routes.remove(&index).unwrap_or_default(),
                        Some(_) => BTreeSet::new(),
                    },
                },
            );
        }
        Ok(Interfaces {
            pods,
            devices: links.devices.clone(),
            node_addresses,
        })
    }

    /// The addresses inside the pod behind a veth, without link-local and loopback ones.
    pub(super) fn addresses_of(&mut self, index: u32) -> Result<BTreeSet<IpAddr>, InterfacesError> {
        let links = self.links()?;
        let Some(veth) = links.veths.get(&index) else {
            return Ok(BTreeSet::new());
        };
        let mut behind = self.addresses_behind(veth)?;
        let mut addresses = behind.remove(&veth.peer).unwrap_or_default();
        addresses.retain(|address| !address.is_loopback() && !is_link_local(*address));
        Ok(addresses)
    }

    /// What is routed where, by the index of the interface.
    fn routes(&mut self) -> Result<BTreeMap<u32, BTreeSet<IpNet>>, InterfacesError> {
        let mut all: BTreeMap<u32, BTreeSet<IpNet>> = BTreeMap::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            // `struct rtmsg`: the family, and the type last but the flags.
            let mut request = vec![0; ROUTE_MESSAGE_BYTES];
            request[0] = family as u8;
            request[7] = libc::RTN_UNICAST;
            let found = self.consistent(
                libc::RTM_GETROUTE,
                &request,
                || "the routes of this network namespace".to_owned(),
                |found: &mut Vec<_>, kind, message| {
                    if kind == libc::RTM_NEWROUTE {
                        found.extend(route(message));
                    }
                },
            );
            match found {
                Ok(found) => {
                    for (index, network) in found {
                        all.entry(index).or_default().insert(network);
                    }
                }
                Err(InterfacesError::Dump { source, .. })
                    if family == libc::AF_INET6 && source.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// The addresses in the namespace that `veth` leads to: none if it ended, or may not be read.
    fn addresses_behind(&mut self, veth: &Veth) -> Result<Addresses, InterfacesError> {
        if veth.namespace < 0 {
            return Ok(Addresses::new());
        }
        match self.addresses(Some(veth.namespace)) {
            Err(InterfacesError::Dump { what, source }) => match source.raw_os_error() {
                Some(libc::EACCES | libc::EPERM) => {
                    warn!(interface = veth.name, error = %source, "the addresses of the pod behind this interface may not be read");
                    Ok(Addresses::new())
                }
                Some(libc::EINVAL | libc::ENODEV | libc::ENOENT | libc::ENONET | libc::ESRCH) => {
                    debug!(interface = veth.name, error = %source, "the network namespace behind this interface is gone");
                    Ok(Addresses::new())
                }
                _ => Err(InterfacesError::Dump { what, source }),
            },
            result => result,
        }
    }

    fn links(&mut self) -> Result<Links, InterfacesError> {
        let mut request = vec![0; INTERFACE_MESSAGE_BYTES];
        push_attribute(
            &mut request,
            IFLA_EXT_MASK,
            &RTEXT_FILTER_SKIP_STATS.to_ne_bytes(),
        );
        self.consistent(
            libc::RTM_GETLINK,
            &request,
            || "the links of this network namespace".to_owned(),
            |links: &mut Links, kind, message| {
                if kind == libc::RTM_NEWLINK {
                    links.veths.extend(veth(message));
                    links.devices.extend(device(message));
                }
            },
        )
    }

    fn addresses(&mut self, namespace: Option<i32>) -> Result<Addresses, InterfacesError> {
        let mut all = Addresses::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut request = vec![0; ADDRESS_MESSAGE_BYTES];
            request[0] = family as u8;
            if let Some(namespace) = namespace {
                push_attribute(&mut request, IFA_TARGET_NETNSID, &namespace.to_ne_bytes());
            }
            let found = self.consistent(
                libc::RTM_GETADDR,
                &request,
                || match namespace {
                    Some(id) => format!("the addresses in the network namespace with id {id}"),
                    None => "the addresses of this network namespace".to_owned(),
                },
                |found: &mut Vec<_>, kind, message| {
                    if kind == libc::RTM_NEWADDR {
                        found.extend(address(message, namespace));
                    }
                },
            );
            match found {
                Ok(found) => {
                    for (index, address) in found {
                        all.entry(index).or_default().insert(address);
                    }
                }
                // A kernel without IPv6 (`ipv6.disable=1`) has no such list.
                Err(InterfacesError::Dump { source, .. })
                    if family == libc::AF_INET6 && source.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// A dump, taken again while the kernel says that it changed under the reading.
    fn consistent<T: Default>(
        &mut self,
        kind: u16,
        request: &[u8],
        what: impl Fn() -> String,
        mut each: impl FnMut(&mut T, u16, &[u8]),
    ) -> Result<T, InterfacesError> {
        let failed = |source: io::Error| InterfacesError::Dump { what: what(), source };
        for attempt in 1.. {
            let mut found = T::default();
            let consistent = self
                .0
                .dump(kind, request, |kind, message| each(&mut found, kind, message))
                .map_err(failed)?;
            if consistent || attempt == ATTEMPTS {
                return Ok(found);
            }
        }
        unreachable!("the last attempt returns")
    }
}

/// The addresses of the bridge that a veth is a port of.
fn gateways(veth: &Veth, on_node: &Addresses) -> BTreeSet<IpAddr> {
    let bridge = veth.bridge.and_then(|bridge| on_node.get(&bridge));
    bridge.cloned().unwrap_or_default()
}

/// Reads a route message; `None` if it is a default route, or one by several interfaces.
fn route(message: &[u8]) -> Option<(u32, IpNet)> {
    let length = *message.get(1)?;
    let (mut destination, mut index) = (None, None);
    for (kind, value) in attributes(message.get(ROUTE_MESSAGE_BYTES..)?) {
        match kind {
            RTA_DST => destination = ip(value),
            RTA_OIF => index = u32_at(value, 0),
            _ => {}
        }
    }
    Some((index?, IpNet::new(destination?, length).ok()?))
}

/// Reads a link message; `None` if it is no veth that leads into another namespace.
fn veth(message: &[u8]) -> Option<(u32, Veth)> {
    let index = u32_at(message, 4)?;
    let (mut name, mut peer, mut namespace, mut bridge, mut is_veth) = (None, None, None, None, false);
    for (kind, value) in attributes(message.get(INTERFACE_MESSAGE_BYTES..)?) {
        match kind {
            IFLA_IFNAME => name = Some(String::from_utf8_lossy(text(value)).into_owned()),
            IFLA_LINK => peer = u32_at(value, 0),
            IFLA_LINK_NETNSID => namespace = u32_at(value, 0).map(u32::cast_signed),
            IFLA_MASTER => bridge = u32_at(value, 0),
            IFLA_LINKINFO => {
                is_veth =
                    attributes(value).any(|(kind, value)| kind == IFLA_INFO_KIND && text(value) == b"veth");
            }
            _ => {}
        }
    }
    let (name, namespace, peer) = (name?, namespace?, peer?);
    is_veth.then_some((
        index,
        Veth {
            name,
            namespace,
            peer,
            bridge,
        },
    ))
}

/// Reads a link message; `None` if packets do not leave the node there.
fn device(message: &[u8]) -> Option<(u32, String)> {
    let (index, flags) = (u32_at(message, 4)?, u32_at(message, 8)?);
    let (mut name, mut leaves) = (None, true);
    for (attribute, value) in attributes(message.get(INTERFACE_MESSAGE_BYTES..)?) {
        match attribute {
            IFLA_IFNAME => name = Some(String::from_utf8_lossy(text(value)).into_owned()),
            IFLA_LINKINFO => {
                leaves = !attributes(value).any(|(attribute, value)| {
                    attribute == IFLA_INFO_KIND && NO_WAY_OUT.contains(&text(value))
                });
            }
            _ => {}
        }
    }
    let loopback = flags & libc::IFF_LOOPBACK as u32 != 0;
    (!loopback && leaves).then_some((index, name?))
}

/// Reads an address message. One that does not carry the id of the namespace that was asked for is not from there: `None`.
fn address(message: &[u8], namespace: Option<i32>) -> Option<(u32, IpAddr)> {
    let index = u32_at(message, 4)?;
    let (mut local, mut address, mut from) = (None, None, None);
    for (kind, value) in attributes(message.get(ADDRESS_MESSAGE_BYTES..)?) {
        match kind {
            IFA_LOCAL => local = ip(value),
            IFA_ADDRESS => address = ip(value),
            IFA_TARGET_NETNSID => from = u32_at(value, 0).map(u32::cast_signed),
            _ => {}
        }
    }
    // On a point-to-point interface `IFA_ADDRESS` is the other end.
    (from == namespace).then_some((index, local.or(address)?))
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(value)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from))
        .ok()
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}
