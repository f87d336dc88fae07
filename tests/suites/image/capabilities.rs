// SPDX-License-Identifier: Apache-2.0
//! Without one of the DaemonSet's capabilities, the agent does not pretend that all is well.

use netpol_tests::deploy::CAPABILITIES;

use super::shared::World;

/// The missing capability, the log's message, and whether the agent ends.
const TABLE: [(&str, &str, bool); 4] = [
    ("BPF", "without CAP_BPF:", true),
    ("PERFMON", "without CAP_PERFMON:", true),
    ("NET_ADMIN", "without CAP_NET_ADMIN:", true),
    ("NET_BROADCAST", "CAP_NET_BROADCAST", false),
];

#[test]
fn what_a_missing_capability_costs_shows() {
    let Some(world) = World::new() else { return };
    world.isolate();
    let given = world.deployment.launch("node-a").unwrap().capabilities.unwrap();
    assert_eq!(given, CAPABILITIES);
    assert_eq!(TABLE.map(|(capability, ..)| capability), CAPABILITIES);
    for (capability, says, ends) in TABLE {
        let less = world.deployment.without_capability(capability).unwrap();
        let mut container = world.start_as(&less, None).unwrap();
        container.wait_for_line(says).unwrap();
        if ends {
            let status = container.wait().unwrap();
            assert!(!status.success(), "{capability}: {}", container.log());
        }
    }
}
