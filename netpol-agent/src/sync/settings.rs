// SPDX-License-Identifier: Apache-2.0
//! What the agent was told of what the programs do.

use netpol_common::abi::{ABI_VERSION, Config, Lifetimes};

/// Settings in map `config`. A new one is a field here and in [`Config`], and an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    /// Events of dropped packets that each CPU may report in a second; 0: none.
    pub events_per_second: u32,
    /// How long flows may be silent, seconds; 0: the default.
    pub lifetimes: Lifetimes,
}

impl Settings {
    /// The entry of map `config` with these settings, and all else as it is.
    pub fn applied_to(self, config: Config) -> Config {
        let Self {
            events_per_second,
            lifetimes,
        } = self;
        Config {
            abi_version: ABI_VERSION,
            events_per_second,
            lifetimes,
            ..config
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::{
        compile::Compiled,
        sync::{Desired, Memory, State, Write, plan},
    };

    /// The plan's entries of map `config`, in order.
    fn configs(state: &State, settings: Settings) -> Vec<Config> {
        let desired = Desired {
            compiled: &Compiled::default(),
            pods: &BTreeMap::new(),
            present: &BTreeSet::new(),
            devices: &BTreeSet::new(),
            closed: &BTreeSet::new(),
            bridges: &BTreeMap::new(),
            links: &BTreeMap::new(),
            settings,
        };
        let plan = plan(state, &Memory::default(), desired);
        let configs = plan.writes().filter_map(|write| match write {
            Write::Config(config) => Some(*config),
            _ => None,
        });
        configs.collect()
    }

    #[test]
    fn settings_are_in_the_first_write_of_the_configuration_and_change_nothing_else() {
        let settings = Settings {
            events_per_second: 7,
            lifetimes: Lifetimes {
                icmp: 9,
                ..Lifetimes::default()
            },
        };
        let mut state = State::default();
        state.config.next_policy = 40;
        let written = configs(&state, settings)[0];
        assert_eq!(
            (
                written.events_per_second,
                written.lifetimes.icmp,
                written.next_policy
            ),
            (7, 9, 40)
        );
        state.config = written;
        let again = configs(&state, settings);
        assert!(
            again.iter().all(|config| config.epoch > written.epoch),
            "{again:?}"
        );
        let changed = configs(&state, Settings::default())[0];
        assert_eq!((changed.events_per_second, changed.lifetimes.icmp), (0, 0));
    }
}
