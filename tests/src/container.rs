// SPDX-License-Identifier: Apache-2.0
//! Runs the image as a kubelet and a runtime do: unpacked from the archive, under runc, with the
//! mounts, capabilities, user, seccomp profile, root and arguments of `deploy/netpol.yaml`. The
//! node is made of network namespaces. The node's folders that the DaemonSet mounts lie below a
//! folder of the test.

mod host;
mod image;
mod process;
mod spec;

pub use host::Host;
pub use image::{IMAGE, Image, archive};
pub use process::Container;
pub use spec::Given;
