// SPDX-License-Identifier: Apache-2.0
//! Properties of port ranges and of the regions that CIDRs cut out.

use std::{collections::BTreeMap, net::IpAddr};

use proptest::prelude::*;

use super::{super::ports, build::*};

proptest! {
    #[test]
    fn t3_blocks_cover_the_range_exactly(a in any::<u16>(), b in any::<u16>()) {
        let (first, last) = (a.min(b), a.max(b));
        let mut next = u32::from(first);
        for (port, prefix_len) in ports::aligned(first, last) {
            let size = 1u32 << (16 - prefix_len);
            prop_assert_eq!(u32::from(port), next);
            prop_assert_eq!(next % size, 0);
            next += size;
        }
        prop_assert_eq!(next, u32::from(last) + 1);
    }

    #[test]
    fn t3_merged_ranges_hold_the_same_ports(ranges in prop::collection::vec((0u16..60, 0u16..9), 0..9)) {
        let ranges: Vec<_> = ranges.into_iter().map(|(first, more)| (first, first + more)).collect();
        let held = |ranges: &[(u16, u16)], port| ranges.iter().any(|&(first, last)| (first..=last).contains(&port));
        let merged = ports::merge(ranges.clone());
        for port in 0..80 {
            prop_assert_eq!(held(&ranges, port), held(&merged, port));
        }
        prop_assert!(merged.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
    }

    #[test]
    fn p5_every_address_has_the_blocks_that_hold_it(
        blocks in prop::collection::vec((0u8..=255, 24u8..=32, prop::collection::vec((0u8..=255, 1u8..=4), 0..3)), 1..8)
    ) {
        let mut expected = BTreeMap::new();
        let mut rules = Vec::new();
        for (index, (host, length, excepts)) in blocks.iter().enumerate() {
            let cidr: ipnet::IpNet = format!("10.0.0.{host}/{length}").parse().unwrap();
            let cidr = cidr.trunc();
            let excepts: Vec<ipnet::IpNet> = excepts
                .iter()
                .filter(|(_, more)| length + more <= 32)
                .map(|(host, more)| {
                    let inner = host & 255u8.checked_shr(u32::from(length - 24)).unwrap_or(0);
                    let IpAddr::V4(base) = cidr.addr() else { unreachable!() };
                    let text = format!("10.0.0.{}/{}", base.octets()[3] | inner, length + more);
                    text.parse::<ipnet::IpNet>().unwrap().trunc()
                })
                .collect();
            let texts: Vec<String> = excepts.iter().map(ToString::to_string).collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let number = index as i32 + 1;
            rules.push(rule(vec![block(&cidr.to_string(), &texts)], vec![port(number, None)]));
            expected.insert(number as u16, (cidr, excepts));
        }
        let compiled = compiled(vec![web(), db()], vec![policy("", rules, vec![])]);
        prop_assert!(compiled.diagnostics.is_empty());
        for host in 0..=255u8 {
            let address: IpAddr = format!("10.0.0.{host}").parse().unwrap();
            for (port, (cidr, excepts)) in &expected {
                let matches = cidr.contains(&address) && !excepts.iter().any(|net| net.contains(&address));
                prop_assert_eq!(ingress(&compiled, &address.to_string(), *port), matches);
            }
        }
    }
}
