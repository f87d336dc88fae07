// SPDX-License-Identifier: Apache-2.0
//! Numbers in headers, by their IANA names.

/// IANA protocol numbers.
pub mod protocol {
    #![expect(missing_docs, reason = "the names say it all")]
    pub const HOP_BY_HOP: u8 = 0;
    pub const ICMP: u8 = 1;
    pub const IGMP: u8 = 2;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const AH: u8 = 51;
    pub const ICMPV6: u8 = 58;
    pub const DESTINATION_OPTIONS: u8 = 60;
    pub const SCTP: u8 = 132;
}

/// EtherTypes, as the two bytes of a frame.
pub mod ether_type {
    #![expect(missing_docs, reason = "the names say it all")]
    pub const IPV4: [u8; 2] = [0x08, 0x00];
    pub const ARP: [u8; 2] = [0x08, 0x06];
    pub const IPV6: [u8; 2] = [0x86, 0xdd];
    /// A VLAN tag follows (IEEE 802.1Q).
    pub const VLAN: [u8; 2] = [0x81, 0x00];
    /// The tag of a provider's VLAN follows (IEEE 802.1ad).
    pub const PROVIDER_VLAN: [u8; 2] = [0x88, 0xa8];
}

/// Types of ICMP messages.
pub(super) mod icmp {
    pub(crate) const ECHO_REPLY: u8 = 0;
    pub(crate) const DESTINATION_UNREACHABLE: u8 = 3;
    pub(crate) const SOURCE_QUENCH: u8 = 4;
    pub(crate) const ECHO_REQUEST: u8 = 8;
    pub(crate) const TIME_EXCEEDED: u8 = 11;
    pub(crate) const PARAMETER_PROBLEM: u8 = 12;
}

/// Types of ICMPv6 messages.
pub(super) mod icmpv6 {
    pub(crate) const DESTINATION_UNREACHABLE: u8 = 1;
    pub(crate) const PARAMETER_PROBLEM: u8 = 4;
    pub(crate) const ECHO_REQUEST: u8 = 128;
    pub(crate) const ECHO_REPLY: u8 = 129;
    pub(crate) const MLD_QUERY: u8 = 130;
    pub(crate) const MLD_REPORT: u8 = 131;
    pub(crate) const MLD_DONE: u8 = 132;
    pub(crate) const ROUTER_SOLICITATION: u8 = 133;
    pub(crate) const REDIRECT: u8 = 137;
    pub(crate) const MLD_REPORT_V2: u8 = 143;
}

/// Types of IGMP messages.
pub(super) mod igmp {
    pub(crate) const QUERY: u8 = 0x11;
    pub(crate) const REPORT_V1: u8 = 0x12;
    pub(crate) const REPORT_V2: u8 = 0x16;
    pub(crate) const LEAVE: u8 = 0x17;
    pub(crate) const REPORT_V3: u8 = 0x22;
}
