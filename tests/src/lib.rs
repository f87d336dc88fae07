// SPDX-License-Identifier: Apache-2.0
//! Test harness: nodes and pods made of network namespaces, probes that are real connections, the
//! agent as a child process, the corpus of cases, random clusters. Everything is named
//! after this process and removed on drop.
//!
//! `tests/bench` and `tests/demo` are packages of their own, over this one.

pub mod agent;
pub mod apiserver;
pub mod canonical;
pub mod capture;
pub mod cases;
pub mod chart;
pub mod cluster;
pub mod container;
pub mod deploy;
pub mod empty;
pub mod expectation;
pub mod flush;
pub mod frames;
pub mod frontend_verdict;
pub mod fuzz;
pub mod kernel;
pub mod lab;
pub mod lookup;
pub mod manifests;
pub mod netns;
pub mod node;
pub mod objects;
pub mod overlay;
pub mod pair;
pub mod privilege;
pub mod probe;
pub mod progrun;
pub mod proxy;
pub mod random;
pub mod raw;
pub mod scenario;
pub mod seeds;
pub mod server;
pub mod services;
pub mod shown;
pub mod slow;
pub mod synthetic;
pub mod tables;
pub mod two_nodes;
pub mod wire;
