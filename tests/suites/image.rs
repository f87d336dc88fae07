// SPDX-License-Identifier: Apache-2.0
//! What is shipped: the agent out of the image's archive, in a container as `deploy/netpol.yaml`
//! asks for it, on a node with pods and with a real API server. What differs from a cluster: the
//! container is started by this test under runc, not by a kubelet; the node's folders lie below one
//! of the test; containerd's seccomp profile is the one in `tests/container/seccomp.json`.

#[path = "image/capabilities.rs"]
mod capabilities;
#[path = "image/enforces.rs"]
mod enforces;
#[path = "image/node.rs"]
mod node;
#[path = "image/shared.rs"]
mod shared;
