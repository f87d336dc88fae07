// SPDX-License-Identifier: Apache-2.0
//! Why two ends can or cannot connect: the reference evaluator's verdict of each direction, with the rule that allowed it, or the
//! policies that isolate and what is missing in each of their rules.

use self::{ends::Candidate, sides::judge};
use crate::{
    evaluate::evaluate_service,
    model::{Node, Snapshot},
};

mod answer;
mod ends;
mod findings;
mod nodes;
mod request;
mod sides;
mod text;

pub use answer::{
    Answer, EndShown, Finding, MissingShown, Outcome, PolicyShown, RuleShown, SideShown, Verdict,
};
pub use ends::EndError;
pub use nodes::{NodeAddresses, known_nodes};
pub use request::{End, Family, Port, Request, RequestError};

/// Answers a request.
///
/// An end that is a pod has all its addresses; each pair of one family is judged on its own. For the frontend of a Service each of its
/// backends is judged, on the target port (rules A1, A5).
///
/// `nodes` are the nodes whose addresses are known: see [`known_nodes`].
///
/// # Errors
/// An end that is not there, has no address, or shares no family with the other.
pub fn explain(snapshot: &Snapshot, nodes: &[Node], request: &Request) -> Result<Answer, EndError> {
    let mut notes = Vec::new();
    let with_node_ports = nodes::of_node_ports(snapshot, nodes);
    let sources = ends::sources(snapshot, &request.source, &mut notes)?;
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
            if !destination.is_frontend {
                verdicts.push(judge(snapshot, nodes, source, destination, family, None));
                continue;
            }
            let found = judge_backends(snapshot, &with_node_ports, source, destination);
            notes.extend(found.is_empty().then(|| {
                format!(
                    "the Service at {} {} has no ready endpoints, so nothing answers",
                    destination.address, request.port
                )
            }));
            verdicts.extend(found);
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
    findings::note_masquerade(snapshot, &verdicts, &mut notes);
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

/// A verdict for each backend behind a frontend.
fn judge_backends(
    snapshot: &Snapshot,
    nodes: &[Node],
    source: &Candidate,
    frontend: &Candidate,
) -> Vec<Verdict> {
    let family = Family::of(frontend.address);
    let packet = sides::packet(source, frontend, family);
    let backends = evaluate_service(snapshot, nodes, &packet).unwrap_or_default();
    let verdict = |(address, port, evaluation)| {
        let port = match frontend.port {
            Port::Transport(protocol, _) => Port::Transport(protocol, port),
            other => other,
        };
        let backend = ends::at(snapshot, address, port);
        let by_service = Some((frontend.address, evaluation));
        judge(snapshot, nodes, source, &backend, family, by_service)
    };
    backends.into_iter().map(verdict).collect()
}
