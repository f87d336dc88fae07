// SPDX-License-Identifier: Apache-2.0
//! Measures a packet on the maps of a running agent: the same programs over the same pinned maps.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Result, ensure};
use netpol_agent::{
    datapath::{
        Datapath, Options,
        attach::{Hook, Mode},
    },
    evaluate::Packet,
};
use nix::net::if_::if_nametoindex;

use crate::changes::{Stage, crowd};
use netpol_tests::{agent::Agent, frames};

/// Runs in one measurement.
const TIMES: u32 = 20_000;
/// Measurements, each of which is a sample.
const SAMPLES: usize = 7;
/// The action that drops a packet.
const TC_ACT_SHOT: i32 = 2;
/// An address outside that no policy of a cluster names.
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 88, 99, 7));

/// Measures, in nanoseconds, a SYN from outside that the first local pod's policies deny: every
/// table is searched in vain.
///
/// # Errors
/// If the programs cannot be loaded, or the packet passes.
pub fn denied(stage: &Stage, agent: &Agent) -> Result<Vec<f64>> {
    let pod = stage.local_pod(0);
    let frame = frames::opening(
        &Packet {
            source: STRANGER,
            destination: crowd::address(0),
            protocol: 6,
            port: Some(1),
        },
        40_000,
    );
    let veth = stage.node.veth(&pod)?;
    let options = Options {
        pin_path: agent.pin_path().to_owned(),
        attach: Mode::Auto,
        flow_capacity: None,
        log_level: 0,
    };
    stage.node.netns().run(|| {
        let (ifindex, uplink) = (if_nametoindex(veth)?, if_nametoindex("uplink0")?);
        let mut datapath = Datapath::open(&options)?;
        let mut times = Vec::new();
        while times.len() < SAMPLES {
            let (action, took) = datapath.run_often(Hook::ToPod, &frame, ifindex, uplink, TIMES)?;
            ensure!(action == TC_ACT_SHOT, "the packet to {pod} passes");
            times.push(took.as_nanos() as f64);
        }
        Ok(times)
    })
}
