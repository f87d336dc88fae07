// SPDX-License-Identifier: Apache-2.0
//! One reading of the interfaces: links, the node's addresses, and the addresses behind each veth.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    io,
    net::{IpAddr, Ipv6Addr},
};

use ipnet::IpNet;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::net::if_::if_nametoindex;
use tracing::{debug, warn};

use super::{
    Interfaces, InterfacesError, Mac, PodInterface, Settled, Sight,
    links::{INTERFACE_MESSAGE_BYTES, Links, Veth, device, mac, veth},
    sight::Sights,
};
use crate::datapath::netlink::{Requests, attributes, push_attribute, u32_at};

const ADDRESS_MESSAGE_BYTES: usize = 8;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_TARGET_NETNSID: u16 = 46;
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
const ROUTE_MESSAGE_BYTES: usize = 12;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_TARGET_NETNSID: u16 = 10;
const IFA_PROTO: u16 = 11;
/// The address never expires: it was assigned, and not made from a router's advertisement.
const IFA_F_PERMANENT: u32 = 0x80;
/// The kernel made the address from a router's advertisement.
const IFAPROT_KERNEL_RA: u8 = 2;
/// Maximum number of readings while things change. The event of the last change is already queued
/// then, so the last reading may stand.
const ATTEMPTS: usize = 8;

/// Addresses by index of their interface.
type Addresses = BTreeMap<u32, BTreeSet<IpAddr>>;

/// A socket to read with, and what was seen first.
pub(super) struct Reader {
    requests: Requests,
    sights: Sights,
}

impl Reader {
    /// Opens the socket in the calling thread's network namespace.
    pub(super) fn open(sights: BTreeMap<u32, Sight>) -> Result<Self, InterfacesError> {
        let failed = |attempt| move |source| InterfacesError::Socket { attempt, source };
        let requests = Requests::open(NETLINK_ROUTE)
            .map_err(failed("open a socket for requests"))?
            .strict()
            .map_err(failed(
                "ask for strict checking (NETLINK_GET_STRICT_CHK, Linux 4.20)",
            ))?;
        Ok(Self {
            requests,
            sights: Sights::new(sights),
        })
    }

    /// Reads everything except settled interfaces. Reads the links before and after the addresses:
    /// the id of an ended namespace is soon reused, so addresses found under an id belong to a veth
    /// only if it led there all the time.
    pub(super) fn read(&mut self, settled: &Settled) -> Result<Interfaces, InterfacesError> {
        let mut interfaces = self.read_now(settled)?;
        self.sights.keep(&mut interfaces.pods);
        Ok(interfaces)
    }

    fn read_now(&mut self, settled: &Settled) -> Result<Interfaces, InterfacesError> {
        let mut links = self.links()?;
        for _ in 1..ATTEMPTS {
            let interfaces = self.read_behind(&links, settled)?;
            let after = self.links()?;
            if after == links {
                return Ok(interfaces);
            }
            links = after;
        }
        debug!("interfaces keep changing while they are read");
        // Never give a veth an address that may be another pod's: one that moved during this last
        // reading gets none yet.
        let mut interfaces = self.read_behind(&links, settled)?;
        let after = self.links()?;
        for (index, interface) in &mut interfaces.pods {
            if links.veths.get(index) != after.veths.get(index) {
                interface.addresses.clear();
                interface.peer_mac = None;
                interface.link_locals.clear();
            }
        }
        Ok(interfaces)
    }

    fn read_behind(&mut self, links: &Links, settled: &Settled) -> Result<Interfaces, InterfacesError> {
        // In IPVS mode, kube-proxy puts the virtual IPs of Services on its own interface: they are
        // not the node's (rule A5).
        let virtual_ips = if_nametoindex("kube-ipvs0").ok();
        let on_node = self.addresses(None)?;
        let node_addresses = on_node
            .iter()
            .filter(|(index, _)| Some(**index) != virtual_ips)
            .flat_map(|(_, addresses)| addresses)
            .filter(|address| !address.is_loopback())
            .copied()
            .collect();
        // A node may have many routes, which are useless if its pods are on bridges.
        let mut routes = if links.veths.values().any(|veth| veth.bridge.is_none()) {
            self.routes()?
        } else {
            BTreeMap::new()
        };
        let mut namespaces: BTreeMap<i32, Addresses> = BTreeMap::new();
        let mut pods = BTreeMap::new();
        for (&index, veth) in &links.veths {
            let sight = match self.sights.settled(index, veth.mac, settled) {
                Some(known) => known.clone(),
                None => {
                    let behind = match namespaces.entry(veth.namespace) {
                        Entry::Occupied(known) => known.into_mut(),
                        Entry::Vacant(new) => new.insert(self.addresses_behind(veth)?),
                    };
                    let veths = links.veths.values();
                    let alone = veths.filter(|other| other.namespace == veth.namespace).count() == 1;
                    let addresses = addresses_of(veth, behind, alone);
                    let device = holder(veth, behind, &addresses);
                    Sight {
                        mac: veth.mac,
                        link_locals: link_locals_of(device, behind),
                        addresses,
                        peer_mac: self.peer_mac(veth, device),
                    }
                }
            };
            let pod = PodInterface {
                index,
                name: veth.name.clone(),
                mac: veth.mac,
                namespace: veth.namespace,
                addresses: sight.addresses,
                peer_mac: sight.peer_mac,
                link_locals: sight.link_locals,
                bridge: veth.bridge,
                gateways: gateways(veth, &on_node),
                routed: match veth.bridge {
                    None => routes.remove(&index).unwrap_or_default(),
                    Some(_) => BTreeSet::new(),
                },
            };
            pods.insert(index, pod);
        }
        Ok(Interfaces {
            pods,
            devices: links.devices.clone(),
            node_addresses,
        })
    }

    /// Returns the addresses inside the pod behind a veth, without link-local and loopback ones.
    pub(super) fn addresses_of(&mut self, index: u32) -> Result<BTreeSet<IpAddr>, InterfacesError> {
        let Some(veth) = self.veth(index)? else {
            return Ok(BTreeSet::new());
        };
        let mut behind = self.addresses_behind(&veth)?;
        let mut addresses = behind.remove(&veth.peer).unwrap_or_default();
        addresses.retain(|address| !address.is_loopback() && !is_link_local(*address));
        Ok(addresses)
    }

    /// Returns the routes by interface index.
    fn routes(&mut self) -> Result<BTreeMap<u32, BTreeSet<IpNet>>, InterfacesError> {
        let mut all: BTreeMap<u32, BTreeSet<IpNet>> = BTreeMap::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            // `struct rtmsg`: the family, and the type, which is last but the flags.
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

    /// Returns the MAC address of a device behind a veth; `None` if it cannot be read, perhaps
    /// because the namespace is gone.
    fn peer_mac(&mut self, veth: &Veth, device: u32) -> Option<Mac> {
        if veth.namespace < 0 {
            return None;
        }
        let mut request = link_request();
        request[4..8].copy_from_slice(&device.to_ne_bytes());
        push_attribute(&mut request, IFLA_TARGET_NETNSID, &veth.namespace.to_ne_bytes());
        self.link(&request, mac).unwrap_or_else(|error| {
            debug!(interface = veth.name, %error, "the MAC address of the pod behind this interface cannot be read");
            None
        })
    }

    /// Asks for one link. Returns what `read` finds in it.
    fn link<T>(&mut self, request: &[u8], read: impl Fn(&[u8]) -> Option<T>) -> io::Result<Option<T>> {
        let mut found = None;
        self.requests
            .get(libc::RTM_GETLINK, 0, request, |kind, message| {
                if kind == libc::RTM_NEWLINK {
                    found = read(message);
                }
            })?;
        Ok(found)
    }

    /// Returns the addresses in the namespace that `veth` leads to: none if it ended or cannot be
    /// read.
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

    /// Returns a veth by its index; `None` if there is no such veth. The others are not listed:
    /// this is asked for each pod.
    fn veth(&mut self, index: u32) -> Result<Option<Veth>, InterfacesError> {
        let mut request = link_request();
        request[4..8].copy_from_slice(&index.to_ne_bytes());
        match self.link(&request, veth) {
            Ok(found) => Ok(found.map(|(_, veth)| veth)),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(source) => Err(InterfacesError::Dump {
                what: format!("the interface with index {index}"),
                source,
            }),
        }
    }

    fn links(&mut self) -> Result<Links, InterfacesError> {
        self.consistent(
            libc::RTM_GETLINK,
            &link_request(),
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

    /// Dumps a list, again as long as the kernel says that it changed meanwhile.
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
                .requests
                .dump(kind, request, |kind, message| each(&mut found, kind, message))
                .map_err(failed)?;
            if consistent || attempt == ATTEMPTS {
                return Ok(found);
            }
        }
        unreachable!("the last attempt returns")
    }
}

/// Returns a request for links without their counters, which take long to add up.
fn link_request() -> Vec<u8> {
    let mut request = vec![0; INTERFACE_MESSAGE_BYTES];
    push_attribute(
        &mut request,
        IFLA_EXT_MASK,
        &RTEXT_FILTER_SKIP_STATS.to_ne_bytes(),
    );
    request
}

/// Returns the addresses of the bridge that a veth is a port of.
fn gateways(veth: &Veth, on_node: &Addresses) -> BTreeSet<IpAddr> {
    let bridge = veth.bridge.and_then(|bridge| on_node.get(&bridge));
    bridge.cloned().unwrap_or_default()
}

/// Parses a route message; `None` for a default or multipath route.
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

/// Parses an address message; `None` if it does not carry the requested namespace id. In a pod's
/// namespace only assigned addresses count: any pod on the link may advertise itself as a router,
/// and so give others addresses before they have their own (rule A8).
fn address(message: &[u8], namespace: Option<i32>) -> Option<(u32, IpAddr)> {
    let index = u32_at(message, 4)?;
    let mut flags = u32::from(*message.get(2)?);
    let mut advertised = false;
    let (mut local, mut address, mut from) = (None, None, None);
    for (kind, value) in attributes(message.get(ADDRESS_MESSAGE_BYTES..)?) {
        match kind {
            IFA_LOCAL => local = ip(value),
            IFA_ADDRESS => address = ip(value),
            IFA_FLAGS => flags = u32_at(value, 0)?,
            IFA_PROTO => advertised = value.first() == Some(&IFAPROT_KERNEL_RA),
            IFA_TARGET_NETNSID => from = u32_at(value, 0).map(u32::cast_signed),
            _ => {}
        }
    }
    let given = flags & IFA_F_PERMANENT != 0 && !advertised;
    if namespace.is_some() && !given {
        return None;
    }
    // On a point-to-point interface `IFA_ADDRESS` is the other end.
    (from == namespace).then_some((index, local.or(address)?))
}

/// Returns the addresses that may identify a pod: those on the peer or, if that has none and is the
/// only veth there, all in its namespace. A pod may have them on a bridge inside.
fn addresses_of(veth: &Veth, behind: &Addresses, alone: bool) -> BTreeSet<IpAddr> {
    let counting = |addresses: &BTreeSet<IpAddr>| -> BTreeSet<IpAddr> {
        let all = addresses.iter().copied();
        all.filter(|address| !address.is_loopback() && !is_link_local(*address))
            .collect()
    };
    let on_peer = behind.get(&veth.peer).map(counting).unwrap_or_default();
    if !on_peer.is_empty() || !alone {
        return on_peer;
    }
    behind.values().flat_map(counting).collect()
}

/// Returns the device that has the pod's addresses and sends by the veth: its peer, or a bridge
/// over that.
fn holder(veth: &Veth, behind: &Addresses, addresses: &BTreeSet<IpAddr>) -> u32 {
    let has = |index: &u32| behind.get(index).is_some_and(|on| !on.is_disjoint(addresses));
    if has(&veth.peer) {
        return veth.peer;
    }
    let mut others = behind.keys().copied().filter(has);
    others
        .next()
        .filter(|_| others.next().is_none())
        .unwrap_or(veth.peer)
}

fn link_locals_of(device: u32, behind: &Addresses) -> BTreeSet<Ipv6Addr> {
    let on_device = behind.get(&device).into_iter().flatten();
    on_device
        .filter_map(|address| match address {
            IpAddr::V6(address) if address.is_unicast_link_local() => Some(*address),
            _ => None,
        })
        .collect()
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
