// SPDX-License-Identifier: Apache-2.0
//! What an agent loses while it runs, and gets back: answers of the API server, its rights, its
//! token; entries and pins of its maps, its node's bridge; its clock; who reads its log. Each test
//! sees by packets that nothing opens and nothing closes meanwhile, and that changes are enforced
//! again afterwards.

#[path = "faults/answers.rs"]
mod answers;
#[path = "faults/clock.rs"]
mod clock;
#[path = "faults/log.rs"]
mod log;
#[path = "faults/node.rs"]
mod node;
