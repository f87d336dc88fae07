// SPDX-License-Identifier: Apache-2.0
//! One cluster for each mode, shared by the tests. The last of them removes it.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use netpol_tests::{
    privilege::can_enforce,
    proxy::Mode,
    two_nodes::{Cluster, World},
};

#[derive(Default)]
struct Clusters {
    iptables: Mutex<Option<Cluster>>,
    nftables: Mutex<Option<Cluster>>,
}

static SHARED: Mutex<Weak<Clusters>> = Mutex::new(Weak::new());

/// Runs a test on the cluster of a mode, reset and without policies.
pub fn run(mode: Mode, test: fn(&mut Cluster)) {
    if !can_enforce("services") {
        return;
    }
    let clusters = {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let clusters = Arc::default();
            *shared = Arc::downgrade(&clusters);
            clusters
        })
    };
    let slot = match mode {
        Mode::Iptables => &clusters.iptables,
        Mode::Nftables => &clusters.nftables,
    };
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = slot.get_or_insert_with(|| Cluster::with_agents(World::usual(mode)).unwrap());
    cluster.reset().unwrap();
    test(cluster);
}

/// Makes a policy in namespace `shop` for the pods with label `app`. `types` are its policy types,
/// `rules` its `ingress` and `egress`.
pub fn policy(app: &str, types: &str, rules: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{namespace: shop, name: {app}-{}}}\nspec:\n  \
         podSelector: {{matchLabels: {{app: {app}}}}}\n  policyTypes: [{types}]\n  {rules}\n",
        types.to_lowercase().replace(", ", "-")
    )
}

/// Makes a policy that isolates the pods with label `app` for egress, with these `egress` rules.
pub fn egress(app: &str, rules: &str) -> String {
    policy(app, "Egress", &format!("egress: [{rules}]"))
}

/// Makes a policy that isolates the pods with label `app` for ingress, with these `ingress` rules.
pub fn ingress(app: &str, rules: &str) -> String {
    policy(app, "Ingress", &format!("ingress: [{rules}]"))
}
