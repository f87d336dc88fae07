// SPDX-License-Identifier: Apache-2.0
//! An overview as text for a terminal.

use std::fmt;

use super::{DirectionShown, Drift, MapShown, Overview, PodShown, PodState};

impl fmt::Display for Overview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Version   {}, {}", self.version, self.programs)?;
        writeln!(f, "Node      {}, agent up {} s", self.node, self.up_seconds)?;
        let can = |yes| if yes { "yes" } else { "no" };
        writeln!(
            f,
            "Kernel    Linux {}; checksums checked: {}; connection tracking asked: {}",
            self.kernel,
            can(self.checksums_checked),
            can(self.tracking_asked)
        )?;
        let readable = match self.unread.len() {
            0 => "readable".to_owned(),
            count => format!("{count} kinds cannot be read"),
        };
        writeln!(f, "Source    {}: {readable}", self.source)?;
        writeln!(
            f,
            "Revision  {} enforced, {} known",
            self.revision, self.revision_known
        )?;
        let hooks = &self.hooks;
        writeln!(
            f,
            "Hooks     {}: {} pod interfaces ({} closed until their pod is known), {} devices",
            hooks.mechanism,
            hooks.interfaces.len(),
            hooks.closed.len(),
            hooks.devices.len()
        )?;
        writeln!(f, "Drift     {}", drift(&self.drift))?;
        writeln!(f, "\nConditions")?;
        for condition in &self.conditions {
            writeln!(f, "  {condition}")?;
        }
        if !self.diagnostics.is_empty() {
            writeln!(f, "\nFaulty objects (the log names them)")?;
            let rows = self.diagnostics.iter();
            table(f, rows.map(|(code, count)| [code.clone(), count.to_string()]))?;
        }
        if !self.pods.is_empty() {
            writeln!(f, "\nPods")?;
            let head = ["POD", "STATE", "INTERFACE", "INGRESS", "EGRESS"].map(str::to_owned);
            table(f, [head].into_iter().chain(self.pods.iter().map(pod)))?;
        }
        let reasons = self
            .pods
            .iter()
            .filter_map(|pod| Some((pod, pod.reason.as_ref()?)));
        let reasons: Vec<_> = reasons.collect();
        if !reasons.is_empty() {
            writeln!(f, "\nNot enforced as policy says")?;
        }
        for (pod, reason) in reasons {
            writeln!(f, "  {}/{}: {reason}", pod.namespace, pod.name)?;
        }
        writeln!(f, "\nMaps")?;
        let head = ["MAP", "ENTRIES", "CAPACITY", "USED"].map(str::to_owned);
        table(f, [head].into_iter().chain(self.maps.iter().map(map)))
    }
}

fn drift(drift: &Drift) -> String {
    let now = match (&drift.not_looked_at, drift.found.len()) {
        (Some(_), _) => "not looked at".to_owned(),
        (None, 0) => "none now".to_owned(),
        (None, count) => format!("{count} found now and repaired"),
    };
    let last = drift.last_seconds.map_or_else(String::new, |seconds| {
        format!("; last {seconds} s ago: {}", drift.last.join("; "))
    });
    format!(
        "{now}; since the start {} times in maps, {} in programs{last}",
        drift.maps, drift.programs
    )
}

fn pod(pod: &PodShown) -> [String; 5] {
    let state = match pod.state {
        PodState::Enforced => "enforced",
        PodState::HeldBack => "held back",
        PodState::Open => "not enforced",
        PodState::Unknown => "unknown",
    };
    let interfaces = match &pod.interfaces[..] {
        [] => "-".to_owned(),
        interfaces => interfaces.join(","),
    };
    [
        format!("{}/{}", pod.namespace, pod.name),
        state.to_owned(),
        interfaces,
        direction(&pod.ingress),
        direction(&pod.egress),
    ]
}

fn direction(shown: &DirectionShown) -> String {
    match &shown.policies[..] {
        _ if shown.over_budget => "closed: over budget".to_owned(),
        [] => "open".to_owned(),
        policies => policies.join(","),
    }
}

fn map(map: &MapShown) -> [String; 4] {
    let used = match (map.entries, map.capacity) {
        (Some(entries), 1..) => format!("{}%", u64::from(entries) * 100 / u64::from(map.capacity)),
        _ => map.error.clone().unwrap_or_default(),
    };
    [
        map.name.clone(),
        map.entries
            .map_or_else(|| "-".to_owned(), |entries| entries.to_string()),
        map.capacity.to_string(),
        used,
    ]
}

/// Writes rows with aligned columns.
fn table<const N: usize>(f: &mut fmt::Formatter<'_>, rows: impl Iterator<Item = [String; N]>) -> fmt::Result {
    let rows: Vec<[String; N]> = rows.collect();
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in &rows {
        let cells = row.iter().zip(widths);
        let line: String = cells.map(|(cell, width)| format!("  {cell:width$}")).collect();
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}
