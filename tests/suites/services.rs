// SPDX-License-Identifier: Apache-2.0
//! Services on two nodes with kube-proxy's rules, real packets and an agent on each node. A test's
//! name says the rule that it proves and kube-proxy's mode.

#[path = "services/claims.rs"]
mod claims;
#[path = "services/egress.rs"]
mod egress;
#[path = "services/ingress.rs"]
mod ingress;
#[path = "services/mechanics.rs"]
mod mechanics;
#[path = "services/shared.rs"]
mod shared;
#[path = "services/stale.rs"]
mod stale;
#[path = "services/worlds.rs"]
mod worlds;

/// Makes tests of functions that take a cluster, one for each mode.
macro_rules! for_each_mode {
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            #[test]
            fn iptables() {
                crate::shared::run(netpol_tests::proxy::Mode::Iptables, super::$name);
            }

            #[test]
            fn nftables() {
                crate::shared::run(netpol_tests::proxy::Mode::Nftables, super::$name);
            }
        }
    )*};
}
pub(crate) use for_each_mode;
