// SPDX-License-Identifier: Apache-2.0
//! Denied packets: who sends them, and a capture at each pod that must not get them. A packet's
//! destination port tells when it was sent, so it is judged by the policy of that moment, however
//! long it was on its way.

use std::{
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsFd as _,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::Result;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use netpol_tests::{capture::Capture, netns, node::Site};

use super::diary::Diary;

/// The first port that a denied packet may have.
const FIRST: u16 = 20_000;
/// Number of these ports: a packet is no older than this many milliseconds when it is judged.
const PORTS: u64 = 32_768;
/// Pause between two rounds of denied packets.
const PACE: Duration = Duration::from_millis(15);
/// A connection is asked for, not waited for.
const AT_ONCE: Duration = Duration::from_micros(50);
/// The window is open: it has no end yet.
const OPEN: u64 = u64::MAX;

/// The port of what is sent at a time.
fn port_of(now: u64) -> u16 {
    FIRST + (now % PORTS) as u16
}

/// When a packet to this port was sent, if it is one of these.
pub fn sent_at(port: u16, now: u64) -> Option<u64> {
    let stamp = u64::from(port.checked_sub(FIRST)?);
    let age = (now % PORTS + PORTS).checked_sub(stamp)? % PORTS;
    (stamp < PORTS).then(|| now.saturating_sub(age))
}

/// A pod that must not get what some others send.
pub struct Ward {
    pub site: Site,
    strangers: Vec<IpAddr>,
    /// When it must not: from the first millisecond to before the second.
    windows: Mutex<Vec<(u64, u64)>>,
    /// What came from the strangers while they were allowed, or nobody had closed the pod yet.
    came: AtomicU64,
    diary: Arc<Diary>,
}

/// The judge of a ward's capture.
type See = Box<dyn FnMut(&[u8]) + Send>;
pub type Watch = Capture<See>;

impl Ward {
    pub fn new(site: Site, strangers: &[&Site], diary: &Arc<Diary>) -> Arc<Self> {
        Arc::new(Self {
            site,
            strangers: strangers.iter().flat_map(|site| site.addresses.clone()).collect(),
            windows: Mutex::default(),
            came: AtomicU64::new(0),
            diary: Arc::clone(diary),
        })
    }

    /// Starts to capture what comes.
    pub fn watch(self: &Arc<Self>) -> Result<Watch> {
        let ward = Arc::clone(self);
        let see: See = Box::new(move |frame: &[u8]| ward.see(frame));
        Capture::start(&self.site.netns, "eth0", see)
    }

    /// From now on nothing may come: the policy is in force.
    pub fn close(&self) {
        let mut windows = self.windows.lock().unwrap();
        if windows.last().is_none_or(|(_, until)| *until != OPEN) {
            windows.push((self.diary.now() + 1, OPEN));
        }
    }

    /// From now on something may come: the policy is about to change.
    pub fn open(&self) {
        if let Some((_, until)) = self.windows.lock().unwrap().last_mut() {
            *until = (*until).min(self.diary.now());
        }
    }

    pub fn came(&self) -> u64 {
        self.came.load(Ordering::Relaxed)
    }

    fn see(&self, frame: &[u8]) {
        let Some((source, port, what)) = read(frame) else {
            return;
        };
        if !self.strangers.contains(&source) {
            return;
        }
        let Some(sent) = sent_at(port, self.diary.now()) else {
            return;
        };
        let windows = self.windows.lock().unwrap();
        if windows
            .iter()
            .any(|(since, until)| (*since..*until).contains(&sent))
        {
            self.diary.fault(format!(
                "{} got a denied {what} of {source}, sent at {} ms; denied in {:?}",
                self.site.name,
                sent,
                windows.last()
            ));
        } else {
            self.came.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Source, destination port and kind of a packet.
fn read(frame: &[u8]) -> Option<(IpAddr, u16, &'static str)> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let source = match packet.net? {
        NetSlice::Ipv4(ip) => IpAddr::V4(ip.header().source_addr()),
        NetSlice::Ipv6(ip) => IpAddr::V6(ip.header().source_addr()),
        NetSlice::Arp(_) => return None,
    };
    match packet.transport? {
        TransportSlice::Udp(udp) => Some((source, udp.destination_port(), "datagram")),
        TransportSlice::Tcp(tcp) => Some((source, tcp.destination_port(), "TCP segment")),
        _ => None,
    }
}

/// Who gets the packets of a stranger. Pods come and go.
pub type Targets = Arc<RwLock<Vec<IpAddr>>>;

/// A pod that sends what is denied, to all targets, all the time.
pub struct Stranger {
    pub targets: Targets,
    pub sent: Arc<AtomicU64>,
    thread: thread::JoinHandle<()>,
}

impl Stranger {
    /// Starts it. `with_tcp`: it asks for TCP connections, too. Their segments are lost, so they
    /// must not come from a namespace where lost segments are counted.
    pub fn start(site: &Site, with_tcp: bool, diary: &Arc<Diary>) -> Self {
        let (targets, sent) = (Targets::default(), Arc::new(AtomicU64::new(0)));
        let (listed, counted) = (Arc::clone(&targets), Arc::clone(&sent));
        let (site, diary) = (site.clone(), Arc::clone(diary));
        let thread = thread::spawn(move || {
            netns::enter(site.netns.as_fd()).unwrap();
            let sockets = site
                .addresses
                .iter()
                .map(|address| UdpSocket::bind((*address, 0)).unwrap());
            let sockets: Vec<UdpSocket> = sockets.collect();
            while !diary.is_over() {
                for target in listed.read().unwrap().clone() {
                    let to = SocketAddr::new(target, port_of(diary.now()));
                    let family = |socket: &&UdpSocket| {
                        let own = socket.local_addr();
                        own.is_ok_and(|own| own.is_ipv4() == target.is_ipv4())
                    };
                    let socket = sockets.iter().find(family).unwrap();
                    let mut sent = u64::from(socket.send_to(b"denied", to).is_ok());
                    if with_tcp {
                        sent += 1;
                        let to = SocketAddr::new(target, port_of(diary.now()));
                        let _ = TcpStream::connect_timeout(&to, AT_ONCE);
                    }
                    counted.fetch_add(sent, Ordering::Relaxed);
                }
                thread::park_timeout(PACE);
            }
        });
        Self {
            targets,
            sent,
            thread,
        }
    }

    /// Adds the addresses of a pod.
    pub fn aim(&self, site: &Site) {
        self.targets.write().unwrap().extend(&site.addresses);
    }

    /// Removes the addresses of a pod.
    pub fn spare(&self, site: &Site) {
        let mut targets = self.targets.write().unwrap();
        targets.retain(|target| !site.addresses.contains(target));
    }

    /// Waits for its end, which comes with that of the diary. Returns how many packets it sent.
    pub fn join(self) -> u64 {
        self.thread.join().unwrap();
        self.sent.load(Ordering::Relaxed)
    }
}

#[test]
fn a_port_tells_when_a_packet_was_sent() {
    for now in [0, 1, 5000, PORTS - 1, PORTS, 3 * PORTS + 7] {
        for age in [0, 1, 700, 5000] {
            let Some(sent) = u64::checked_sub(now, age) else {
                continue;
            };
            assert_eq!(sent_at(port_of(sent), now), Some(sent), "{now} {age}");
        }
    }
    assert_eq!(sent_at(FIRST - 1, 5), None);
    assert_eq!(sent_at(u16::MAX, 5), None);
}
