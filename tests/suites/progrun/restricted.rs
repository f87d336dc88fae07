// SPDX-License-Identifier: Apache-2.0
//! A Service with too many backends to restrict (rules A5, L2) is closed to pods that may reach
//! only some. `shop/client` may reach one of the two pods behind `shop/mixed`.

use std::net::IpAddr;

use anyhow::{Context, Result};
use netpol_agent::{
    evaluate::Packet,
    model::{Direction, Limit, ObjectKey},
};
use netpol_tests::progrun::on_bench;

use super::{SUITE, Stage};

#[test]
fn l2_a_service_with_too_many_restricted_backends_is_closed_in_part_and_opens_when_there_is_room() {
    on_bench(SUITE, 16, |bench| {
        let mut stage = Stage::of(bench, "service-partial")?;
        let address = |name: &str| -> Result<IpAddr> {
            let pod = stage.snapshot.pods.get(&ObjectKey::new("shop", name));
            Ok(pod.context("a pod")?.addresses[0])
        };
        let (client, web) = (address("client")?, address("web")?);
        let ifindex = stage.addresses[&client];
        let service = stage.snapshot.services.get(&ObjectKey::new("shop", "mixed"));
        let service = service.context("the Service")?.clone();
        let own = stage.node.addresses.iter().find(|address| address.is_ipv4());
        let to = |destination: IpAddr, port| Packet {
            source: client,
            destination,
            protocol: 6,
            port: Some(port),
        };
        let frontends = [
            to(service.cluster_ips[0], 80),
            to(service.external_ips[0], 80),
            to(*own.context("an address")?, 30_081),
        ];
        let few = Limit {
            object: 1,
            namespace: 1,
            all: 1,
        };
        let limits = stage.snapshot.limits;
        for (limit, open) in [(limits.restricted, true), (few, false), (limits.restricted, true)] {
            stage.snapshot.limits.restricted = limit;
            bench.enforce(&stage.snapshot, &stage.node, &stage.pods)?;
            assert_eq!(bench.read()?.restricted.keys().next().is_some(), open);
            for packet in &frontends {
                let passes = bench.opens(Direction::Egress, ifindex, ifindex, packet)?;
                assert_eq!(passes, open, "{packet:?}, {limit:?}");
            }
            // What policy allows can be reached without the Service.
            assert!(bench.opens(Direction::Egress, ifindex, ifindex, &to(web, 8080))?);
        }
        bench.check_maps()
    });
}
