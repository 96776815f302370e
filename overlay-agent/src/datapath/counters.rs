//! What the programs counted, summed over the CPUs.

use std::collections::BTreeMap;

use overlay_common::stats::{DropCount, DropKey, EndpointStats};

use super::{DatapathError, maps::Maps};

impl Maps {
    /// Traffic of each local endpoint, by ifindex of its host veth.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn endpoint_stats(&self) -> Result<BTreeMap<u32, EndpointStats>, DatapathError> {
        let sum = |values: &[EndpointStats]| {
            values.iter().fold(EndpointStats::default(), |a, b| EndpointStats {
                tx_packets: a.tx_packets + b.tx_packets,
                tx_bytes: a.tx_bytes + b.tx_bytes,
                rx_packets: a.rx_packets + b.rx_packets,
                rx_bytes: a.rx_bytes + b.rx_bytes,
            })
        };
        let table = &self.endpoint_stats;
        table
            .map
            .iter()
            .map(|e| e.map(|(k, v)| (k, sum(&v))))
            .collect::<Result<_, _>>()
            .map_err(table.fail("read"))
    }

    /// Dropped packets.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn drops(&self) -> Result<BTreeMap<DropKey, DropCount>, DatapathError> {
        let sum = |values: &[DropCount]| {
            values.iter().fold(DropCount::default(), |a, b| DropCount {
                packets: a.packets + b.packets,
                bytes: a.bytes + b.bytes,
            })
        };
        let table = &self.drops;
        table
            .map
            .iter()
            .map(|e| e.map(|(k, v)| (k, sum(&v))))
            .collect::<Result<_, _>>()
            .map_err(table.fail("read"))
    }
}
