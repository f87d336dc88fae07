// SPDX-License-Identifier: Apache-2.0
//! What a failed list or watch means.

use std::io;

use crate::{causes::causes, watch::object::Kind};

/// Why a kind cannot be listed or watched now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The server does not have this kind.
    Missing,
    /// The server's history does not reach back; everything is listed again. Part of normal life.
    Expired,
    /// The server does not know who asks: the token may have ended.
    Unauthorized(String),
    /// RBAC does not allow the verb.
    Forbidden(&'static str),
    /// Everything else: no connection, a server that is starting, an answer that makes no sense.
    Unavailable(String),
}

impl Failure {
    /// The failure of a request, or of the watch that it began.
    pub fn from_request(error: &kube::Error, verb: &'static str) -> Self {
        match error {
            kube::Error::Api(status) => Self::from_status(status, verb),
            other => Self::Unavailable(causes(other)),
        }
    }

    /// The failure that the server told.
    pub fn from_status(status: &kube::core::Status, verb: &'static str) -> Self {
        match status.code {
            // Only a list tells: what was listed is served, whatever a watch of it is told.
            404 if verb == "list" => Self::Missing,
            410 if verb == "watch" => Self::Expired,
            403 => Self::Forbidden(verb),
            code => {
                let told = format!("{verb}: {} ({code} {})", status.message, status.reason);
                match code {
                    401 => Self::Unauthorized(told),
                    _ => Self::Unavailable(told),
                }
            }
        }
    }

    /// Whether a watch was refused for what it asked for: only a new list has a version from which
    /// one can go on.
    pub fn refuses_the_version(error: &kube::Error) -> bool {
        matches!(error, kube::Error::Api(status) if [400, 404, 410, 422].contains(&status.code))
    }

    /// Whether it is about an event of a watch that is lost: only a new list shows what it said.
    pub fn loses_an_event(error: &kube::Error) -> bool {
        match error {
            // The library takes any JSON that is no event for a status.
            kube::Error::SerdeError(_) | kube::Error::Api(_) => true,
            kube::Error::ReadEvents(error) => error.kind() == io::ErrorKind::InvalidData,
            _ => false,
        }
    }

    /// What an operator should know of it; `None` if it is part of normal life.
    pub fn trouble(&self) -> Option<String> {
        match self {
            Self::Missing | Self::Expired => None,
            Self::Forbidden(verb) => Some(format!("the API server forbids `{verb}`")),
            Self::Unauthorized(reason) | Self::Unavailable(reason) => Some(reason.clone()),
        }
    }

    /// Logs that `kind` has begun to fail this way.
    pub fn log(&self, kind: Kind) {
        let (resource, api_version) = (kind.resource(), kind.api_version());
        match self {
            Self::Missing => tracing::warn!(
                resource,
                api_version,
                "the API server does not serve this kind; going on without it, and asking again now and then"
            ),
            Self::Expired => tracing::debug!(resource, "the API server's history ended, listing again"),
            Self::Forbidden(verb) => tracing::error!(
                resource,
                verb,
                api_version,
                "the API server forbids it; allow `{verb}` on `{resource}` in the ClusterRole of this service account. \
                 The last policy stays in force, changes are not seen"
            ),
            Self::Unauthorized(reason) | Self::Unavailable(reason) => tracing::warn!(
                resource,
                reason,
                "the API server cannot be watched; the last policy stays in force, trying again"
            ),
        }
    }

    /// Whether it is the same to an operator: only a change is logged.
    pub fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unavailable(_), Self::Unavailable(_)) | (Self::Unauthorized(_), Self::Unauthorized(_)) => {
                true
            }
            _ => self == other,
        }
    }
}

/// The server says nothing any more.
pub fn silent(verb: &str) -> Failure {
    Failure::Unavailable(format!("{verb}: the API server says nothing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16) -> kube::core::Status {
        kube::core::Status {
            code,
            ..Default::default()
        }
    }

    #[test]
    fn answers_and_their_meaning() {
        let list = |code| Failure::from_status(&status(code), "list");
        let watch = |code| Failure::from_status(&status(code), "watch");
        assert_eq!(list(404), Failure::Missing);
        assert_eq!(list(403), Failure::Forbidden("list"));
        assert_eq!(watch(403), Failure::Forbidden("watch"));
        assert_eq!(watch(410), Failure::Expired);
        assert!(
            matches!(watch(404), Failure::Unavailable(_)),
            "nothing is taken away by a watch"
        );
        assert!(matches!(list(503), Failure::Unavailable(_)));
        assert!(matches!(watch(401), Failure::Unauthorized(_)));
        assert!(list(503).is_like(&watch(500)));
        assert!(!list(503).is_like(&list(403)));
    }
}
