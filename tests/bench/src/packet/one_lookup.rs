// SPDX-License-Identifier: Apache-2.0
//! Measures one lookup in a map: lookups are most of a path's cost.

use std::os::fd::AsFd as _;

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData};
use netpol_agent::datapath::pin;
use netpol_common::abi::{Address, Endpoint, Flow, FlowKey, Peer};

use super::{path::Cost, world::World};
use netpol_tests::empty::Empty;

/// The maps for a packet that continues a connection, and the map for a denied packet's other end.
pub const MAPS: [&str; 3] = ["endpoints", "flows", "addresses"];
const FRAME: [u8; 60] = [0; 60];
const TIMES: u32 = 20_000;
const ATTEMPTS: usize = 7;

/// Measures a program that looks up one existing key, and the empty program right before.
///
/// # Errors
/// There is no such map, or nothing in it.
pub fn measure(world: &World, map: &str) -> Result<Cost> {
    let path = pin(world.bench.pin_path(), map);
    let pinned = || MapData::from_pin(&path).with_context(|| format!("opening {}", path.display()));
    let key = match map {
        "endpoints" => first::<4, { size_of::<Endpoint>() }>(Map::HashMap(pinned()?)),
        "flows" => first::<{ size_of::<FlowKey>() }, { size_of::<Flow>() }>(Map::HashMap(pinned()?)),
        _ => first::<{ size_of::<Address>() }, { size_of::<Peer>() }>(Map::HashMap(pinned()?)),
    };
    let key = key.with_context(|| format!("a key of map {map}"))?;
    let program = Empty::with_lookup(pinned()?.fd().as_fd(), &key)?;
    let least = |program: &Empty| -> Result<f64> {
        let times = (0..ATTEMPTS).map(|_| program.time(&FRAME, TIMES));
        let times: Vec<_> = times.collect::<Result<_>>()?;
        Ok(times.into_iter().min().unwrap_or_default().as_nanos() as f64)
    };
    Ok(Cost {
        empty: least(&world.empty)?,
        path: least(&program)?,
    })
}

fn first<const KEY: usize, const VALUE: usize>(map: Map) -> Result<Vec<u8>> {
    let map = HashMap::<_, [u8; KEY], [u8; VALUE]>::try_from(map)?;
    let key = map.keys().next().context("it is empty")??;
    Ok(key.to_vec())
}
