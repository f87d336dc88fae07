// SPDX-License-Identifier: Apache-2.0
//! The Helm chart and the kustomization: rendered by Helm and kubectl, and applied to a real API
//! server. Every flag, mount and capability in a rendering is one that exists.

#[path = "chart/api_server.rs"]
mod api_server;
#[path = "chart/flags.rs"]
mod flags;
#[path = "chart/kustomization.rs"]
mod kustomization;
#[path = "chart/nodes.rs"]
mod nodes;
#[path = "chart/schema.rs"]
mod schema;
#[path = "chart/shared.rs"]
mod shared;
#[path = "chart/uninstall.rs"]
mod uninstall;
#[path = "chart/values.rs"]
mod values;
