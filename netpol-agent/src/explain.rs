// SPDX-License-Identifier: Apache-2.0
//! Why two ends can or cannot connect: the reference evaluator's verdict of each direction, with the rule that allowed it, or the
//! policies that isolate and what is missing in each of their rules.

use self::sides::judge;
use crate::model::{Node, Snapshot};

mod answer;
mod ends;
mod findings;
mod nodes;
mod request;
mod sides;
mod text;

pub use answer::{Answer, EndShown, Finding, MissingShown, PolicyShown, RuleShown, SideShown, Verdict};
pub use ends::EndError;
pub use nodes::{NodeAddresses, known_nodes};
pub use request::{End, Family, Port, Request, RequestError};

/// Answers a request.
///
/// An end that is a pod has all its addresses, one that is a Service those of its ready endpoints; each pair of one family is
/// judged on its own (rule A5 for Services: on the backend and the target port). The answer is allowed if all pairs are.
///
/// `nodes` are the nodes whose addresses are known: see [`known_nodes`].
///
/// # Errors
/// An end that is not there, has no address, or shares no family with the other.
pub fn explain(snapshot: &Snapshot, nodes: &[Node], request: &Request) -> Result<Answer, EndError> {
    let mut notes = Vec::new();
    let sources = ends::sources(snapshot, &request.source, &mut notes)?;
    let destinations = ends::destinations(snapshot, &request.destination, request.port, &mut notes)?;
    let mut verdicts = Vec::new();
    let mut hairpin = false;
    for source in &sources {
        for destination in &destinations {
            let family = Family::of(source.address);
            let wanted = request.family.is_none_or(|only| only == family);
            if !wanted || Family::of(destination.address) != family {
                continue;
            }
            if destination.is_backend && source.name.is_some() && source.name == destination.name {
                notes.push(format!(
                    "{} is itself a backend of the Service; the way from it to itself through the Service is not judged here",
                    source.shown()
                ));
                hairpin = true;
                continue;
            }
            verdicts.push(judge(snapshot, nodes, source, destination, family));
        }
    }
    if verdicts.is_empty() && !hairpin && !sources.is_empty() && !destinations.is_empty() {
        let family = request.family.map_or("no", Family::name);
        return Err(EndError::NoCommonFamily {
            source_end: request.source.to_string(),
            destination: request.destination.to_string(),
            family,
        });
    }
    findings::note_unknown_nodes(snapshot, nodes, &verdicts, &mut notes);
    notes.sort();
    notes.dedup();
    Ok(Answer {
        source: request.source.to_string(),
        destination: request.destination.to_string(),
        port: request.port.to_string(),
        revision: snapshot.revision,
        allowed: !verdicts.is_empty() && verdicts.iter().all(|verdict| verdict.allowed),
        diagnostics: findings::diagnostics(snapshot, nodes, &verdicts),
        verdicts,
        notes,
    })
}
