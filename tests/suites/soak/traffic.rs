// SPDX-License-Identifier: Apache-2.0
//! Allowed connections: messages are numbered and sent once, each end in turn.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use netpol_tests::{
    netns::NetNs,
    node::Site,
    pair::{End, Pair, Segments, Transport, Way},
};

use super::diary::{Diary, pause};

/// Silence that counts as a loss, also on a busy machine. What TCP sends again comes earlier:
/// [`Segments::lost`] counts it.
const SOON: Duration = Duration::from_secs(5);
/// Time limit until the links of a new pod carry packets.
const WIRED: Duration = Duration::from_secs(10);

/// How often messages are sent.
pub const BUSY: Duration = Duration::from_millis(5);
/// The same, of connections that are rarely used.
pub const IDLE: Duration = Duration::from_millis(1700);
/// Pause between new connections.
const ANEW: Duration = Duration::from_millis(40);

/// Open connections between two sites, each with a thread.
pub struct Talk {
    threads: Vec<thread::JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    /// The namespaces of both ends.
    ends: [Arc<NetNs>; 2],
}

impl Talk {
    /// Opens a connection of each transport and family, and lets both ends send until the end.
    pub fn open(from: &Site, to: &Site, pace: Duration, diary: &Arc<Diary>) -> Result<Self> {
        let mut talk = Self {
            threads: Vec::new(),
            stop: Arc::default(),
            count: Arc::default(),
            ends: [from, to].map(|site| Arc::clone(&site.netns)),
        };
        for address in to.addresses.clone() {
            for transport in Transport::ALL {
                let pair = Pair::open(from, to, Way::direct(address), transport)?;
                let (stop, count, diary) = (talk.stop.clone(), talk.count.clone(), Arc::clone(diary));
                talk.threads
                    .push(thread::spawn(move || carry(pair, pace, &stop, &count, &diary)));
            }
        }
        Ok(talk)
    }

    /// Ends the messages, and leaves the connections to be closed after them. Returns their number.
    pub fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.thread().unpark();
            thread.join().unwrap();
        }
        self.count.load(Ordering::Relaxed)
    }

    /// Like [`Talk::end`], for ends that have no TCP connections to others: no segment may have
    /// been lost since the namespaces were made.
    pub fn end_whole(self) -> Result<u64> {
        let ends = self.ends.clone();
        let count = self.end();
        let lost = Segments::lost(ends.iter().map(|netns| &**netns))?;
        ensure!(lost == 0, "{lost} TCP segments lost");
        Ok(count)
    }
}

fn carry(mut pair: Pair, pace: Duration, stop: &AtomicBool, count: &AtomicU64, diary: &Diary) {
    while !stop.load(Ordering::Relaxed) && !diary.is_over() {
        for end in [End::Opener, End::Opened] {
            let sent = diary.now();
            match pair.says(end, SOON) {
                Ok(true) => count.fetch_add(1, Ordering::Relaxed),
                Ok(false) => {
                    return diary.fault_at(sent, format!("{pair}: a message of {end:?} is lost"));
                }
                Err(error) => return diary.fault_at(sent, format!("{error:#}")),
            };
        }
        thread::park_timeout(pace);
    }
}

/// Opens new connections all the time, one after the other. Returns their number.
pub fn open_anew(from: Site, to: Site, diary: Arc<Diary>) -> thread::JoinHandle<u64> {
    thread::spawn(move || {
        let mut opened = 0;
        while !diary.is_over() {
            for address in to.addresses.clone() {
                for transport in Transport::ALL {
                    let asked = diary.now();
                    if let Err(error) = open_once(&from, &to, Way::direct(address), transport) {
                        diary.fault_at(asked, format!("a new connection: {error:#}"));
                        return opened;
                    }
                    opened += 1;
                    pause(ANEW);
                }
            }
        }
        opened
    })
}

fn open_once(from: &Site, to: &Site, way: Way, transport: Transport) -> Result<()> {
    let mut pair = Pair::open(from, to, way, transport)?;
    for end in [End::Opener, End::Opened] {
        ensure!(pair.says(end, SOON)?, "{pair}: a message of {end:?} is lost");
    }
    Ok(())
}

/// Waits until both families carry datagrams: a new link takes up to a second.
pub fn wait_for_the_wire(from: &Site, to: &Site) -> Result<()> {
    let until = Instant::now() + WIRED;
    for address in &to.addresses {
        while let Err(error) = Pair::open(from, to, Way::direct(*address), Transport::Udp) {
            ensure!(Instant::now() < until, "no wire: {error:#}");
        }
    }
    Ok(())
}

/// Segments lost between namespaces that have TCP connections among each other only.
pub fn lost(sites: &[&Site]) -> Result<u64> {
    Segments::lost(sites.iter().map(|site| &*site.netns)).context("counting TCP segments")
}
