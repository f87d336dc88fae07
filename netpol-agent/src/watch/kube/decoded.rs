// SPDX-License-Identifier: Apache-2.0
//! Objects that are converted as they are decoded. What is read of one is freed before the next is
//! read: a page of pods held as they are written costs more than all else that a start does.

use std::{borrow::Cow, marker::PhantomData};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Deserializer};

use super::super::{object::Entry, wire::Wire};

/// An object of the model, decoded as `T`.
#[derive(Debug, Clone)]
pub(super) struct Decoded<T> {
    pub entry: Entry,
    /// Only the version, which the client library asks for.
    metadata: Box<ObjectMeta>,
    kind: PhantomData<T>,
}

impl<'de, T: Wire> Deserialize<'de> for Decoded<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut object = T::deserialize(deserializer)?;
        let metadata = ObjectMeta {
            resource_version: object.meta_mut().resource_version.take(),
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
        T::kind(&())
    }
    fn group((): &()) -> Cow<'_, str> {
        T::group(&())
    }
    fn version((): &()) -> Cow<'_, str> {
        T::version(&())
    }
    fn plural((): &()) -> Cow<'_, str> {
        T::plural(&())
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
