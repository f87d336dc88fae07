// SPDX-License-Identifier: Apache-2.0
//! Logs dropped packets.

use std::{
    fmt, io,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use aya::maps::{MapData, RingBuf};
use netpol_common::abi::{Address, Direction, DropReason, Event, Hook};
use tokio::{io::unix::AsyncFd, sync::watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use zerocopy::FromBytes;

use super::status::Status;

/// A dropped packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerdictEvent {
    /// Number of the endpoint at whose hook the packet was dropped.
    pub endpoint: u32,
    /// Interface index of the subject, the pod whose policy dropped the packet; 0 if the pod is
    /// unknown.
    pub subject: u32,
    /// Direction of the subject's policy: the direction of the connection, if one is known.
    pub direction: Direction,
    /// Name of the program; `None` for a number that this build does not know.
    pub hook: Option<&'static str>,
    /// True if the packet goes against the direction in which its connection was opened.
    pub reply: bool,
    /// Why it was dropped; `None` for a number that this build does not know.
    pub reason: Option<DropReason>,
    /// Policy number; 0 if no policy made the decision.
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
    /// Events that were suppressed before this one.
    pub suppressed: u32,
}

impl VerdictEvent {
    /// Decodes a record of the ring buffer; `None` if the record is not an event.
    pub fn decode(record: &[u8]) -> Option<Self> {
        let event = Event::read_from_bytes(record).ok()?;
        Some(Self {
            endpoint: event.endpoint,
            subject: event.subject,
            direction: Direction::from_u8(event.direction),
            hook: Hook::name_of(event.hook),
            reply: event.reply != 0,
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

/// Shows a value, or a dash if there is none.
struct Shown<T>(Option<T>);

impl<T: fmt::Display> fmt::Display for Shown<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(known) => known.fmt(f),
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
    // SAFETY: the ring buffer owns its descriptor and keeps it open until it is dropped with the
    // AsyncFd.
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
    let at = status.endpoints.get(&event.endpoint);
    let subject = status.interfaces.get(&event.subject);
    info!(
        namespace = subject.map_or("-", |pod| &pod.namespace),
        pod = subject.map_or("-", |pod| &pod.name),
        direction = event.direction.name(),
        reply = event.reply,
        hook = event.hook.unwrap_or("unknown"),
        at = %Shown(at),
        endpoint = event.endpoint,
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
