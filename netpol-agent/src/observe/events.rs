// SPDX-License-Identifier: Apache-2.0
//! Dropped packets, as log lines.

use std::{
    fmt, io,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use aya::maps::{MapData, RingBuf};
use netpol_common::abi::{Address, Direction, DropReason, Event};
use tokio::{io::unix::AsyncFd, sync::watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use zerocopy::FromBytes;

use super::status::Status;

/// A dropped packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerdictEvent {
    /// Number of the endpoint.
    pub endpoint: u32,
    /// Direction seen from the endpoint.
    pub direction: Direction,
    /// Why it was dropped; `None` for a number that this build does not know.
    pub reason: Option<DropReason>,
    /// Policy number, 0 if no policy said so.
    pub policy: u32,
    /// Identity of the other side.
    pub identity: u32,
    /// Source address, if parsing came that far.
    pub source: Option<IpAddr>,
    /// Destination address, if parsing came that far.
    pub destination: Option<IpAddr>,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// Length of the frame, bytes.
    pub length: u32,
    /// Events that were left out before this one.
    pub suppressed: u32,
}

impl VerdictEvent {
    /// Decodes a record of the ring buffer; `None` if it is not one.
    pub fn decode(record: &[u8]) -> Option<Self> {
        let event = Event::read_from_bytes(record).ok()?;
        Some(Self {
            endpoint: event.endpoint,
            direction: Direction::from_u8(event.direction),
            reason: DropReason::from_u8(event.reason),
            policy: event.policy,
            identity: event.identity,
            source: address(&event.source),
            destination: address(&event.destination),
            source_port: u16::from_be_bytes(event.source_port),
            destination_port: u16::from_be_bytes(event.destination_port),
            protocol: event.protocol,
            length: event.length,
            suppressed: event.suppressed,
        })
    }
}

fn address(address: &Address) -> Option<IpAddr> {
    let address = Ipv6Addr::from(address.octets);
    (!address.is_unspecified()).then(|| address.to_canonical())
}

/// An address or a dash.
struct Shown(Option<IpAddr>);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("-"),
        }
    }
}

/// Logs events until `stop`.
///
/// # Errors
/// The ring buffer cannot be waited for.
pub async fn run(
    events: RingBuf<MapData>,
    status: watch::Receiver<Arc<Status>>,
    stop: CancellationToken,
) -> io::Result<()> {
    // SAFETY: the ring buffer owns its descriptor and keeps it open until it is dropped with the AsyncFd.
    let mut events = unsafe { AsyncFd::register(events) }?;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            ready = events.readable_mut() => {
                let mut ready = ready?;
                while let Some(record) = ready.get_inner_mut().next() {
                    match VerdictEvent::decode(&record) {
                        Some(event) => log(&event, &status),
                        None => warn!(length = record.len(), "a record of the ring buffer is not an event"),
                    }
                }
                ready.clear_ready();
            }
        }
    }
}

fn log(event: &VerdictEvent, status: &watch::Receiver<Arc<Status>>) {
    let status = status.borrow();
    let pod = status.endpoints.get(&event.endpoint);
    info!(
        namespace = pod.map_or("-", |pod| &pod.namespace),
        pod = pod.map_or("-", |pod| &pod.name),
        endpoint = event.endpoint,
        direction = event.direction.name(),
        verdict = "dropped",
        reason = event.reason.map_or("unknown", DropReason::name),
        source = %Shown(event.source),
        destination = %Shown(event.destination),
        source_port = event.source_port,
        port = event.destination_port,
        protocol = event.protocol,
        identity = event.identity,
        policy = event.policy,
        suppressed = event.suppressed,
        "packet dropped"
    );
}
