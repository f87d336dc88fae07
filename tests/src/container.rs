// SPDX-License-Identifier: Apache-2.0
//! The image as a kubelet and a runtime start it: unpacked from the archive, under runc, with what
//! `deploy/netpol.yaml` says of mounts, capabilities, user, seccomp profile, root and arguments.
//! The node is one of network namespaces; the folders of the node that the DaemonSet mounts lie
//! below a folder of the test.

mod host;
mod image;
mod process;
mod spec;

pub use host::Host;
pub use image::{IMAGE, Image, archive};
pub use process::Container;
pub use spec::Given;
