// SPDX-License-Identifier: Apache-2.0
//! Runs `netpol explain` and `netpol matrix` as people do: against the corpus of cases, and against
//! a running agent.

#[path = "explain/agent.rs"]
mod agent;
#[path = "explain/answers.rs"]
mod answers;
#[path = "explain/api_server.rs"]
mod api_server;
#[path = "explain/corpus.rs"]
mod corpus;
#[path = "explain/documents.rs"]
mod documents;
#[path = "explain/doubts.rs"]
mod doubts;
#[path = "explain/example.rs"]
mod example;
#[path = "explain/exit_codes.rs"]
mod exit_codes;
#[path = "explain/folds.rs"]
mod folds;
#[path = "explain/held.rs"]
mod held;
#[path = "explain/host_ports.rs"]
mod host_ports;
#[path = "explain/matrix.rs"]
mod matrix;
#[path = "explain/restricted.rs"]
mod restricted;
#[path = "explain/shared.rs"]
mod shared;
#[path = "explain/tunnels.rs"]
mod tunnels;
