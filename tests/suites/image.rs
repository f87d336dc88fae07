// SPDX-License-Identifier: Apache-2.0
//! The shipped image: the agent from the image's archive, in a container as `deploy/netpol.yaml`
//! requests it, on a node with pods and with a real API server. Differences to a cluster: this test
//! starts the container under runc, without a kubelet; the node's folders lie below one of the
//! test; the seccomp profile, containerd's, is a copy in `tests/container/seccomp.json`.

#[path = "image/archive.rs"]
mod archive;
#[path = "image/capabilities.rs"]
mod capabilities;
#[path = "image/enforces.rs"]
mod enforces;
#[path = "image/node.rs"]
mod node;
#[path = "image/shared.rs"]
mod shared;
#[path = "image/tools.rs"]
mod tools;
#[path = "image/upgrade.rs"]
mod upgrade;
