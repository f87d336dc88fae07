// SPDX-License-Identifier: Apache-2.0
//! What objects may cost (rule L2): budgets by object, by namespace and in all.
//!
//! They are chosen so that what a namespace may use leaves room for many others, and so that all of
//! them together fit the maps and the memory of an agent. What real clusters have is far below
//! them. What is over budget is isolated, and reported.

/// How much of one resource may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// By one object.
    pub object: usize,
    /// By all objects of one namespace that count.
    pub namespace: usize,
    /// By all objects that count. Where they would use more, namespaces share: each has what it
    /// asks for, up to the level at which all of them fit. So whoever asks for more than others
    /// takes nothing from those that ask for little.
    pub all: usize,
}

/// The budgets. A test has smaller ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of the NetworkPolicies that select a pod of the node, in the order of [`POLICY_RESOURCES`].
    pub policies: [Limit; 5],
    /// Of prefixes beside rules for everyone's addresses.
    pub everyones: Everyones,
    /// Of Services, in the order of [`SERVICE_RESOURCES`].
    pub services: [Limit; 2],
    /// Entries of map `policies` that the pods of a namespace, with all rules that isolate them,
    /// may come to on this node: `object` is what one pod may in one direction.
    pub entries: Limit,
    /// Backends of a namespace's Services that not all pods of the node may reach, while they may
    /// reach others of the same Service: places in map `guarded`. `object` is of one Service.
    pub guards: Limit,
}

/// Each prefix of an `ipBlock` makes a class of addresses, and a rule that is about everyone's
/// addresses has its entries for each class, whoever wrote either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Everyones {
    /// Prefixes of a node times entries for everyone's addresses. Where the product would be more,
    /// there may be fewer prefixes in all.
    pub most: usize,
    /// But never fewer than this.
    pub least: usize,
    /// And a namespace may always have this many. It is also the most of its entries for everyone's
    /// addresses that count here: who writes many takes no prefixes from others. What these come to
    /// is its own, in [`Limits::entries`].
    pub each: usize,
}

/// What NetworkPolicies use.
pub const POLICY_RESOURCES: [&str; 5] = [
    "pairs of peers and ports",
    "prefixes of ipBlocks",
    "ipBlocks around one address",
    "requirements of selectors and their values",
    "entries for everyone's addresses",
];

/// Place of the prefixes in [`POLICY_RESOURCES`].
pub(crate) const PREFIXES: usize = 1;
/// Place of the entries for everyone's addresses.
pub(crate) const WIDE: usize = 4;

/// What Services use.
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
                // 9,000 prefixes of a cloud's published ranges by 7 ports. A rule counts as 16 at
                // least: what rules take to go through, for each class, is time.
                limit(1 << 16, 1 << 17, 1 << 19),
                // Each is a place in `identities` and `addresses`, which have room for 1,310,720,
                // pods included.
                limit(1 << 14, 1 << 15, 1 << 16),
                // Prefixes by this is what the regions of addresses take to work out: memory and
                // time.
                limit(64, 128, 512),
                // Each is held against the labels of every set of pods that are alike, and takes
                // memory.
                limit(1 << 12, 1 << 14, 1 << 16),
                // Counted for `everyones`; of its own it is bounded by the pairs above.
                limit(1 << 19, 1 << 19, 1 << 19),
            ],
            // Three quarters of the entries that the limit below lets in: 9,000 prefixes fit beside
            // 174 entries.
            everyones: Everyones {
                most: 3 << 19,
                least: 1 << 10,
                each: 1 << 6,
            },
            services: [
                // Map `frontends` has room for 262,144.
                limit(1 << 13, 1 << 14, 3 << 16),
                // Around 100 bytes of memory each.
                limit(1 << 17, 1 << 17, 1 << 21),
            ],
            // Maps `policies` and `ports` have room for 4,456,448. A class may have several
            // identities, and an old policy stands beside the new one while endpoints change: half
            // is left to that.
            entries: limit(1 << 19, 1 << 20, 1 << 21),
            // Map `guarded` has room for 262,144; what is no longer guarded goes after what is new.
            guards: limit(1 << 15, 1 << 16, 1 << 17),
        }
    }
}
