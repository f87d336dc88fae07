// SPDX-License-Identifier: Apache-2.0
//! Objects that are converted as they are decoded. What is read of one is freed before the next is
//! read, and its memory used again: a page held as it is written makes a start slower.

use std::{borrow::Cow, marker::PhantomData};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Deserializer};

use crate::watch::{object::Entry, wire::Wire};

/// An object of the model, decoded as `T`.
#[derive(Debug, Clone)]
pub(super) struct Decoded<T> {
    pub entry: Entry,
    /// Only the version, from which a watch goes on.
    metadata: Box<ObjectMeta>,
    kind: PhantomData<T>,
}

impl<'de, T: Wire> Deserialize<'de> for Decoded<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut object = T::deserialize(deserializer)?;
        let metadata = ObjectMeta {
            resource_version: object.metadata_mut().resource_version.take(),
            ..ObjectMeta::default()
        };
        Ok(Self {
            entry: object.convert(),
            metadata: Box::new(metadata),
            kind: PhantomData,
        })
    }
}

impl<T: Wire> Resource for Decoded<T> {
    type DynamicType = ();
    type Scope = T::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        T::KIND.name().into()
    }
    fn group((): &()) -> Cow<'_, str> {
        T::KIND.group_and_version().0.into()
    }
    fn version((): &()) -> Cow<'_, str> {
        T::KIND.group_and_version().1.into()
    }
    fn plural((): &()) -> Cow<'_, str> {
        T::KIND.resource().into()
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::kinds::{ByKind, Kind};

    struct Path;

    impl ByKind for Path {
        type Output = (String, String, String);

        fn visit<T: Wire>(self) -> Self::Output {
            let (kind, version) = (Decoded::<T>::kind(&()), Decoded::<T>::api_version(&()));
            (kind.into(), version.into(), Decoded::<T>::url_path(&(), None))
        }
    }

    #[test]
    fn resources_are_where_the_api_server_has_them() {
        let paths = [
            "/api/v1/nodes",
            "/api/v1/namespaces",
            "/api/v1/pods",
            "/apis/networking.k8s.io/v1/networkpolicies",
            "/api/v1/services",
            "/apis/discovery.k8s.io/v1/endpointslices",
        ];
        for (kind, path) in Kind::ALL.into_iter().zip(paths) {
            let expected = (kind.name(), kind.api_version(), path);
            let (name, version, path) = kind.with(Path);
            assert_eq!((name.as_str(), version.as_str(), path.as_str()), expected);
        }
        assert_eq!(Kind::ALL.len(), paths.len());
    }

    #[test]
    fn a_watch_goes_on_behind_the_version_of_the_last_event() {
        use crate::watch::wire;
        use kube::{ResourceExt as _, core::WatchEvent};

        for kind in ["ADDED", "MODIFIED", "DELETED"] {
            let event = serde_json::json!({"type": kind, "object": {"metadata": {"name": "a", "resourceVersion": "7"}}});
            let event = serde_json::from_str::<WatchEvent<Decoded<wire::Pod>>>(&event.to_string()).unwrap();
            let (WatchEvent::Added(pod) | WatchEvent::Modified(pod) | WatchEvent::Deleted(pod)) = event
            else {
                panic!("{kind}")
            };
            assert_eq!(pod.resource_version().as_deref(), Some("7"));
        }
    }
}
