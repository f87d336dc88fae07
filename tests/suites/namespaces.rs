// SPDX-License-Identifier: Apache-2.0
//! Rules with real packets: the agent on a node with pods, as in production. Each test names the
//! rules that it proves.

#[path = "namespaces/astray.rs"]
mod astray;
#[path = "namespaces/attackers.rs"]
mod attackers;
#[path = "namespaces/binding.rs"]
mod binding;
#[path = "namespaces/bound.rs"]
mod bound;
#[path = "namespaces/bridged.rs"]
mod bridged;
#[path = "namespaces/changes.rs"]
mod changes;
#[path = "namespaces/forwards.rs"]
mod forwards;
#[path = "namespaces/hooks.rs"]
mod hooks;
#[path = "namespaces/lifetime.rs"]
mod lifetime;
#[path = "namespaces/link.rs"]
mod link;
#[path = "namespaces/shared.rs"]
mod shared;
#[path = "namespaces/startup.rs"]
mod startup;
#[path = "namespaces/verdicts.rs"]
mod verdicts;
