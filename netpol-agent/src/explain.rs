// SPDX-License-Identifier: Apache-2.0
//! Explains why two ends can or cannot connect: the reference evaluator's verdict for each
//! direction, with the rule that allows it, or with the isolating policies and what each of their
//! rules lacks.

use self::{ends::Candidate, sides::judge, ways::by_host_port};
use crate::evaluate::evaluate_service;

mod answer;
mod ends;
mod findings;
mod held;
mod judged;
mod nodes;
mod owner;
mod request;
mod sides;
mod text;
mod ways;

pub use answer::{
    Answer, EndShown, Finding, MissingShown, Outcome, PolicyShown, RuleShown, SideShown, Told, Verdict,
};
pub use ends::EndError;
pub use held::{Behind, Enforcement, Held, Standing, World};
pub use nodes::{NodeAddresses, known_nodes};
pub use request::{End, Family, Port, Request, RequestError};

/// Answers a request.
///
/// An end that is a pod has all its addresses; each pair of one family is judged separately. For
/// the frontend of a Service, each backend is judged on its target port (rules A1, A5). For a
/// node's port that leads to a pod, that pod is judged. The answer says so if the known facts allow
/// more than one verdict.
///
/// # Errors
/// An end does not exist, has no address, or shares no family with the other.
pub fn explain(world: World<'_>, request: &Request) -> Result<Answer, EndError> {
    let World { snapshot, nodes, .. } = world;
    let mut notes = Vec::new();
    let with_node_ports = nodes::of_node_ports(snapshot, nodes);
    let everywhere = World {
        nodes: &with_node_ports,
        ..world
    };
    let sources = ends::sources(snapshot, nodes, &request.source, &mut notes)?;
    let destinations = ends::destinations(
        snapshot,
        &with_node_ports,
        &request.destination,
        request.port,
        &mut notes,
    )?;
    let mut verdicts = Vec::new();
    let mut no_pair = true;
    for source in &sources {
        for destination in &destinations {
            let family = Family::of(source.address);
            let wanted = request.family.is_none_or(|only| only == family);
            if !wanted || Family::of(destination.address) != family {
                continue;
            }
            no_pair = false;
            if destination.is_frontend {
                let found = judge_backends(world, everywhere, source, destination);
                notes.extend(found.is_empty().then(|| {
                    format!(
                        "the Service at {} {} has no ready endpoints, so nothing answers",
                        destination.address, request.port
                    )
                }));
                verdicts.extend(found);
            } else if let Some(ways) = by_host_port(everywhere, source, destination, family) {
                for (end, way) in ways {
                    notes.push(format!(
                        "{} {} is a host port, which the CNI translates: {} is judged",
                        destination.address,
                        request.port,
                        end.end_shown()
                    ));
                    verdicts.push(judge(world, source, &end, family, &way));
                }
            } else {
                let way = ways::direct(everywhere, source, destination);
                verdicts.push(judge(world, source, destination, family, &way));
            }
        }
    }
    if no_pair && !sources.is_empty() && !destinations.is_empty() {
        let family = request.family.map_or("no", Family::name);
        return Err(EndError::NoCommonFamily {
            source_end: request.source.to_string(),
            destination: request.destination.to_string(),
            family,
        });
    }
    findings::note_unknown_nodes(snapshot, nodes, &verdicts, &mut notes);
    findings::note_enforcement(world, &verdicts, &mut notes);
    notes.sort();
    notes.dedup();
    Ok(Answer {
        source: request.source.to_string(),
        destination: request.destination.to_string(),
        port: request.port.to_string(),
        revision: snapshot.revision,
        allowed: Outcome::of(&verdicts).is_allowed(),
        outcome: Outcome::of(&verdicts),
        diagnostics: findings::diagnostics(snapshot, nodes, &verdicts),
        verdicts,
        notes,
    })
}

/// Judges each backend behind a frontend. `everywhere` also holds all addresses at which a node
/// port is reached.
fn judge_backends(
    world: World<'_>,
    everywhere: World<'_>,
    source: &Candidate,
    frontend: &Candidate,
) -> Vec<Verdict> {
    let family = Family::of(frontend.address);
    let packet = ends::packet(source, frontend, family);
    let backends = evaluate_service(everywhere.snapshot, everywhere.nodes, &packet).unwrap_or_default();
    let verdict = |(address, port, _)| {
        let port = match frontend.port {
            Port::Transport(protocol, _) => Port::Transport(protocol, port),
            other => other,
        };
        let backend = ends::at(world.snapshot, world.nodes, address, port);
        let way = ways::by_service(everywhere, source, frontend.address, &backend);
        judge(world, source, &backend, family, &way)
    };
    let mut found: Vec<Verdict> = backends.into_iter().map(verdict).collect();
    sides::refuse(world, source, &packet, &mut found);
    found
}
