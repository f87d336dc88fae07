// SPDX-License-Identifier: Apache-2.0
//! The flags of the program and those of the chart are the same.

use std::collections::BTreeSet;

use clap::{CommandFactory, Parser};
use netpol_agent::cli::Cli;
use netpol_tests::chart::containers;
use serde_json::Value;

use super::{
    shared::{arguments, pod, tools},
    values::{AGENT, renderings},
};

/// Flags of the agent without a value of the chart.
const NOT_IN_THE_CHART: [&str; 3] = [
    // The service account is its configuration.
    "kubeconfig",
    "help",
    // Variable NODE_NAME has it, which differs by node.
    "node-name",
];

/// Panics unless the program takes these arguments. Variables are not set here.
fn assert_taken(arguments: &[String], container: &Value) {
    let mut words: Vec<&str> = vec!["netpol"];
    words.extend(arguments.iter().map(String::as_str));
    if arguments[0] == "agent" {
        let field = &container["env"][0];
        assert_eq!(field["name"], "NODE_NAME");
        assert_eq!(field["valueFrom"]["fieldRef"]["fieldPath"], "spec.nodeName");
        words.push("--node-name=node-a");
    }
    if let Err(error) = Cli::try_parse_from(&words) {
        panic!("{words:?}: {error}");
    }
}

#[test]
fn every_flag_in_a_rendering_exists_and_takes_its_value() {
    let Some(tools) = tools() else { return };
    for (values, rendering) in renderings(&tools) {
        let mut seen = 0;
        for container in rendering.pods().flat_map(containers) {
            assert_taken(&arguments(container), container);
            seen += 1;
        }
        assert!(seen > 0, "{values}");
    }
}

#[test]
fn every_flag_of_the_agent_is_in_a_rendering() {
    let Some(tools) = tools() else { return };
    let mut program = Cli::command();
    program.build();
    let agent = program.find_subcommand("agent").unwrap();
    let flags: BTreeSet<&str> = agent.get_arguments().filter_map(clap::Arg::get_long).collect();
    assert!(flags.contains("listen") && flags.contains("log"), "{flags:?}");
    let mut rendered = BTreeSet::new();
    for (_, rendering) in renderings(&tools) {
        for argument in &arguments(&pod(&rendering, AGENT)["containers"][0])[1..] {
            let name = argument.trim_start_matches("--").split('=').next().unwrap();
            rendered.insert(name.to_owned());
        }
    }
    let missing: BTreeSet<_> = flags
        .into_iter()
        .filter(|flag| !rendered.contains(*flag))
        .collect();
    assert_eq!(missing, NOT_IN_THE_CHART.into());
}
