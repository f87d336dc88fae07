// SPDX-License-Identifier: Apache-2.0
//! Multicast membership messages between hosts and routers of a link: MLD and IGMP, as Linux sends
//! them.

/// An MLD message.
#[derive(Debug, Clone)]
pub struct Mld<'a> {
    /// MAC address of the sender.
    pub mac: [u8; 6],
    /// Source address.
    pub source: [u8; 16],
    /// Destination: the group.
    pub destination: [u8; 16],
    /// Type: 130 to 132, or 143.
    pub kind: u8,
    /// Content after the first eight bytes.
    pub behind: &'a [u8],
}

impl Mld<'_> {
    /// Returns the frame, with the checksum that receivers require.
    pub fn frame(&self) -> Vec<u8> {
        let mut message = vec![self.kind, 0, 0, 0, 0, 0, 0, u8::from(self.kind == 143)];
        message.extend(self.behind);
        let pseudo = [
            &self.source[..],
            &self.destination,
            &[0, 0, 0, message.len() as u8, 0, 0, 0, 58],
        ];
        let sum = checksum(&[&pseudo.concat()[..], &message].concat());
        message[2..4].copy_from_slice(&sum);
        let mut frame = [
            &[0x33, 0x33][..],
            &self.destination[12..],
            &self.mac,
            &[0x86, 0xdd],
        ]
        .concat();
        frame.extend([0x60, 0, 0, 0, 0, 8 + message.len() as u8, 0, 1]);
        frame.extend(self.source);
        frame.extend(self.destination);
        frame.extend([58, 0, 5, 2, 0, 0, 1, 0]);
        frame.extend(message);
        frame
    }
}

/// An IGMP message.
#[derive(Debug, Clone)]
pub struct Igmp<'a> {
    /// MAC address of the sender.
    pub mac: [u8; 6],
    /// Source address.
    pub source: [u8; 4],
    /// Destination: the group.
    pub destination: [u8; 4],
    /// Type: 0x11, 0x12, 0x16, 0x17 or 0x22.
    pub kind: u8,
    /// Content after the first four bytes.
    pub behind: &'a [u8],
}

impl Igmp<'_> {
    /// Returns the frame.
    pub fn frame(&self) -> Vec<u8> {
        let mut message = [&[self.kind, 0, 0, 0][..], self.behind].concat();
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum);
        let [_, b, c, d] = self.destination;
        let mut frame = [&[1, 0, 0x5e, b & 0x7f, c, d][..], &self.mac, &[0x08, 0x00]].concat();
        let mut header = vec![0x46, 0xc0, 0, 24 + message.len() as u8, 0, 0, 0x40, 0, 1, 2, 0, 0];
        header.extend(self.source);
        header.extend(self.destination);
        header.extend([0x94, 4, 0, 0]);
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum);
        frame.extend(header);
        frame.extend(message);
        frame
    }
}

/// Returns a message of each kind, by name, from an endpoint that the tests have.
pub fn messages() -> Vec<(&'static str, Vec<u8>)> {
    const LINK_LOCAL: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8];
    const GROUP: [u8; 16] = link_scope(0xfb);
    let mld = |kind, destination, behind: &[u8]| {
        let message = Mld {
            mac: super::MAC,
            source: LINK_LOCAL,
            destination,
            kind,
            behind,
        };
        message.frame()
    };
    let igmp = |kind, destination, behind: &[u8]| {
        let message = Igmp {
            mac: super::MAC,
            source: [10, 244, 0, 8],
            destination,
            kind,
            behind,
        };
        message.frame()
    };
    let record = [&[4, 0, 0, 0][..], &GROUP].concat();
    vec![
        ("mld-query", mld(130, link_scope(1), &[0; 16])),
        (
            "mld-query-2",
            mld(130, link_scope(1), &[&[0; 16][..], &[2, 125, 0, 0]].concat()),
        ),
        ("mld-report", mld(131, GROUP, &GROUP)),
        ("mld-done", mld(132, link_scope(2), &GROUP)),
        ("mld-report-2", mld(143, link_scope(0x16), &record)),
        (
            "igmp-query",
            igmp(0x11, [224, 0, 0, 1], &[0, 0, 0, 0, 2, 125, 0, 0]),
        ),
        ("igmp-report", igmp(0x16, [224, 0, 0, 251], &[224, 0, 0, 251])),
        ("igmp-leave", igmp(0x17, [224, 0, 0, 2], &[224, 0, 0, 251])),
        (
            "igmp-report-3",
            igmp(0x22, [224, 0, 0, 22], &[0, 0, 0, 1, 4, 0, 0, 0, 224, 0, 0, 251]),
        ),
    ]
}

/// Returns the group `ff02::` with a last byte.
pub const fn link_scope(group: u8) -> [u8; 16] {
    [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, group]
}

/// Computes the Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|word| match *word {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        [high] => u32::from(high) << 8,
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}
