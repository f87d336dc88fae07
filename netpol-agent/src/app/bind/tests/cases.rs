// SPDX-License-Identifier: Apache-2.0
//! Fixed cases.

use super::*;

const A: &str = "10.0.0.1";
const B: &str = "10.0.0.2";
const A6: &str = "fd00::1";

#[test]
fn a8_a_pod_is_behind_the_interface_that_has_its_address() {
    let mut stage = Stage::default();
    stage.veth(1, &[A, A6]);
    stage.veth(2, &[]);
    stage.pod("a", "ua", &[A, A6]);
    stage.pod("b", "ub", &[B]);
    let bound = stage.bind();
    assert_eq!(told(&bound), "1:a");
    assert_eq!(why(&bound, "a"), "bound {1}");
    assert!(why(&bound, "b").starts_with("no veth of this node leads to it"));
    let link = &bound.links[&1];
    let own = eui64([6, 0, 0, 0, 0, 1]);
    assert_eq!((link.mac, link.link_local), ([6, 0, 0, 0, 0, 1], Some(own)));
    // The CNI plugin assigns the address a moment after it makes the link.
    stage.veth(2, &[B]);
    assert_eq!(told(&stage.bind()), "1:a 2:b");
}

#[test]
fn a8_what_is_bound_stays_bound() {
    let mut stage = Stage::default();
    stage.veth(1, &[A]);
    stage.pod("a", "ua", &[A]);
    let first = stage.bind();
    // The pod changes the addresses inside, the MAC, and the namespace of its end.
    for addresses in [&[][..], &[B], &[A, B]] {
        let veth = stage.veth(1, addresses);
        veth.peer_mac = Some([0xee; 6]);
        veth.link_locals = BTreeSet::from(["fe80::bad".parse().unwrap()]);
        veth.namespace += 40;
        assert_eq!(stage.bind().links, first.links);
    }
    // Another pod claims an address that is seen there.
    stage.pod("b", "ub", &[B]);
    assert_eq!(told(&stage.bind()), "1:a");
    // The pod's object disappears for a while, and returns with another address.
    let mut gone = stage.pods.remove(&key("a")).unwrap();
    assert_eq!(told(&stage.bind()), "");
    stage.restart();
    gone.addresses = ips(&["10.0.0.9"]).into_iter().collect();
    stage.pods.insert(key("a"), gone);
    assert_eq!(told(&stage.bind()), "1:a");
    // A pod of the same name, as a StatefulSet makes it, is another pod.
    stage.pod("a", "ua2", &[A]);
    let bound = stage.bind();
    assert_eq!(told(&bound), "");
    assert!(why(&bound, "a").starts_with("no veth"));
    stage.veth(3, &[A]);
    assert_eq!(told(&stage.bind()), "3:a");
}

#[test]
fn a8_a_pod_does_not_become_another_by_taking_its_address() {
    for restart in [false, true] {
        let mut stage = Stage::default();
        stage.veth(1, &[A]);
        stage.pod("mallory", "um", &[A]);
        stage.bind();
        stage.veth(1, &[A, B]);
        stage.bind();
        if restart {
            stage.restart();
        }
        stage.veth(2, &[B]);
        stage.pod("victim", "uv", &[B]);
        assert_eq!(told(&stage.bind()), "1:mallory 2:victim");
        // The agent starts only now and knows nothing.
        stage.forget();
        assert_eq!(told(&stage.bind()), "1:mallory 2:victim");
        // It gave its own address away, so this cannot be decided. What may be the other's passes
        // nothing.
        stage.forget();
        stage.veth(1, &[B]);
        let bound = stage.bind();
        assert_eq!(told(&bound), "1:!victim 2:!victim");
        let told_why = why(&bound, "victim");
        assert!(
            told_why.starts_with("it cannot be told which pod is behind veth1, veth2"),
            "{told_why}"
        );
        assert!(why(&bound, "mallory").starts_with("no veth"));
        // The runtime's record decides.
        stage.record(2, "victim", "uv", &[B]);
        assert_eq!(told(&stage.bind()), "2:victim");
        stage.record(1, "mallory", "um", &[A]);
        assert_eq!(told(&stage.bind()), "1:mallory 2:victim");
    }
}

#[test]
fn a8_the_address_of_a_pod_that_hangs_in_deletion_is_used_again() {
    // In either order of names.
    for (old, new) in [("a-old", "b-new"), ("b-old", "a-new")] {
        let mut stage = Stage::default();
        stage.veth(1, &[A]);
        stage.pod(old, "uo", &[A]);
        assert_eq!(told(&stage.bind()), format!("1:{old}"));
        // Its sandbox is gone, but a finalizer keeps the object.
        stage.pods.get_mut(&key(old)).unwrap().terminating = true;
        stage.interfaces.pods.remove(&1);
        stage.bind();
        stage.veth(2, &[A]);
        stage.pod(new, "un", &[A]);
        let bound = stage.bind();
        assert_eq!(told(&bound), format!("2:{new}"));
        let expected = format!("its address {A} is that of pod ns/{new}, behind an interface of its own");
        assert_eq!(why(&bound, old), expected);
        stage.restart();
        assert_eq!(told(&stage.bind()), format!("2:{new}"));
        stage.forget();
        assert_eq!(told(&stage.bind()), format!("2:{new}"));
        // The old pod's record may remain, with an interface name that is used again.
        stage.record(2, old, "uo", &[A]).on_node = vec![("veth2".to_owned(), [9; 6])];
        stage.record(2, new, "un", &[A]);
        stage.forget();
        assert_eq!(told(&stage.bind()), format!("2:{new}"));
        // If nothing tells which of two live pods it is, it counts as both.
        stage.records.clear();
        stage.pods.get_mut(&key(old)).unwrap().terminating = false;
        stage.forget();
        let bound = stage.bind();
        let link = &bound.links[&2];
        assert!(link.rivals.len() == 1 && !link.closed, "{bound:?}");
    }
}

#[test]
fn a8_the_record_comes_before_addresses_and_outlives_itself() {
    let mut stage = Stage::default();
    stage.veth(1, &[B]);
    stage.veth(2, &[A]);
    stage.record(1, "a", "ua", &[A]);
    stage.record(2, "b", "ub", &[B]).mac = Some([7; 6]);
    assert_eq!(told(&stage.bind()), "", "no pod is known yet");
    stage.records.clear();
    stage.restart();
    stage.pod("a", "ua", &[A]);
    stage.pod("b", "ub", &[B]);
    let bound = stage.bind();
    assert_eq!(told(&bound), "1:a 2:b");
    assert_eq!(bound.links[&2].mac, [7; 6]);
    // A record corrects what was seen, and a newer record corrects it.
    let mut stage = Stage::default();
    stage.veth(1, &[A]);
    stage.pod("a", "ua", &[A]);
    stage.pod("b", "ub", &[B]);
    assert_eq!(told(&stage.bind()), "1:a");
    stage.record(1, "b", "ub", &[B]);
    assert_eq!(told(&stage.bind()), "1:b");
    stage.record(1, "a", "ua", &[A]);
    assert_eq!(told(&stage.bind()), "1:a");
}

#[test]
fn a8_a_record_of_another_interface_or_pod_says_nothing() {
    let mut stage = Stage::default();
    stage.veth(1, &[A]);
    stage.pod("a", "ua", &[A]);
    stage.pod("b", "ub", &[B]);
    stage.record(1, "b", "ub", &[B]).on_node = vec![("veth1".to_owned(), [9; 6])];
    stage.record(1, "b", "ub", &[B]).on_node = vec![("veth9".to_owned(), [2, 0, 0, 0, 0, 1])];
    stage.record(1, "b", "ub", &[B]).on_node = Vec::new();
    let bound = stage.bind();
    assert_eq!(told(&bound), "1:a");
    let no_veth = "the interface that the CNI plugins of network cbr0 made for it is no veth of this node";
    assert_eq!(why(&bound, "b"), no_veth);
    // A record without a UID counts only for a pod with its addresses.
    let mut stage = Stage::default();
    stage.veth(1, &[]);
    stage.veth(2, &[]);
    stage.pod("a", "ua", &[A]);
    stage.pod("b", "ub", &[B]);
    stage.record(1, "a", "", &[A]);
    stage.record(2, "b", "", &[A]);
    assert_eq!(told(&stage.bind()), "1:a");
}

#[test]
fn a8_a_static_pod_is_known_by_the_uid_that_its_kubelet_gave_it() {
    const HASH: &str = "0123456789abcdef0123456789abcdef";
    let mut stage = Stage::default();
    stage.veth(1, &[]);
    stage.record(1, "etcd-n1", HASH, &[A]);
    stage.pod("etcd-n1", "ua", &[A]).static_uid = Some(HASH.into());
    assert_eq!(told(&stage.bind()), "1:etcd-n1");
    // A pod cannot become another by writing that pod's UID into its annotation.
    let mut stage = Stage::default();
    stage.veth(1, &[]);
    stage.record(1, "victim", "uv", &[A]);
    stage.pod("mallory", "um", &[B]).static_uid = Some("uv".into());
    assert_eq!(told(&stage.bind()), "");
    stage.restart();
    assert_eq!(told(&stage.bind()), "");
}

#[test]
fn a8_an_index_that_is_used_again_is_another_interface() {
    let mut stage = Stage::default();
    stage.veth(1, &[A]);
    stage.pod("a", "ua", &[A]);
    stage.bind();
    stage.restart();
    stage.veth(1, &[B]).mac = [2, 9, 9, 9, 9, 9];
    stage.pod("b", "ub", &[B]);
    let bound = stage.bind();
    assert_eq!(told(&bound), "1:b");
    assert_eq!(bound.replaced, BTreeSet::from([1]));
    assert!(stage.bind().replaced.is_empty());
}

#[test]
fn a8_all_interfaces_into_a_pods_namespace_are_its_own() {
    let mut stage = Stage::default();
    stage.veth(1, &[A]);
    stage.veth(2, &["192.168.7.7"]).namespace = 1;
    stage.pod("a", "ua", &[A]);
    let bound = stage.bind();
    assert_eq!(told(&bound), "1:a 2:a");
    assert_eq!(bound.links[&1].addresses, None);
    assert_eq!(
        bound.links[&2].addresses,
        Some(vec!["192.168.7.7".parse().unwrap()])
    );
    // An interface that appears later, with another's address.
    stage.veth(3, &[B]).namespace = 1;
    stage.veth(4, &[B]);
    stage.pod("b", "ub", &[B]);
    assert_eq!(told(&stage.bind()), "1:a 2:a 3:a 4:b");
    // A second network with its own record.
    let mut stage = Stage::default();
    stage.veth(1, &[A]);
    stage.veth(2, &[]).namespace = 1;
    stage.pod("a", "ua", &[A]);
    stage.record(1, "a", "ua", &[A]);
    stage.record(2, "a", "ua", &["192.168.7.7"]).interface = "net1".to_owned();
    let bound = stage.bind();
    assert_eq!(told(&bound), "1:a 2:a");
    let second: Vec<IpAddr> = vec!["192.168.7.7".parse().unwrap()];
    assert_eq!(
        (&bound.links[&1].addresses, &bound.links[&2].addresses),
        (&None, &Some(second))
    );
}

#[test]
fn a8_two_pods_of_one_address_get_no_more_than_both() {
    let mut stage = Stage::default();
    stage.veth(1, &[A]);
    stage.veth(2, &[A]);
    stage.pod("a", "ua", &[A]);
    stage.pod("b", "ub", &[A]);
    let bound = stage.bind();
    assert_eq!(told(&bound), "1:?a|b 2:?a|b");
    assert_eq!(bound.links[&1].addresses, Some(vec![A.parse().unwrap()]));
    // The kernel's endpoints decide, as far as they go.
    stage.pod("b", "ub", &[A, A6]);
    let ours = abi::Endpoint {
        ipv4: [10, 0, 0, 1],
        ipv6: "fd00::1".parse::<Ipv6Addr>().unwrap().octets(),
        ..abi::Endpoint::default()
    };
    stage.holds.insert(1, ours);
    stage.forget();
    assert_eq!(told(&stage.bind()), "1:b 2:a");
}

/// Seen in practice: a pod without a link-local address took the bridge's.
#[test]
fn a6_no_pod_has_a_link_local_address_of_the_node() {
    let (of_node, own): (Ipv6Addr, Ipv6Addr) = ("fe80::1".parse().unwrap(), "fe80::2".parse().unwrap());
    let mut stage = Stage::default();
    stage.pod("a", "ua", &[A]);
    stage.interfaces.node_addresses.insert(of_node.into());
    stage.veth(1, &[A]).link_locals = BTreeSet::from([of_node]);
    assert_eq!(stage.bind().links[&1].link_local, None);
    stage.veth(1, &[A]).link_locals = BTreeSet::from([of_node, own]);
    assert_eq!(stage.bind().links[&1].link_local, Some(own));
    // The pod had the address before the node did.
    stage.interfaces.node_addresses = BTreeSet::from([own.into()]);
    assert_eq!(stage.bind().links[&1].link_local, Some(of_node));
    stage.veth(1, &[A]).link_locals = BTreeSet::from([own]);
    stage.interfaces.node_addresses.insert(of_node.into());
    assert_eq!(stage.bind().links[&1].link_local, None);
}

/// Seen in practice: a pod learnt a new pod's future address from its duplicate address detection,
/// and took it.
#[test]
fn a6_no_pod_has_the_link_local_address_of_a_new_interface() {
    let mut stage = Stage::default();
    stage.pod("a", "ua", &[A]);
    let of_new = eui64([6, 0, 0, 0, 0, 2]);
    stage.veth(2, &[]);
    stage.veth(1, &[A]).link_locals = BTreeSet::from([of_new]);
    assert_eq!(stage.bind().links[&1].link_local, None);
    stage.veth(2, &[B]);
    stage.pod("b", "ub", &[B]);
    let bound = stage.bind();
    let found = [1, 2].map(|ifindex| bound.links[&ifindex].link_local);
    assert_eq!(found, [None, Some(of_new)]);
}

#[test]
fn a6_no_two_interfaces_have_one_link_local_address() {
    let (one, two): (Ipv6Addr, Ipv6Addr) = ("fe80::1".parse().unwrap(), "fe80::2".parse().unwrap());
    let mut stage = Stage::default();
    stage.veth(1, &[A]).link_locals = BTreeSet::from([one]);
    stage.veth(2, &[B]).link_locals = BTreeSet::from([one, two]);
    stage.pod("a", "ua", &[A]);
    stage.pod("b", "ub", &[B]);
    let bound = stage.bind();
    let found = [1, 2].map(|ifindex| bound.links[&ifindex].link_local);
    assert_eq!(found, [Some(one), Some(two)]);
    assert_eq!(bound.link_locals()[&key("b")], BTreeSet::from([two]));
    // Another's address does not count. The first of its own does.
    stage.forget();
    stage.veth(2, &[B]).link_locals = BTreeSet::from([one]);
    let bound = stage.bind();
    assert_eq!(bound.links[&2].link_local, None);
    assert_eq!(bound.settled(), BTreeSet::from([1]));
    stage.veth(2, &[B]).link_locals = BTreeSet::from([two]);
    assert_eq!(stage.bind().links[&2].link_local, Some(two));
}

/// A pod's containers may run before the API shows its address, and take another's MAC address.
#[test]
fn a6_a_mac_address_is_that_of_the_first_addresses_or_the_records() {
    let own = [6, 0, 0, 0, 0, 1];
    for recorded in [false, true] {
        let mut stage = Stage::default();
        stage.veth(1, &[A]);
        stage.bind();
        stage.veth(1, &[A]).peer_mac = Some([0xee; 6]);
        stage.bind();
        stage.restart();
        if recorded {
            stage.record(1, "a", "ua", &[A]);
        }
        stage.pod("a", "ua", &[A]);
        assert_eq!(stage.bind().links[&1].mac, own, "recorded: {recorded}");
    }
    // Only the record has the MAC address that a later plugin in the chain set.
    let mut stage = Stage::default();
    stage.veth(1, &[A]);
    stage.pod("a", "ua", &[A]);
    assert_eq!(stage.bind().links[&1].mac, own);
    stage.record(1, "a", "ua", &[A]).mac = Some([0xa0; 6]);
    assert_eq!(stage.bind().links[&1].mac, [0xa0; 6]);
    // A record without a MAC address.
    let mut stage = Stage::default();
    stage.veth(1, &[A]);
    stage.record(1, "a", "ua", &[A]).mac = None;
    stage.pod("a", "ua", &[A]);
    assert_eq!(stage.bind().links[&1].mac, own);
}
