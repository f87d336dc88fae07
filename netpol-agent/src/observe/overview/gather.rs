// SPDX-License-Identifier: Apache-2.0
//! Collects an overview from what the agent publishes, and from the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use tokio::{sync::oneshot, time::timeout};

use super::{DirectionShown, Drift, Hooks, MapShown, Overview, PodShown, PodState, UnreadShown};
use crate::{
    datapath::{Fill, fill, interfaces::Interfaces, object},
    evaluate::isolates,
    explain::Standing,
    model::{Direction, ObjectKey, Snapshot},
    observe::{
        conditions::{Condition, conditions},
        socket::Known,
        status::Status,
    },
};

/// How long the loop may take to look at the kernel.
const PATIENCE: Duration = Duration::from_secs(5);
/// From this part of its capacity on, in percent, a map is nearly full.
const NEARLY_FULL: u64 = 90;

/// Asks the loop to compare the kernel with what was written and attached. Returns what differs, or
/// why nobody looked.
pub async fn inspect(known: &Known) -> Result<Vec<String>, String> {
    let (answer, found) = oneshot::channel();
    let asked = async {
        known.inspections.send(answer).await.ok()?;
        found.await.ok()
    };
    match timeout(PATIENCE, asked).await {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err("the agent is ending".to_owned()),
        Err(_) => Err(format!(
            "the agent was busy for {} s: {}",
            PATIENCE.as_secs(),
            known.progress.look().phase
        )),
    }
}

/// Collects everything. `drift` is the result of [`inspect`].
pub fn gather(known: &Known, drift: Result<Vec<String>, String>) -> Overview {
    let now = Instant::now();
    let status = known.status.borrow().clone();
    let snapshot = known.snapshots.borrow().clone();
    let interfaces = known.interfaces.borrow().clone().unwrap_or_default();
    let seen = known.progress.look();
    let (found, not_looked_at) = match drift {
        Ok(found) => (found, None),
        Err(why) => (Vec::new(), Some(why)),
    };
    let fills = fill(&known.pin_path);
    let mut conditions = conditions(&status, &seen, now);
    let untold = not_looked_at.iter().map(|why| format!("not looked at: {why}"));
    conditions.push(Condition::new(
        "no-drift",
        false,
        found.iter().cloned().chain(untold),
    ));
    conditions.push(Condition::new(
        "maps-have-room",
        false,
        fills.iter().filter_map(full),
    ));
    let unread = seen.unread.iter().map(|(resource, unread)| UnreadShown {
        resource: resource.clone(),
        seconds: now.duration_since(unread.since).as_secs(),
        reason: unread.why.clone(),
    });
    let last = status.last_drift.as_ref();
    let names = |indices: &BTreeSet<u32>| indices.iter().map(|index| name(&interfaces, *index)).collect();
    Overview {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        programs: object::described(),
        kernel: kernel(),
        checksums_checked: status.checks_checksums,
        tracking_asked: status.asks_tracking,
        node: known.node_name.clone(),
        up_seconds: known.started.elapsed().as_secs(),
        source: known.source.clone(),
        unread: unread.collect(),
        ready: status.ready,
        revision: status.revision,
        revision_known: seen.known,
        hooks: Hooks {
            mechanism: status.mechanism.clone(),
            interfaces: names(&status.attached),
            bridge: bridge(&status, &interfaces),
            devices: names(&status.attached_devices),
            closed: status.closed.iter().cloned().collect(),
        },
        drift: Drift {
            found,
            not_looked_at,
            maps: status.drifts,
            programs: status.repairs,
            last_seconds: last.map(|(when, _)| when.elapsed().as_secs()),
            last: last.map(|(_, what)| what.clone()).unwrap_or_default(),
        },
        conditions,
        pods: pods(&status, snapshot.as_deref(), &interfaces),
        maps: fills.into_iter().map(MapShown::from).collect(),
        diagnostics: status
            .diagnostics
            .iter()
            .map(|(code, count)| ((*code).to_owned(), *count))
            .collect(),
    }
}

/// Returns the release of the running kernel.
pub fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|error| error.to_string(), |release| release.trim().to_owned())
}

/// Returns the bridge that most pods are on.
fn bridge(status: &Status, interfaces: &Interfaces) -> Option<String> {
    let mut ports: BTreeMap<u32, usize> = BTreeMap::new();
    let of_pods = status
        .interfaces
        .keys()
        .filter_map(|index| interfaces.pods.get(index));
    for bridge in of_pods.filter_map(|interface| interface.bridge) {
        *ports.entry(bridge).or_default() += 1;
    }
    let (bridge, _) = ports.into_iter().max_by_key(|(_, count)| *count)?;
    let name = nix::net::if_::if_indextoname(bridge).ok()?;
    Some(name.to_string_lossy().into_owned())
}

fn name(interfaces: &Interfaces, index: u32) -> String {
    let pod = interfaces.pods.get(&index).map(|pod| &pod.name);
    pod.or_else(|| interfaces.devices.get(&index))
        .cloned()
        .unwrap_or_else(|| format!("index {index}"))
}

/// Says that a map is nearly full, or cannot be counted.
fn full(fill: &Fill) -> Option<String> {
    let map = fill.map;
    match &fill.entries {
        Err(why) => Some(format!("map {map} cannot be counted: {why}")),
        Ok(entries) => {
            let nearly = u64::from(*entries) * 100 >= u64::from(fill.capacity) * NEARLY_FULL;
            (nearly && !fill.replaces)
                .then(|| format!("map {map} is nearly full: {entries} of {} entries", fill.capacity))
        }
    }
}

impl From<Fill> for MapShown {
    fn from(fill: Fill) -> Self {
        Self {
            name: fill.map.to_owned(),
            entries: fill.entries.as_ref().ok().copied(),
            capacity: fill.capacity,
            error: fill.entries.err(),
        }
    }
}

fn pods(status: &Status, snapshot: Option<&Snapshot>, interfaces: &Interfaces) -> Vec<PodShown> {
    let held = status.held.pods.iter();
    held.map(|(key, standing)| {
        let (state, reason) = match standing {
            Standing::Enforced => (PodState::Enforced, None),
            Standing::HeldBack(why) => (PodState::HeldBack, Some(why.clone())),
            Standing::Open(why) => (PodState::Open, Some(why.clone())),
            Standing::Unknown(why) => (PodState::Unknown, Some(why.clone())),
        };
        let pod = snapshot.and_then(|snapshot| snapshot.pods.get(key));
        let behind = status.interfaces.iter().filter(|(_, of)| *of == key);
        let endpoints = status.endpoints.iter().filter(|(_, of)| *of == key);
        let direction = |direction| direction_of(status, snapshot, key, direction);
        PodShown {
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            addresses: pod
                .map(|pod| pod.addresses.iter().map(ToString::to_string).collect())
                .unwrap_or_default(),
            interfaces: behind.map(|(index, _)| name(interfaces, *index)).collect(),
            endpoints: endpoints.map(|(number, _)| *number).collect(),
            state,
            reason,
            ingress: direction(Direction::Ingress),
            egress: direction(Direction::Egress),
        }
    })
    .collect()
}

fn direction_of(
    status: &Status,
    snapshot: Option<&Snapshot>,
    key: &ObjectKey,
    direction: Direction,
) -> DirectionShown {
    let mut policies = Vec::new();
    if let Some((snapshot, pod)) = snapshot.and_then(|snapshot| Some((snapshot, snapshot.pods.get(key)?))) {
        let isolating = snapshot
            .policies
            .values()
            .filter(|policy| isolates(policy, pod, direction));
        policies.extend(isolating.map(|policy| policy.key.name.to_string()));
    }
    let closed = status.held.over_budget.get(key);
    DirectionShown {
        policies,
        over_budget: closed.is_some_and(|closed| closed.contains(&direction)),
    }
}
