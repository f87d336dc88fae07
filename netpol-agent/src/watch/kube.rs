// SPDX-License-Identifier: Apache-2.0
//! Objects from a Kubernetes API server: one list and watch for each kind.
//!
//! An object is cut to the fields that policy needs as it is decoded, becomes an object of the
//! model at once, and only that is kept. While the server cannot be reached the last snapshot stays
//! (rule B3). Old servers are fine: one without `discovery.k8s.io/v1` gives no EndpointSlices, and
//! is asked again now and then.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    WatchError,
    object::{Entry, Id, Kind, Object, Objects},
    publish::Publisher,
    wire,
};

use crate::{causes::causes, model::ObjectKey};

mod binary;
mod decoded;
mod failure;
mod kind;
mod list;
mod version;

use decoded::Decoded;

/// Updates that may wait to be merged. One may be a page of a list.
const QUEUE: usize = 64;

/// What the watch of one kind says.
#[derive(Debug)]
enum Update {
    /// A list begins: what was listed before and is not listed again is gone.
    Listing,
    /// Objects of the list.
    Listed(Vec<Entry>),
    /// The list is complete with these.
    ListDone(Vec<Entry>),
    /// The server does not have this kind.
    Missing,
    /// An object was added or changed.
    Changed(Box<Entry>),
    /// An object was deleted.
    Deleted(Id),
}

pub(super) async fn run(
    kubeconfig: Option<&Path>,
    mut publisher: Publisher,
    stop: CancellationToken,
) -> Result<(), WatchError> {
    let config = configuration(kubeconfig).await?;
    tracing::info!(server = %config.cluster_url, "watching the Kubernetes API server");
    let way = kind::Way {
        client: client(config, kubeconfig)?,
        kubeconfig: kubeconfig.map(Path::to_owned),
    };

    let (sender, mut updates) = mpsc::channel(QUEUE);
    // Dropped with this function, and the tasks with them.
    let mut report = JoinSet::new();
    report.spawn(version::report(way.client.clone()));
    let mut watches = JoinSet::new();
    for kind in Kind::ALL {
        watches.spawn(kind.with(kind::Watch {
            way: way.clone(),
            updates: sender.clone(),
            progress: publisher.progress().clone(),
        }));
    }
    drop(sender);

    let mut cluster = Cluster::default();
    publisher.unlisted(cluster.unlisted());
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            // Without it, changes of a kind would be missed for good.
            Some(ended) = watches.join_next() => return Err(WatchError::Ended(ended.err())),
            Some((kind, update, received)) = updates.recv() => {
                let mut changed = cluster.apply(kind, update);
                // What has come by now goes out together. More merges with it while a turn runs:
                // the receiver only sees the last snapshot.
                for _ in 1..QUEUE {
                    let Ok((kind, update, _)) = updates.try_recv() else { break };
                    changed |= cluster.apply(kind, update);
                }
                if changed && cluster.is_complete() {
                    publisher.publish(&cluster.objects, &[], received);
                } else if changed {
                    publisher.unlisted(cluster.unlisted());
                    publisher.draft(&cluster.objects, Instant::now());
                }
            }
        }
    }
}

/// Makes a client with the address and the credentials that are to be had now.
async fn connect(kubeconfig: Option<&Path>) -> Result<Client, WatchError> {
    client(configuration(kubeconfig).await?, kubeconfig)
}

fn client(config: Config, kubeconfig: Option<&Path>) -> Result<Client, WatchError> {
    Client::try_from(config).map_err(|error| WatchError::Configuration {
        from: origin(kubeconfig),
        reason: causes(&error),
    })
}

/// As [`super::pod_cidrs`].
pub(super) async fn pod_cidrs(kubeconfig: Option<&Path>, node: &str) -> Result<Vec<ipnet::IpNet>, String> {
    let client = connect(kubeconfig).await.map_err(|error| causes(&error))?;
    let nodes = kube::Api::<Decoded<wire::Node>>::all(client);
    let only = kube::api::ListParams::default().fields(&format!("metadata.name={node}"));
    let found = nodes.list(&only).await.map_err(|error| causes(&error))?;
    let told = found.items.into_iter().flat_map(|node| match node.entry.object {
        Object::Node(node) => node.pod_cidrs.clone(),
        _ => Vec::new(),
    });
    Ok(told.collect())
}

/// All kinds together.
#[derive(Debug, Default)]
struct Cluster {
    objects: Objects,
    /// Kinds whose first list is complete, or that the server does not have.
    listed: BTreeSet<Kind>,
    /// What was known before a list that is not complete yet, and was not listed again so far.
    unconfirmed: BTreeMap<Kind, BTreeSet<ObjectKey>>,
}

impl Cluster {
    /// Every kind was listed once (rule B1).
    fn is_complete(&self) -> bool {
        self.listed.len() == Kind::ALL.len()
    }

    /// Names of the kinds that were not.
    fn unlisted(&self) -> Vec<&'static str> {
        let missing = Kind::ALL.into_iter().filter(|kind| !self.listed.contains(kind));
        missing.map(Kind::name).collect()
    }

    /// True if a snapshot would now be another one.
    fn apply(&mut self, kind: Kind, update: Update) -> bool {
        match update {
            Update::Listing => {
                self.unconfirmed.insert(kind, self.objects.keys(kind));
                false
            }
            Update::Listed(entries) => self.list(kind, entries),
            Update::ListDone(entries) => {
                let changed = self.list(kind, entries);
                let gone = self.unconfirmed.remove(&kind).unwrap_or_default();
                let removed = self.objects.remove_all(kind, gone);
                self.listed.insert(kind) || changed || removed
            }
            Update::Missing => {
                let removed = self.objects.remove_all(kind, self.objects.keys(kind));
                self.listed.insert(kind) || removed
            }
            Update::Changed(entry) => self.objects.put(*entry),
            Update::Deleted(id) => self.objects.remove(&id),
        }
    }

    /// Takes over objects of a list. False if nothing changed.
    fn list(&mut self, kind: Kind, entries: Vec<Entry>) -> bool {
        let unconfirmed = self.unconfirmed.entry(kind).or_default();
        let mut changed = false;
        for entry in entries {
            // Empty in the first list, if none failed before it: the long one.
            if !unconfirmed.is_empty() {
                unconfirmed.remove(&entry.object.key());
            }
            changed |= self.objects.put(entry);
        }
        changed
    }
}

pub(super) fn origin(kubeconfig: Option<&Path>) -> String {
    kubeconfig.map_or_else(
        || "kubeconfig or service account".to_owned(),
        |path| path.display().to_string(),
    )
}

pub(super) async fn configuration(kubeconfig: Option<&Path>) -> Result<Config, WatchError> {
    let refused = |reason: String| WatchError::Configuration {
        from: origin(kubeconfig),
        reason,
    };
    let mut config = match kubeconfig {
        None => Config::infer().await.map_err(|error| refused(causes(&error)))?,
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|error| refused(causes(&error)))?;
            let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
            config.map_err(|error| refused(causes(&error)))?
        }
    };
    // The client would come again for minutes where a server is overloaded, and tell nobody: those
    // who ask wait and ask again themselves.
    config.default_retry = false;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{wire::Wire, *};

    fn namespace(name: &str, team: &str) -> Box<Entry> {
        let value = json!({"metadata": {"name": name, "labels": {"team": team}}});
        Box::new(
            serde_json::from_value::<wire::Namespace>(value)
                .expect("decodes")
                .convert(),
        )
    }

    fn names(cluster: &Cluster) -> Vec<String> {
        cluster
            .objects
            .snapshot(1, &[])
            .namespaces
            .keys()
            .cloned()
            .collect()
    }

    #[test]
    fn b1_complete_only_when_every_kind_was_listed_or_is_missing() {
        let mut cluster = Cluster::default();
        for kind in Kind::ALL {
            assert!(!cluster.is_complete());
            cluster.apply(kind, Update::Listing);
            assert!(!cluster.is_complete());
            let done = if kind == Kind::EndpointSlice {
                Update::Missing
            } else {
                Update::ListDone(Vec::new())
            };
            assert!(
                cluster.apply(kind, done),
                "the first list counts, also an empty one"
            );
        }
        assert!(cluster.is_complete());
    }

    #[test]
    fn a_second_list_takes_away_what_it_does_not_name_when_it_is_done() {
        let mut cluster = Cluster::default();
        let kind = Kind::Namespace;
        cluster.apply(kind, Update::Listing);
        cluster.apply(kind, Update::Listed(vec![*namespace("a", "x")]));
        cluster.apply(kind, Update::ListDone(vec![*namespace("b", "x")]));
        cluster.apply(kind, Update::Listing);
        assert!(
            !cluster.apply(kind, Update::Listed(vec![*namespace("b", "x")])),
            "nothing new"
        );
        assert_eq!(
            names(&cluster),
            ["a", "b"],
            "an incomplete list takes nothing away"
        );
        cluster.apply(kind, Update::Listing);
        cluster.apply(kind, Update::Listed(vec![*namespace("b", "x")]));
        assert!(cluster.apply(kind, Update::ListDone(Vec::new())));
        assert_eq!(names(&cluster), ["b"]);
    }

    #[test]
    fn p7_only_what_policy_reads_is_a_change() {
        let mut cluster = Cluster::default();
        let kind = Kind::Namespace;
        assert!(cluster.apply(kind, Update::Changed(namespace("a", "x"))));
        assert!(!cluster.apply(kind, Update::Changed(namespace("a", "x"))));
        assert!(cluster.apply(kind, Update::Changed(namespace("a", "y"))));
        let id = namespace("a", "y").object.id();
        assert!(cluster.apply(kind, Update::Deleted(id.clone())));
        assert!(!cluster.apply(kind, Update::Deleted(id)));
    }
}
