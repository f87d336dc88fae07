// SPDX-License-Identifier: Apache-2.0
//! Paths through the programs, each with a frame that always takes it, and their cost.

use std::{fmt, net::IpAddr, time::Duration};

use anyhow::{Result, ensure};
use netpol_agent::{datapath::attach::Hook, evaluate::Packet};

use super::world::{World, local_address};
use netpol_tests::frames::{self, headers};

/// Runs in one measurement, on one buffer.
const TIMES: u32 = 20_000;
/// Fewer if each run leaves an event: the ring buffer has room for 5,957.
const TIMES_WITH_EVENTS: u32 = 5_000;
/// Number of measurements, of which the smallest counts: disturbances only add time.
const ATTEMPTS: usize = 7;
/// Enough to report every drop.
const ALL_EVENTS: u32 = u32::MAX;

const TCP: u8 = 6;
/// Source port of the side that opens a connection.
const SOURCE_PORT: u16 = 40_000;

/// What a packet meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meets {
    /// A known flow.
    Established,
    /// A policy that accepts it; its flow is made. TCP: each SYN is judged anew and replaces the
    /// previous flow.
    Accept,
    /// A policy that denies it.
    Deny,
    /// A policy that denies it, and an event is written.
    DenyWithEvent,
}

/// Location of the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// On another node.
    Remote,
    /// On the same node.
    Local,
}

/// A path through a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    /// The program that runs.
    pub hook: Hook,
    /// What the packet meets.
    pub meets: Meets,
    /// True if the pod is isolated.
    pub isolated: bool,
    /// True if the other side opened the connection, for [`Meets::Established`].
    pub reply: bool,
    /// Location of the other side.
    pub side: Side,
    /// True for TCP, false for UDP.
    pub tcp: bool,
    /// True for IPv4, false for IPv6.
    pub ipv4: bool,
}

impl Path {
    /// Returns the path of TCP over IPv4 with a peer on another node, at an isolated pod.
    pub const fn usual(hook: Hook, meets: Meets) -> Self {
        Self {
            hook,
            meets,
            isolated: true,
            reply: false,
            side: Side::Remote,
            tcp: true,
            ipv4: true,
        }
    }

    /// Returns the protocol's name.
    pub const fn protocol(&self) -> &'static str {
        if self.tcp { "TCP" } else { "UDP" }
    }

    /// Returns the address family's name.
    pub const fn family(&self) -> &'static str {
        if self.ipv4 { "IPv4" } else { "IPv6" }
    }
}

impl fmt::Display for Meets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Established => "established",
            Self::Accept => "first allowed",
            Self::Deny => "first denied",
            Self::DenyWithEvent => "first denied with event",
        })
    }
}

/// A frame at a hook.
#[derive(Debug, Clone)]
pub struct Step {
    /// The program.
    pub hook: Hook,
    /// The interface where it runs.
    pub ifindex: u32,
    /// The interface that the frame came from.
    pub came_by: u32,
    /// The frame.
    pub frame: Vec<u8>,
}

/// The frames of a path: those that prepare it, and the measured one.
#[derive(Debug, Clone)]
pub struct Script {
    /// Frames that make the flow.
    pub before: Vec<Step>,
    /// The measured frame.
    pub step: Step,
    /// True if it passes.
    pub passes: bool,
}

impl Path {
    /// Returns the frames of this path in a world.
    ///
    /// # Errors
    /// The world lacks a pod.
    pub fn script(&self, world: &World) -> Result<Script> {
        let own = local_address(if self.isolated { "isolated" } else { "free" }, self.ipv4);
        let peer = match self.side {
            Side::Remote => world.peer(self.ipv4),
            Side::Local => local_address("local", self.ipv4),
        };
        let ifindex = world.interface(own)?;
        let denied = matches!(self.meets, Meets::Deny | Meets::DenyWithEvent);
        let port = if denied {
            world.closed_port()
        } else {
            world.open_port()
        };
        // The opener: at from_pod the pod itself sends requests, and its peer opened what it
        // replies to.
        let by_pod = (self.hook == Hook::FromPod) != self.reply;
        let (opener, opened) = if by_pod { (own, peer) } else { (peer, own) };
        let came_by = match self.side {
            Side::Remote => world.bench.uplink(),
            Side::Local => world.interface(peer)?,
        };
        let step = |to_opener: bool, syn: bool| -> Step {
            let hook = if by_pod == to_opener {
                Hook::ToPod
            } else {
                Hook::FromPod
            };
            let mut frame = self.frame(opener, opened, port, to_opener);
            if self.tcp {
                let flags = match (syn, to_opener) {
                    (true, false) => 0x02,
                    (true, true) => 0x12,
                    (false, _) => 0x10,
                };
                let at = headers::behind_ip(&frame);
                let tcp = &mut frame[at..];
                tcp[13] = flags;
                // All frames have the same sequence number, so the next one acknowledges the answer
                // to a SYN.
                let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
                tcp[8..12].copy_from_slice(&sequence.wrapping_add(1).to_be_bytes());
            }
            let came_by = if hook == Hook::ToPod { came_by } else { ifindex };
            Step {
                hook,
                ifindex,
                came_by,
                frame,
            }
        };
        Ok(match self.meets {
            Meets::Established => Script {
                before: vec![step(false, true), step(true, true), step(false, false)],
                step: step(self.reply, false),
                passes: true,
            },
            Meets::Accept | Meets::Deny | Meets::DenyWithEvent => Script {
                before: Vec::new(),
                step: step(false, true),
                passes: !denied,
            },
        })
    }

    fn frame(&self, opener: IpAddr, opened: IpAddr, port: u16, to_opener: bool) -> Vec<u8> {
        let (source, destination) = if to_opener {
            (opened, opener)
        } else {
            (opener, opened)
        };
        let (source_port, port) = if to_opener {
            (port, SOURCE_PORT)
        } else {
            (SOURCE_PORT, port)
        };
        let packet = Packet {
            source,
            destination,
            protocol: if self.tcp { TCP } else { 17 },
            port: Some(port),
        };
        frames::opening(&packet, source_port)
    }
}

/// Cost of a path, and of the empty program right before and after: nanoseconds per run, the
/// minimum of several measurements.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// The path.
    pub path: f64,
    /// The empty program, on the same frame.
    pub empty: f64,
}

/// Measures a path in a world.
///
/// # Errors
/// A frame gets another verdict, or takes another path, than the one it is measured for.
pub fn measure(world: &mut World, path: Path) -> Result<Cost> {
    let with_events = path.meets == Meets::DenyWithEvent;
    let script = path.script(world)?;
    let times = if with_events { TIMES_WITH_EVENTS } else { TIMES };
    if with_events {
        world.enforce(ALL_EVENTS)?;
        world.bench.drain_events()?;
    }
    world.bench.forget_flows()?;
    for step in &script.before {
        ensure!(run(world, step, 1)?.0, "{path:?}: {step:?} is dropped");
    }
    let (mut least, mut empty) = (Duration::MAX, Duration::MAX);
    for _ in 0..ATTEMPTS {
        empty = empty.min(world.empty.time(&script.step.frame, times)?);
        let (passed, took) = run(world, &script.step, times)?;
        ensure!(
            passed == script.passes,
            "{path:?}: passed {passed}, not {}",
            script.passes
        );
        least = least.min(took);
        if with_events {
            let events = world.bench.drain_events()?;
            ensure!(events == times as usize, "{path:?}: {events} events of {times}");
        }
    }
    check_flows(world, &path)?;
    if with_events {
        world.enforce(0)?;
    }
    let nanoseconds = |duration: Duration| duration.as_nanos() as f64;
    Ok(Cost {
        path: nanoseconds(least),
        empty: nanoseconds(empty),
    })
}

fn run(world: &mut World, step: &Step, times: u32) -> Result<(bool, Duration)> {
    world
        .bench
        .time(step.hook, step.ifindex, step.came_by, &step.frame, times)
}

/// Checks the flow's packet count: every packet of an established connection, only the last SYN, or
/// no flow at all.
fn check_flows(world: &World, path: &Path) -> Result<()> {
    let flows = world.bench.flows()?;
    let counts: Vec<u64> = flows.iter().map(|(_, flow)| flow.packets).collect();
    let expected = match path.meets {
        Meets::Established => vec![u64::from(TIMES) * ATTEMPTS as u64 + 3],
        Meets::Accept => vec![1],
        Meets::Deny | Meets::DenyWithEvent => vec![],
    };
    ensure!(
        counts == expected,
        "{path:?}: flows counted {counts:?} packets, not {expected:?}"
    );
    Ok(())
}

/// Frames that each open a new connection, by their source ports.
const CONNECTIONS: u16 = 1000;

/// Like [`measure`], for first packets of different connections: one run each, with a flow table
/// that is empty at first, or full. Takes the median of a thousand. Caches are colder between
/// system calls, also for the empty program.
///
/// # Errors
/// As [`measure`].
pub fn measure_distinct(world: &mut World, path: Path, full: bool, first_port: u16) -> Result<Cost> {
    let script = path.script(world)?;
    let at = headers::behind_ip(&script.step.frame);
    let with_port = |port: u16| {
        let mut frame = script.step.frame.clone();
        headers::put(&mut frame, at, port);
        Step {
            frame,
            ..script.step.clone()
        }
    };
    if full {
        fill(world, &path)?;
    } else {
        world.bench.forget_flows()?;
    }
    let (mut taken, mut empty) = (Vec::new(), Vec::new());
    for number in 0..CONNECTIONS {
        let step = with_port(first_port + number);
        empty.push(world.empty.time(&step.frame, 1)?);
        let (passed, took) = run(world, &step, 1)?;
        ensure!(passed, "{path:?}: dropped");
        taken.push(took);
    }
    let middle = |mut durations: Vec<Duration>| {
        durations.sort();
        durations[durations.len() / 2].as_nanos() as f64
    };
    Ok(Cost {
        path: middle(taken),
        empty: middle(empty),
    })
}

/// Opens more connections than map `flows` can hold.
fn fill(world: &mut World, path: &Path) -> Result<()> {
    let script = path.script(world)?;
    let at = headers::behind_ip(&script.step.frame);
    let mut step = script.step;
    for port in 1..=super::world::FLOWS as u16 + 4096 {
        headers::put(&mut step.frame, at, port);
        run(world, &step, 1)?;
    }
    Ok(())
}
