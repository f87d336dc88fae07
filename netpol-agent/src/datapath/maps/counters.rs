// SPDX-License-Identifier: Apache-2.0
//! Map `counters`.

use std::path::Path;

use aya::maps::{MapData, PerCpuArray};
use netpol_common::abi::{Counters, Direction};

use super::{MapError, Named as _};

/// The map of counters, opened by its pin.
pub struct CounterMap(PerCpuArray<MapData, Counters>);

impl CounterMap {
    /// Opens a pinned map.
    pub fn open(path: &Path) -> Result<Self, MapError> {
        let data = MapData::from_pin(path).on("counters", "opening")?;
        Ok(Self(
            PerCpuArray::try_from(aya::maps::Map::PerCpuArray(data)).on("counters", "opening")?,
        ))
    }

    /// The sums over CPUs of one direction.
    pub fn read(&self, direction: Direction) -> Result<Counters, MapError> {
        let values = self.0.get(&(direction as u32), 0).on("counters", "reading")?;
        Ok(values
            .iter()
            .fold(Counters::default(), |sum, value| sum.plus(value)))
    }
}
