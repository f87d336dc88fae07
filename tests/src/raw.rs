// SPDX-License-Identifier: Apache-2.0
//! A packet socket on a device: sends frames that ordinary sockets cannot make, and sees what
//! really arrives.

use std::{
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    libc,
    net::if_::if_nametoindex,
    sys::{
        socket::{
            AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, bind, recv, send,
            setsockopt, socket, sockopt,
        },
        time::{TimeVal, TimeValLike},
    },
};

use crate::netns::NetNs;

const ETHERNET: usize = 14;

/// A fragment of an IP packet.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// The number that all fragments share.
    pub identification: u16,
    /// Offset, bytes; a multiple of 8.
    pub offset: u16,
    /// True if others follow.
    pub more: bool,
}

/// A packet socket.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    mac: [u8; 6],
}

impl Wire {
    /// Opens one on a device of a namespace.
    ///
    /// # Errors
    /// If there is no such device.
    pub fn open(netns: &NetNs, device: &str) -> Result<Self> {
        let mac = mac(netns, device)?;
        let socket = netns
            .run(|| {
                // Protocol 0: receives nothing until it is bound to the device.
                let flags = SockFlag::SOCK_CLOEXEC;
                let fd = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
                setsockopt(&fd, sockopt::RcvBufForce, &(8 << 20))?;
                bind(fd.as_raw_fd(), &everything_at(if_nametoindex(device)?)?)?;
                Ok(fd)
            })
            .with_context(|| format!("opening a packet socket on {device} of {}", netns.name()))?;
        Ok(Self { socket, mac })
    }

    /// Returns the device's MAC address.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Sends an IP packet in a frame to a MAC address.
    ///
    /// # Errors
    /// If the device refuses.
    pub fn send(&self, to: [u8; 6], packet: &[u8]) -> Result<()> {
        let ether_type: [u8; 2] = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
        let frame = [&to[..], &self.mac, &ether_type, packet].concat();
        send(self.socket.as_raw_fd(), &frame, MsgFlags::empty()).context("sending a frame")?;
        Ok(())
    }

    /// Returns the IP packets that pass the device, in both directions, until `enough` accepts one,
    /// or none has come for `patience`.
    ///
    /// # Errors
    /// If the device is gone.
    pub fn listen(&self, patience: Duration, enough: impl Fn(&[u8]) -> bool) -> Result<Vec<Vec<u8>>> {
        let mut packets = Vec::new();
        let until = Instant::now() + patience;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(packets);
            }
            let left = TimeVal::microseconds(left.as_micros().max(1) as i64);
            setsockopt(&self.socket, sockopt::ReceiveTimeout, &left)?;
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) if length > ETHERNET => {
                    let packet = buffer[ETHERNET..length].to_vec();
                    let last = enough(&packet);
                    packets.push(packet);
                    if last {
                        return Ok(packets);
                    }
                }
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => return Ok(packets),
                Err(error) => return Err(error).context("receiving a frame"),
            }
        }
    }
}

/// Returns the address for all protocols at a device.
fn everything_at(index: u32) -> Result<LinkAddr> {
    // SAFETY: a structure of integers and bytes, for which zeros are valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index.cast_signed();
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the pointer is to a whole address of that length, of the family that its first field
    // says.
    unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(length)) }.context("a link layer address")
}

fn mac(netns: &NetNs, device: &str) -> Result<[u8; 6]> {
    let output = netns.run(|| {
        let mut ip = Command::new("ip");
        Ok(ip.args(["-o", "link", "show", "dev", device]).output()?)
    })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut words = text.split_whitespace().skip_while(|word| *word != "link/ether");
    let octets = words
        .nth(1)
        .with_context(|| format!("{device} has no MAC address: {text}"))?;
    let mut mac = [0; 6];
    for (octet, digits) in mac.iter_mut().zip(octets.split(':')) {
        *octet = u8::from_str_radix(digits, 16)?;
    }
    Ok(mac)
}

/// Builds an IP packet. A fragment of an IPv6 packet has a fragment header.
///
/// # Panics
/// If the addresses are of two families.
pub fn ip(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8], part: Option<Part>) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = vec![0x45, 0];
            header.extend((20 + payload.len() as u16).to_be_bytes());
            let part = part.unwrap_or(Part {
                identification: 1,
                offset: 0,
                more: false,
            });
            header.extend(part.identification.to_be_bytes());
            header.extend(((part.offset / 8) | (u16::from(part.more) << 13)).to_be_bytes());
            header.extend([64, protocol, 0, 0]);
            header.extend(source.octets());
            header.extend(destination.octets());
            let sum = checksum(&header, 0);
            header[10..12].copy_from_slice(&sum);
            [&header[..], payload].concat()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let extension = part.map(|part| {
                let mut header = vec![protocol, 0];
                header.extend((part.offset | u16::from(part.more)).to_be_bytes());
                header.extend(u32::from(part.identification).to_be_bytes());
                header
            });
            let next = if extension.is_some() { 44 } else { protocol };
            let extension = extension.unwrap_or_default();
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(((extension.len() + payload.len()) as u16).to_be_bytes());
            header.extend([next, 64]);
            header.extend(source.octets());
            header.extend(destination.octets());
            [&header[..], &extension, payload].concat()
        }
        _ => panic!("{source} and {destination} are of two families"),
    }
}

/// Builds a UDP header with its payload.
pub fn udp(source: IpAddr, destination: IpAddr, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len() as u16).to_be_bytes();
    let mut segment = [
        &ports.0.to_be_bytes()[..],
        &ports.1.to_be_bytes(),
        &length,
        &[0, 0],
    ]
    .concat();
    segment.extend(payload);
    let sum = checksum(&segment, pseudo(source, destination, 17, segment.len()));
    segment[6..8].copy_from_slice(&sum);
    segment
}

/// Builds a TCP header without options, of a segment without data.
pub fn tcp(source: IpAddr, destination: IpAddr, ports: (u16, u16), flags: u8) -> Vec<u8> {
    let mut segment = [&ports.0.to_be_bytes()[..], &ports.1.to_be_bytes(), &[0; 8]].concat();
    segment.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    let sum = checksum(&segment, pseudo(source, destination, 6, segment.len()));
    segment[16..18].copy_from_slice(&sum);
    segment
}

/// Builds an SCTP packet: ports, and a verification tag with chunks ([`sctp_chunk`]), with the
/// checksum between them (RFC 9260, 3.1).
pub fn sctp(ports: (u16, u16), tag_and_chunks: &[u8]) -> Vec<u8> {
    let (tag, chunks) = tag_and_chunks.split_at(4);
    let head = [&ports.0.to_be_bytes()[..], &ports.1.to_be_bytes(), tag].concat();
    let mut packet = [&head[..], &[0; 4], chunks].concat();
    let sum = crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&sum);
    packet
}

/// Builds a verification tag and a chunk; the length of its value must be a multiple of 4.
pub fn sctp_chunk(tag: u32, kind: u8, value: &[u8]) -> Vec<u8> {
    let length = (4 + value.len() as u16).to_be_bytes();
    [&tag.to_be_bytes()[..], &[kind, 0], &length, value].concat()
}

/// Builds an echo request or reply of the family. Returns its protocol number too.
pub fn echo(
    source: IpAddr,
    destination: IpAddr,
    request: bool,
    identifier: u16,
    payload: &[u8],
) -> (u8, Vec<u8>) {
    let kind = match (source.is_ipv4(), request) {
        (true, true) => 8,
        (true, false) => 0,
        (false, true) => 128,
        (false, false) => 129,
    };
    let [high, low] = identifier.to_be_bytes();
    icmp(source, destination, [kind, 0], [high, low, 0, 1], payload)
}

/// Builds an ICMP or ICMPv6 error of the family, without IP header: `port unreachable` about
/// `quoted`.
pub fn unreachable(source: IpAddr, destination: IpAddr, quoted: &[u8]) -> (u8, Vec<u8>) {
    let kind = if source.is_ipv4() { [3, 3] } else { [1, 4] };
    icmp(source, destination, kind, [0; 4], quoted)
}

/// Builds an ICMP or ICMPv6 message of a type and code, without IP header. Returns its protocol
/// number too.
pub fn icmp(
    source: IpAddr,
    destination: IpAddr,
    kind: [u8; 2],
    rest: [u8; 4],
    payload: &[u8],
) -> (u8, Vec<u8>) {
    let protocol = if source.is_ipv4() { 1 } else { 58 };
    let mut message = [&kind[..], &[0, 0], &rest, payload].concat();
    let start = if source.is_ipv4() {
        0
    } else {
        pseudo(source, destination, protocol, message.len())
    };
    let sum = checksum(&message, start);
    message[2..4].copy_from_slice(&sum);
    (protocol, message)
}

/// Returns source and destination of an IP packet.
pub fn addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let v4 = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
    let v6 = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
    match packet.first()? >> 4 {
        4 => Some((v4(12)?, v4(16)?)),
        6 => Some((v6(8)?, v6(24)?)),
        _ => None,
    }
}

/// Returns a packet's content after its headers, including the fragment header.
pub fn payload(packet: &[u8]) -> &[u8] {
    let offset = match (packet.first().map_or(0, |byte| byte >> 4), packet.get(6)) {
        (4, _) => 20,
        (6, Some(44)) => 48,
        _ => 40,
    };
    packet.get(offset..).unwrap_or_default()
}

fn pseudo(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u32 {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let both = [octets(source), octets(destination)].concat();
    let words = both
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    words.sum::<u32>() + u32::from(protocol) + length as u32
}

fn checksum(bytes: &[u8], start: u32) -> [u8; 2] {
    let words = bytes.chunks(2).map(|pair| {
        let low = pair.get(1).copied().unwrap_or_default();
        u32::from(u16::from_be_bytes([pair[0], low]))
    });
    let mut sum = start + words.sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// Computes the checksum of SCTP (RFC 9260, appendix A), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = (sum >> 1) ^ if sum & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    !sum
}
