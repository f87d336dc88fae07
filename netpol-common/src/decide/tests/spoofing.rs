// SPDX-License-Identifier: Apache-2.0
//! Tests that a pod sends only with its own address (rule A6).

use super::*;

const OWN6: [u8; 16] = [0xfd, 0, 0, 0x10, 0x02, 0x44, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0a];

fn from_source(source: Address, protocol: u8) -> Packet {
    Packet {
        source,
        destination: Address::from_ipv4(CLIENT),
        ..from_client(protocol, 80, 0)
    }
}

fn verdict(pod: &Endpoint, parsed: Parsed, packet: Packet) -> Verdict {
    decided(
        &Memory::default(),
        pod,
        at(Direction::Egress, false),
        parsed,
        packet,
    )
}

#[test]
fn a6_another_source_address_is_dropped_whoever_is_isolated() {
    let pod = Endpoint {
        ipv6: OWN6,
        ..endpoint(POLICY_UNRESTRICTED, POLICY_UNRESTRICTED)
    };
    let spoofed = Verdict::Drop(Drop {
        reason: DropReason::Spoofed,
        policy: NO_POLICY,
        identity: IDENTITY_NONE,
        whose: Whose::at_hook(&at(Direction::Egress, false)),
    });
    for own in [Address::from_ipv4(pod.ipv4), Address::from_ipv6(OWN6)] {
        assert_eq!(
            verdict(&pod, Parsed::Packet, from_source(own, protocol::UDP)),
            Verdict::Forward
        );
    }
    let mut neighbour = OWN6;
    neighbour[15] += 1;
    for other in [
        Address::from_ipv4(CLIENT),
        Address::from_ipv4(NODE),
        Address::from_ipv4([0; 4]),
        Address::from_ipv4([255; 4]),
        Address::from_ipv6(neighbour),
        Address::from_ipv6([0; 16]),
        Address::from_ipv6([0xff; 16]),
    ] {
        for parsed in [Parsed::Packet, Parsed::Unreadable(DropReason::Malformed)] {
            assert_eq!(
                verdict(&pod, parsed, from_source(other, protocol::UDP)),
                spoofed,
                "{other:?}"
            );
        }
    }
    let nameless = from_source(Address::from_ipv6([0; 16]), protocol::ICMPV6);
    assert_eq!(
        verdict(&pod, Parsed::Packet, nameless),
        spoofed,
        "an echo request of nobody"
    );
    assert_eq!(
        verdict(&pod, Parsed::Neighbour, nameless),
        Verdict::Forward,
        "it has no address yet"
    );
}

#[test]
fn a6_a_pod_without_an_address_of_a_family_has_none_to_send_with() {
    let pod = endpoint(POLICY_UNRESTRICTED, POLICY_UNRESTRICTED);
    for source in [Address::from_ipv6(OWN6), Address::from_ipv6([0; 16])] {
        let packet = from_source(source, protocol::TCP);
        assert!(matches!(verdict(&pod, Parsed::Packet, packet), Verdict::Drop(_)));
    }
    let only_ipv6 = Endpoint {
        ipv4: [0; 4],
        ipv6: OWN6,
        ..pod
    };
    let packet = from_source(Address::from_ipv4([0; 4]), protocol::UDP);
    assert!(matches!(
        verdict(&only_ipv6, Parsed::Packet, packet),
        Verdict::Drop(_)
    ));
}

#[test]
fn a6_frames_that_are_no_ip_packets_have_no_source_to_forge() {
    let pod = endpoint(POLICY_UNRESTRICTED, POLICY_DENY);
    let arp = verdict(&pod, Parsed::Neighbour, Packet::default());
    assert_eq!(arp, Verdict::Forward);
    let open = endpoint(POLICY_DENY, POLICY_UNRESTRICTED);
    let vlan = verdict(&open, Parsed::Unreadable(DropReason::Vlan), Packet::default());
    assert_eq!(vlan, Verdict::Forward);
}

#[test]
fn a6_what_a_pod_receives_has_any_source() {
    let pod = endpoint(POLICY_UNRESTRICTED, POLICY_DENY);
    let tables = Memory::default();
    assert!(receives(&tables, &pod, from_client(protocol::UDP, 80, 0)));
}
