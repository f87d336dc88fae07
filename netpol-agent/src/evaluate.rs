// SPDX-License-Identifier: Apache-2.0
//! The reference evaluator: one question, answered from the objects by the text of the NetworkPolicy API, slow and obvious.
//! It shares no code with [`crate::compile`] beyond the object types, so that each can be held against the other.
