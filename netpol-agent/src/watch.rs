// SPDX-License-Identifier: Apache-2.0
//! Where objects come from: a Kubernetes API server, or a folder of manifests. Both feed the same [`Snapshot`]s.
