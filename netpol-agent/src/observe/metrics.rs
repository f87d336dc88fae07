// SPDX-License-Identifier: Apache-2.0
//! Metrics, read at scrape time: the agent's own from its status, packet counters from the kernel.

use std::{sync::Arc, time::Instant};

use netpol_common::abi::{Counter, Direction, DropReason};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text::encode},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};
use tokio::sync::watch;
use tracing::error;

use super::status::Status;
use crate::{
    causes::causes,
    datapath::CounterReader,
    progress::{Progress, Seen},
};

/// Builds a registry over the agent's status and progress and the kernel's counters.
pub fn registry(
    status: watch::Receiver<Arc<Status>>,
    progress: Progress,
    counters: CounterReader,
) -> Registry {
    let mut registry = Registry::with_prefix("netpol");
    registry.register_collector(Box::new(AgentMetrics(status, progress)));
    registry.register_collector(Box::new(PacketMetrics(counters)));
    registry
}

/// Encodes a registry in the text format.
///
/// # Errors
/// A metric could not be encoded.
pub fn text(registry: &Registry) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    encode(&mut text, registry)?;
    Ok(text)
}

#[derive(Debug)]
struct AgentMetrics(watch::Receiver<Arc<Status>>, Progress);

impl Collector for AgentMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let seen = self.1.look();
        let status = self.0.borrow().clone();
        for (name, help, value) in gauges(&status, &seen) {
            let metric = ConstGauge::new(value as i64);
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)?;
        }
        for (name, help, value) in counters(&status) {
            let metric = ConstCounter::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)?;
        }
        let duration = ConstGauge::new(status.last_duration.as_secs_f64());
        duration.encode(encoder.encode_descriptor(
            "last_apply_duration",
            "Time from objects to kernel, last turn",
            Some(&Unit::Seconds),
            duration.metric_type(),
        )?)?;
        let waiting = ConstGauge::new(seen.age(Instant::now()).as_secs_f64());
        waiting.encode(encoder.encode_descriptor(
            "change_waiting",
            "Age of the oldest change that is known and not enforced yet; 0 if all are enforced",
            Some(&Unit::Seconds),
            waiting.metric_type(),
        )?)?;
        let delays = &status.delays.0;
        delays.encode(encoder.encode_descriptor(
            "change_to_kernel",
            "Time from the first event of a revision until all pods are enforced by it",
            Some(&Unit::Seconds),
            delays.metric_type(),
        )?)?;
        let closed = &status.closed_for.0;
        closed.encode(encoder.encode_descriptor(
            "interface_closed",
            "Time from a new interface's programs to its pod's policy, with --startup-mode=strict",
            Some(&Unit::Seconds),
            closed.metric_type(),
        )?)?;
        let kind = ConstGauge::new(0i64).metric_type();
        let mut family = encoder.encode_descriptor(
            "diagnostics",
            "Objects that are wrong, by what is wrong",
            None,
            kind,
        )?;
        for (code, count) in &status.diagnostics {
            let metric = ConstGauge::new(*count as i64);
            metric.encode(family.encode_family(&[("code", *code)])?)?;
        }
        Ok(())
    }
}

/// Returns name, help and value of each gauge that is a whole number.
fn gauges(status: &Status, seen: &Seen) -> [(&'static str, &'static str, u64); 14] {
    [
        (
            "revision",
            "Revision of the cluster's objects that is enforced",
            status.revision,
        ),
        (
            "revision_known",
            "Newest revision of the cluster's objects; another one than is enforced is compiled or written, or waits for it",
            seen.known,
        ),
        (
            "endpoints",
            "Local pods that are enforced on",
            status.endpoints.len() as u64,
        ),
        (
            "endpoints_waiting",
            "Local pods whose interface is not known yet",
            status.endpoints_waiting as u64,
        ),
        (
            "endpoints_unenforced",
            "Local pods with an address that are not enforced on for more than 10 seconds; the log names them",
            status.unenforced.values().filter(|pod| pod.overdue).count() as u64,
        ),
        (
            "node_name_unknown",
            "Whether no node and no pod of the cluster has the name that this agent was given for its node",
            status.misnamed.into(),
        ),
        (
            "endpoints_held_back",
            "Endpoints that keep an old policy or are closed because writes failed",
            status.endpoints_held_back as u64,
        ),
        (
            "endpoints_over_budget",
            "Local pods that are closed in a direction, as what their policies come to is over budget",
            status.held.over_budget.len() as u64,
        ),
        (
            "interfaces_unattached",
            "Interfaces to which programs do not attach: nothing is enforced there",
            status.unattached.len() as u64,
        ),
        (
            "interfaces_closed",
            "Interfaces of the pod network that are closed to all but the node until their pod is known",
            status.closed.len() as u64,
        ),
        (
            "checksums_checked",
            "Whether this kernel tells where a packet's checksum is still to be written",
            status.checks_checksums.into(),
        ),
        (
            "tracking_asked",
            "Whether this kernel lets the programs ask its connection tracking who opened a connection",
            status.asks_tracking.into(),
        ),
        ("policies", "Policy numbers in the kernel", status.policies as u64),
        (
            "identities",
            "Address prefixes in the kernel",
            status.identities as u64,
        ),
    ]
}

/// Returns name, help and value of each counter.
fn counters(status: &Status) -> [(&'static str, &'static str, u64); 7] {
    [
        ("map_writes", "Writes to kernel maps", status.writes),
        (
            "map_write_failures",
            "Writes to kernel maps that failed",
            status.write_failures,
        ),
        (
            "drifts",
            "Times that kernel maps were found other than written",
            status.drifts,
        ),
        (
            "programs_repaired",
            "Interfaces whose programs were found removed, replaced or behind others, and were attached again",
            status.repairs,
        ),
        (
            "flows_seeded",
            "Flow entries of connections that were open before a pod's programs were there",
            status.seeded.flows,
        ),
        (
            "seedings_incomplete",
            "Times that not all open connections could be found in the kernel's connection table, or kept",
            status.seeded.incomplete,
        ),
        (
            "flows_expired",
            "Flow entries past their lifetime that were removed",
            status.expired.flows,
        ),
    ]
}

struct PacketMetrics(CounterReader);

impl std::fmt::Debug for PacketMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PacketMetrics")
    }
}

impl Collector for PacketMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut samples: Vec<(Direction, &str, &str, Counter)> = Vec::new();
        let mut failures = Vec::new();
        for direction in Direction::ALL {
            let mut counters = match self.0.read(direction) {
                Ok(counters) => counters,
                Err(error) => {
                    error!(error = causes(&error), "reading packet counters");
                    continue;
                }
            };
            samples.push((direction, "forwarded", "none", counters.forwarded));
            for reason in DropReason::ALL {
                samples.push((direction, "dropped", reason.name(), *counters.dropped(reason)));
            }
            failures.push((direction, counters.flow_insert_failures));
        }
        let kind = ConstCounter::new(0u64).metric_type();
        let packets = ("packets", "Packets at pods, by verdict");
        let bytes = ("bytes", "Bytes at pods, by verdict");
        for (name, help) in [packets, bytes] {
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (direction, verdict, reason, counter) in &samples {
                let labels = [
                    ("direction", direction.name()),
                    ("verdict", *verdict),
                    ("reason", *reason),
                ];
                let value = if name == bytes.0 {
                    counter.bytes
                } else {
                    counter.packets
                };
                ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "Flow entries that could not be written";
        let mut family = encoder.encode_descriptor("flow_insert_failures", help, None, kind)?;
        for (direction, count) in failures {
            ConstCounter::new(count).encode(family.encode_family(&[("direction", direction.name())])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn delays_are_told_in_seconds() {
        let status = Status::default();
        status.delays.observe(Duration::from_millis(4));
        status.delays.observe(Duration::from_secs(60));
        let mut registry = Registry::with_prefix("netpol");
        let (_sender, receiver) = watch::channel(Arc::new(status));
        registry.register_collector(Box::new(AgentMetrics(receiver, Progress::default())));
        let text = text(&registry).unwrap();
        for line in [
            "netpol_change_to_kernel_seconds_bucket{le=\"0.0025\"} 0",
            "netpol_change_to_kernel_seconds_bucket{le=\"0.005\"} 1",
            "netpol_change_to_kernel_seconds_bucket{le=\"10.0\"} 1",
            "netpol_change_to_kernel_seconds_bucket{le=\"+Inf\"} 2",
            "netpol_change_to_kernel_seconds_sum 60.004",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn l2_what_is_known_and_not_enforced_and_who_is_over_budget_shows() {
        let mut status = Status {
            revision: 1,
            ..Status::default()
        };
        let closed = [crate::model::Direction::Ingress].into();
        let pod = crate::model::ObjectKey::new("shop", "web");
        status.held.over_budget.insert(pod, closed);
        let progress = Progress::default();
        progress.published(2, Instant::now());
        let (_sender, receiver) = watch::channel(Arc::new(status));
        let mut registry = Registry::with_prefix("netpol");
        registry.register_collector(Box::new(AgentMetrics(receiver, progress.clone())));
        let value = |name: &str| {
            let text = text(&registry).unwrap();
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(&format!("{name} ")));
            line.unwrap_or_else(|| panic!("{name} in\n{text}"))
                .parse::<f64>()
                .unwrap()
        };
        assert_eq!(value("netpol_revision"), 1.0);
        assert_eq!(value("netpol_revision_known"), 2.0);
        assert_eq!(value("netpol_endpoints_over_budget"), 1.0);
        assert!(value("netpol_change_waiting_seconds") > 0.0);
        progress.take(crate::progress::Part::Objects);
        assert!(
            value("netpol_change_waiting_seconds") > 0.0,
            "taken up is not enforced"
        );
        progress.end(true);
        assert_eq!(value("netpol_change_waiting_seconds"), 0.0);
    }

    #[test]
    fn a_kernel_that_does_not_tell_of_checksums_or_connections_shows() {
        for (checks_checksums, asks_tracking, expected) in [
            (
                true,
                false,
                ["netpol_checksums_checked 1", "netpol_tracking_asked 0"],
            ),
            (
                false,
                true,
                ["netpol_checksums_checked 0", "netpol_tracking_asked 1"],
            ),
        ] {
            let status = Status {
                checks_checksums,
                asks_tracking,
                ..Status::default()
            };
            let (_sender, status) = watch::channel(Arc::new(status));
            let mut registry = Registry::with_prefix("netpol");
            registry.register_collector(Box::new(AgentMetrics(status, Progress::default())));
            let text = text(&registry).unwrap();
            for expected in expected {
                assert!(text.lines().any(|line| line == expected), "{text}");
            }
        }
    }
}
