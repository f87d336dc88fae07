// SPDX-License-Identifier: Apache-2.0
//! Budgets for objects (rule L2): by object, by namespace and in all.
//!
//! They are chosen so that one namespace leaves room for many others, and that all together fit the
//! maps and the agent's memory. Real clusters stay far below them. Objects over budget are isolated
//! and reported.

/// Budget of one resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Limit for one object.
    pub object: usize,
    /// Limit for all objects of one namespace that count.
    pub namespace: usize,
    /// Limit for all objects that count. If they would use more, namespaces share: each gets what
    /// it asks for, up to the level at which all fit. So a namespace that asks for much takes
    /// nothing from those that ask for little.
    pub all: usize,
}

/// All budgets. Tests use smaller ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Budgets of the NetworkPolicies that select a pod of the node, in the order of
    /// [`POLICY_RESOURCES`].
    pub policies: [Limit; 5],
    /// Budget of prefixes together with rules for everyone's addresses.
    pub everyones: Everyones,
    /// Budgets of Services, in the order of [`SERVICE_RESOURCES`].
    pub services: [Limit; 2],
    /// Budget of entries in map `policies` for the pods of a namespace on this node, with all rules
    /// that isolate them. `object` limits one pod in one direction.
    pub entries: Limit,
    /// Budget of entries in map `restricted`: backends of a namespace's Services that not all pods
    /// of the node may reach, while they may reach other backends of the same Service. `object`
    /// limits one Service.
    pub restricted: Limit,
}

/// Budget of prefixes. Each prefix of an `ipBlock` makes a class of addresses. A rule about
/// everyone's addresses has entries for each class, whoever wrote either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Everyones {
    /// Limit of a node's prefixes multiplied by its entries for everyone's addresses. If the
    /// product would be greater, fewer prefixes are allowed in all.
    pub most: usize,
    /// Least number of prefixes that is always allowed in all.
    pub least: usize,
    /// Number of prefixes that a namespace may always have. It also limits how many of its entries
    /// for everyone's addresses count here, so that a namespace with many takes no prefixes from
    /// others. The cost of these entries is the namespace's own, in [`Limits::entries`].
    pub each: usize,
}

/// Names of the resources that NetworkPolicies use.
pub const POLICY_RESOURCES: [&str; 5] = [
    "pairs of peers and ports",
    "prefixes of ipBlocks",
    "ipBlocks around one address",
    "requirements of selectors and their values",
    "entries for everyone's addresses",
];

/// Index of the prefixes in [`POLICY_RESOURCES`].
pub(crate) const PREFIXES: usize = 1;
/// Index of the entries for everyone's addresses.
pub(crate) const WIDE: usize = 4;

/// Names of the resources that Services use.
pub const SERVICE_RESOURCES: [&str; 2] = [
    "addresses with ports",
    "pairs of an address with a port and a backend",
];

impl Default for Limits {
    fn default() -> Self {
        let limit = |object, namespace, all| Limit {
            object,
            namespace,
            all,
        };
        Self {
            policies: [
                // 9,000 prefixes of a cloud's published ranges by 7 ports. A rule counts as at
                // least 16, because the agent needs time to go through the rules for each class.
                limit(1 << 16, 1 << 17, 1 << 19),
                // Each takes a place in `identities` and `addresses`, which have room for 1,310,720
                // entries, pods included.
                limit(1 << 14, 1 << 15, 1 << 16),
                // Prefixes multiplied by these are the cost of computing the regions of addresses,
                // in memory and time.
                limit(64, 128, 512),
                // Each is compared with the labels of every set of pods that are alike, and takes
                // memory.
                limit(1 << 12, 1 << 14, 1 << 16),
                // Counted for `everyones`. The pairs above limit it otherwise.
                limit(1 << 19, 1 << 19, 1 << 19),
            ],
            // Three quarters of the entries that the limit below allows: 9,000 prefixes fit with
            // 174 entries.
            everyones: Everyones {
                most: 3 << 19,
                least: 1 << 10,
                each: 1 << 6,
            },
            services: [
                // Map `frontends` has room for 262,144.
                limit(1 << 13, 1 << 14, 3 << 16),
                // Each takes about 100 bytes of memory.
                limit(1 << 17, 1 << 17, 1 << 21),
            ],
            // Maps `policies` and `ports` have room for 4,456,448 entries. A class may have several
            // identities, and an old policy coexists with the new one while endpoints change. Half
            // of the room is kept for that.
            entries: limit(1 << 19, 1 << 20, 1 << 21),
            // Map `restricted` has room for 262,144. Entries that are no longer needed are removed
            // after new ones are written.
            restricted: limit(1 << 15, 1 << 16, 1 << 17),
        }
    }
}
