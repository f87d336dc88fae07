// SPDX-License-Identifier: Apache-2.0
//! Sends traffic from one pod to another for a while, and returns the rate of the best slice of
//! that time: disturbances only reduce it.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use serde_json::Value;

use super::world::PORT;
use netpol_tests::{agent::inside, node::Site};

/// Kind of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One TCP connection that sends as fast as possible (iperf3).
    Throughput,
    /// One byte forth, one byte back, on one TCP connection.
    RequestResponse,
    /// TCP connections, one after another: open, one byte back, close.
    Connections,
    /// UDP packets of 64 bytes, as fast as one sender can send; received ones count.
    Packets,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 4] = [
        Self::Throughput,
        Self::RequestResponse,
        Self::Connections,
        Self::Packets,
    ];

    /// Returns the figure's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Throughput => "tcp_throughput",
            Self::RequestResponse => "tcp_request_response",
            Self::Connections => "tcp_connect_close",
            Self::Packets => "udp_packets",
        }
    }

    /// Returns the unit.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Throughput => "Gbit/s",
            Self::RequestResponse => "round trips/s",
            Self::Connections => "connections/s",
            Self::Packets => "packets/s",
        }
    }

    /// Measures for a while, in the unit.
    ///
    /// # Errors
    /// A connection fails, or nothing got through.
    pub fn measure(self, from: &Site, to: &Site, how_long: Duration) -> Result<f64> {
        let measured = match self {
            Self::Throughput => throughput(from, to, how_long),
            Self::RequestResponse => request_response(from, to, how_long),
            Self::Connections => connections(from, to, how_long),
            Self::Packets => packets(from, to, how_long),
        };
        let measured =
            measured.with_context(|| format!("{} from {} to {}", self.name(), from.name, to.name))?;
        ensure!(measured > 0.0, "{}: nothing got through", self.name());
        Ok(measured)
    }
}

/// Time after which something counts as lost.
const PATIENCE: Duration = Duration::from_secs(5);

fn address(to: &Site) -> SocketAddr {
    (to.addresses[0], PORT).into()
}

/// A child process that drop ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn throughput(from: &Site, to: &Site, how_long: Duration) -> Result<f64> {
    let port = PORT.to_string();
    let mut server = Command::new("iperf3");
    server.args(["--server", "--one-off", "--forceflush", "--port", &port]);
    server.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut server = Running(
        inside(&mut server, &to.netns)
            .spawn()
            .context("starting iperf3")?,
    );
    let told = server.0.stdout.take().context("no output of iperf3")?;
    let mut lines = BufReader::new(told).lines();
    let listening = lines.any(|line| line.is_ok_and(|line| line.contains("listening")));
    ensure!(listening, "iperf3 does not listen");
    // Reads to the end; otherwise the server would block.
    let reader = thread::spawn(move || lines.for_each(drop));

    let mut client = Command::new("iperf3");
    client
        .args(["--json", "--port", &port, "--client"])
        .arg(to.addresses[0].to_string());
    client.args([
        "--time",
        &format!("{}", how_long.as_secs().max(1)),
        "--interval",
        "0.1",
    ]);
    client.args(["--connect-timeout", "5000"]);
    if thread::available_parallelism()?.get() > 1 {
        client.args(["--affinity", "0,1"]);
    }
    let output = inside(&mut client, &from.netns)
        .output()
        .context("starting iperf3")?;
    drop(server);
    let _ = reader.join();
    let report: Value = serde_json::from_slice(&output.stdout).context("iperf3 wrote no JSON")?;
    let intervals = report["intervals"].as_array();
    let intervals = intervals.with_context(|| format!("iperf3: {}", report["error"]))?;
    let rates = intervals
        .iter()
        .filter_map(|interval| interval["sum"]["bits_per_second"].as_f64());
    Ok(rates.fold(0.0, f64::max) / 1e9)
}

/// Pins the calling thread to a CPU, or to the only one. Otherwise the scheduler decides on which
/// CPU two alternating threads run, changes its decision, and so distorts the result. Threads that
/// alternate share a CPU; others have one each.
fn stay_on(cpu: usize) -> Result<()> {
    let mut only = CpuSet::new();
    only.set(cpu.min(thread::available_parallelism()?.get() - 1))?;
    sched_setaffinity(Pid::from_raw(0), &only).context("staying on one CPU")
}

fn connect(from: &Site, to: SocketAddr) -> Result<TcpStream> {
    let stream = from
        .netns
        .run(|| Ok(TcpStream::connect_timeout(&to, PATIENCE)?))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// The best slice of a measurement.
struct Slices {
    end: Instant,
    start: Instant,
    counted: u64,
    best: f64,
}

impl Slices {
    /// Long compared to a system call, and short compared to disturbances.
    const LENGTH: Duration = Duration::from_millis(50);

    fn new(how_long: Duration) -> Self {
        let start = Instant::now();
        Self {
            end: start + how_long.max(Self::LENGTH),
            start,
            counted: 0,
            best: 0.0,
        }
    }

    /// Records the count so far. Returns true if the measurement continues.
    fn go_on(&mut self, counted: u64) -> bool {
        let now = Instant::now();
        let length = now - self.start;
        if length >= Self::LENGTH {
            let rate = (counted - self.counted) as f64 / length.as_secs_f64();
            self.best = self.best.max(rate);
            (self.start, self.counted) = (now, counted);
        }
        now < self.end || self.best == 0.0 && now < self.end + PATIENCE
    }
}

fn request_response(from: &Site, to: &Site, how_long: Duration) -> Result<f64> {
    let listener = to.netns.run(|| Ok(TcpListener::bind(address(to))?))?;
    let mut client = connect(from, address(to))?;
    let (mut server, _) = listener.accept()?;
    server.set_nodelay(true)?;
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut byte = [0];
            let stays = stay_on(0).is_ok();
            while stays && server.read_exact(&mut byte).is_ok() && server.write_all(&byte).is_ok() {}
        });
        // The server ends with the connection.
        from.netns.run(move || {
            stay_on(0)?;
            let (mut byte, mut count, mut slices) = ([0], 0, Slices::new(how_long));
            while slices.go_on(count) {
                client.write_all(&byte)?;
                client.read_exact(&mut byte)?;
                count += 1;
            }
            Ok(slices.best)
        })
    })
}

/// The server closes first. So the sockets in TIME_WAIT are the server's, which share a port, and
/// not the client's.
fn connections(from: &Site, to: &Site, how_long: Duration) -> Result<f64> {
    let listener = to.netns.run(|| Ok(TcpListener::bind(address(to))?))?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let server = scope.spawn(|| -> Result<()> {
            stay_on(0)?;
            loop {
                let (mut stream, _) = listener.accept()?;
                // Checked after each connection: the last one, which only wakes the server, is
                // always accepted.
                if stop.load(Ordering::Acquire) {
                    return Ok(());
                }
                stream.write_all(&[1])?;
            }
        });
        let measured = from.netns.run(|| {
            stay_on(0)?;
            let (mut count, mut slices) = (0, Slices::new(how_long));
            while slices.go_on(count) {
                one_connection(address(to))?;
                count += 1;
            }
            Ok(slices.best)
        });
        stop.store(true, Ordering::Release);
        let woken = to
            .netns
            .run(|| Ok(TcpStream::connect_timeout(&address(to), PATIENCE)?));
        // A failed server says more than the connection that it left waiting.
        if woken.is_ok() || server.is_finished() {
            match server.join() {
                Ok(ended) => ended?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        measured
    })
}

fn one_connection(to: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut all = Vec::new();
    stream.read_to_end(&mut all)?;
    ensure!(all == [1], "the server said {all:?}");
    Ok(())
}

/// The receiver answers the first packet, so that connection tracking, where it is used, treats the
/// others as established.
fn packets(from: &Site, to: &Site, how_long: Duration) -> Result<f64> {
    /// Silence after which the receiver checks if it must end.
    const SILENCE: Duration = Duration::from_millis(20);
    let receiver = to.netns.run(|| Ok(UdpSocket::bind(address(to))?))?;
    receiver.set_read_timeout(Some(PATIENCE))?;
    let sender = from.netns.run(|| {
        let socket = UdpSocket::bind((from.addresses[0], 0))?;
        socket.connect(address(to))?;
        Ok(socket)
    })?;
    sender.set_read_timeout(Some(PATIENCE))?;
    let payload = [0; 64];
    sender.send(&payload)?;
    let (_, back) = receiver.recv_from(&mut [0; 128])?;
    receiver.send_to(&payload, back)?;
    sender.recv(&mut [0; 128])?;
    receiver.set_read_timeout(Some(SILENCE))?;

    let (stop, received) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 128];
            let stays = stay_on(1).is_ok();
            while stays && !stop.load(Ordering::Acquire) {
                if receiver.recv(&mut buffer).is_ok() {
                    received.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let sent = from.netns.run(|| {
            stay_on(0)?;
            let mut slices = Slices::new(how_long);
            while slices.go_on(received.load(Ordering::Relaxed)) {
                sender.send(&payload).context("sending")?;
            }
            Ok(slices.best)
        });
        stop.store(true, Ordering::Release);
        sent
    })
}

#[cfg(test)]
mod tests {
    use super::{Duration, Slices};

    #[test]
    fn the_best_slice_counts() {
        let mut slices = Slices::new(Duration::from_secs(60));
        let mut back = |seconds: f64, counted| {
            slices.start -= Duration::from_secs_f64(seconds);
            assert!(slices.go_on(counted));
            slices.best
        };
        assert!((990.0..=1000.0).contains(&back(1.0, 1000)));
        // Slower.
        assert!((990.0..=1000.0).contains(&back(1.0, 1500)));
        // 1500 in half a second.
        assert!((2900.0..=3000.0).contains(&back(0.5, 3000)));
        slices.end = slices.start;
        assert!(!slices.go_on(3000));
    }
}
