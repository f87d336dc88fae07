// SPDX-License-Identifier: Apache-2.0
//! Compares what the running agent explains with what the connections did.

use std::{collections::BTreeSet, net::IpAddr, process::Command};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::by_service::ByService;
use crate::{agent::Agent, privilege, probe::Service};

/// Returns the exit code of `netpol explain`, and its answer.
fn explain(agent: &Agent, source: IpAddr, destination: IpAddr, service: Service) -> Result<(i32, Value)> {
    let port = match service {
        Service::Tcp(port) => format!("{port}/TCP"),
        Service::Udp(port) => format!("{port}/UDP"),
        Service::Echo => "icmp".to_owned(),
    };
    let output = Command::new(privilege::binary().context("no netpol")?)
        .args(["explain", "-o", "json", "--socket"])
        .arg(agent.socket())
        .args([source.to_string(), destination.to_string(), port])
        .output()?;
    match output.status.code() {
        Some(code @ (0 | 1 | 3)) => Ok((code, serde_json::from_slice(&output.stdout)?)),
        _ => bail!(
            "explaining {source} -> {destination} {service}: {}",
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}

/// Describes what is wrong with the explanation of a connection that passed or failed.
///
/// # Errors
/// There is none.
pub fn differs(
    agent: &Agent,
    source: IpAddr,
    destination: IpAddr,
    service: Service,
    passed: Option<bool>,
) -> Result<Option<String>> {
    let (code, answer) = explain(agent, source, destination, service)?;
    let said = (code == 0, answer["outcome"] == "allowed");
    let right = passed.is_some_and(|passed| said == (passed, passed) && code < 2);
    let what =
        || format!("{source} -> {destination} {service}: passed {passed:?}, explained with {code}: {answer}");
    Ok((!right).then(what))
}

/// Does the same for the backends of a Service: those explained as allowed must be those that
/// answer, unless the Service is closed as a whole.
///
/// # Errors
/// There is none.
pub fn differs_by_service(agent: &Agent, wanted: &ByService) -> Result<Option<String>> {
    let ByService {
        source,
        destination,
        service,
        ..
    } = *wanted;
    let (code, answer) = explain(agent, source, destination, service)?;
    let verdicts = answer["verdicts"].as_array().context("no verdicts")?;
    let backends = |allowed: bool| -> Result<BTreeSet<IpAddr>> {
        let same = verdicts.iter().filter(|verdict| verdict["allowed"] == allowed);
        same.map(|verdict| {
            let address = verdict["destination"]["address"].as_str();
            Ok(address.context("no address")?.parse()?)
        })
        .collect()
    };
    let denied: BTreeSet<IpAddr> = wanted.backends.difference(&wanted.allowed).copied().collect();
    let expected = match (wanted.allowed.is_empty(), denied.is_empty()) {
        (false, true) => (0, "allowed"),
        (true, _) => (1, "denied"),
        (false, false) => (1, "partly"),
    };
    let right = backends(true)? == wanted.allowed
        && backends(false)? == denied
        && code == expected.0
        && answer["outcome"] == expected.1;
    let what = || {
        format!("{source} -> {destination} {service}: explained with {code}, must be {expected:?}: {answer}")
    };
    Ok((!right).then(what))
}
