// SPDX-License-Identifier: Apache-2.0
//! The pods of these tests, and their policies.

use std::{fs, path::Path};

use netpol_tests::{
    lab::{Lab, SERVICES},
    privilege::can_enforce,
    probe::Service,
};

const SUITE: &str = "namespaces";
/// Pods and their labels.
pub const PODS: [(&str, &str); 3] = [("shop/a", "app: a"), ("shop/b", "app: b"), ("other/c", "app: c")];
/// Services of conversations.
pub const TCP: [Service; 1] = [SERVICES[0]];

/// Makes a policy in namespace `shop` for pods with `app: a`, isolated in both directions, with
/// these rules.
pub fn policy_of_a(rules: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{namespace: shop, name: a}}\nspec:\n  \
         podSelector: {{matchLabels: {{app: a}}}}\n  policyTypes: [Ingress, Egress]\n  {rules}\n"
    )
}

/// Rules for [`policy_of_a`].
pub const TO_B: &str = "egress: [{to: [{podSelector: {matchLabels: {app: b}}}]}]";

/// Makes a node with [`PODS`] and the agent, where that is possible.
pub fn lab(policies: &[(&str, &str)]) -> Option<Lab> {
    can_enforce(SUITE).then(|| Lab::new(&PODS, policies).unwrap())
}

/// Returns the number of files below a folder.
pub fn count(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    entries
        .filter_map(Result::ok)
        .map(|entry| {
            if entry.path().is_dir() {
                count(&entry.path())
            } else {
                1
            }
        })
        .sum()
}
