// SPDX-License-Identifier: Apache-2.0
//! Traffic from one pod to another, for a while, and how much of it got through.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::world::PORT;
use crate::{agent::inside, node::Site};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One TCP connection that sends as much as it can (iperf3).
    Throughput,
    /// One byte there, one byte back, on one TCP connection.
    RequestResponse,
    /// TCP connections that are opened, carry one byte back, and are closed, one after another.
    Connections,
    /// UDP packets of 64 bytes, as many as one sender can send; those that are received.
    Packets,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Throughput,
        Self::RequestResponse,
        Self::Connections,
        Self::Packets,
    ];

    /// As a figure is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Throughput => "tcp_throughput",
            Self::RequestResponse => "tcp_request_response",
            Self::Connections => "tcp_connect_close",
            Self::Packets => "udp_packets",
        }
    }

    /// What is counted.
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

/// How long anything may take before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(5);

fn address(to: &Site) -> SocketAddr {
    (to.addresses[0], PORT).into()
}

/// Ended on drop.
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
    // It is read to the end, or the server would wait.
    let reader = thread::spawn(move || lines.for_each(drop));

    let mut client = Command::new("iperf3");
    client
        .args(["--json", "--port", &port, "--client"])
        .arg(to.addresses[0].to_string());
    client.args(["--time", &format!("{}", how_long.as_secs().max(1))]);
    client.args(["--connect-timeout", "5000"]);
    let output = inside(&mut client, &from.netns)
        .output()
        .context("starting iperf3")?;
    drop(server);
    let _ = reader.join();
    let report: Value = serde_json::from_slice(&output.stdout).context("iperf3 wrote no JSON")?;
    let rate = report["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(rate.with_context(|| format!("iperf3: {}", report["error"]))? / 1e9)
}

fn connect(from: &Site, to: SocketAddr) -> Result<TcpStream> {
    let stream = from
        .netns
        .run(|| Ok(TcpStream::connect_timeout(&to, PATIENCE)?))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn per_second(count: u64, since: Instant) -> f64 {
    count as f64 / since.elapsed().as_secs_f64()
}

fn request_response(from: &Site, to: &Site, how_long: Duration) -> Result<f64> {
    let listener = to.netns.run(|| Ok(TcpListener::bind(address(to))?))?;
    let mut client = connect(from, address(to))?;
    let (mut server, _) = listener.accept()?;
    server.set_nodelay(true)?;
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut byte = [0];
            while server.read_exact(&mut byte).is_ok() && server.write_all(&byte).is_ok() {}
        });
        let (mut byte, mut count, start) = ([0], 0, Instant::now());
        while start.elapsed() < how_long {
            client.write_all(&byte)?;
            client.read_exact(&mut byte)?;
            count += 1;
        }
        let rate = per_second(count, start);
        // The server ends with the connection.
        drop(client);
        Ok(rate)
    })
}

/// The server closes first: what waits for late segments then are its sockets, whose port is the same for all, and not the client's.
fn connections(from: &Site, to: &Site, how_long: Duration) -> Result<f64> {
    let listener = to.netns.run(|| Ok(TcpListener::bind(address(to))?))?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let server = scope.spawn(|| -> Result<()> {
            while !stop.load(Ordering::Acquire) {
                listener.accept()?.0.write_all(&[1])?;
            }
            Ok(())
        });
        let measured = from.netns.run(|| {
            let (mut count, start) = (0, Instant::now());
            while start.elapsed() < how_long {
                one_connection(address(to))?;
                count += 1;
            }
            Ok(per_second(count, start))
        });
        stop.store(true, Ordering::Release);
        // Wakes the server, which ends then.
        let woken = from.netns.run(|| one_connection(address(to)));
        if woken.is_ok() {
            match server.join() {
                Ok(ended) => ended?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        measured.and_then(|rate| woken.map(|()| rate))
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

fn packets(from: &Site, to: &Site, how_long: Duration) -> Result<f64> {
    /// How long silence must last for the receiver to look whether it is over.
    const SILENCE: Duration = Duration::from_millis(20);
    let receiver = to.netns.run(|| Ok(UdpSocket::bind(address(to))?))?;
    receiver.set_read_timeout(Some(SILENCE))?;
    let sender = from.netns.run(|| {
        let socket = UdpSocket::bind((from.addresses[0], 0))?;
        socket.connect(address(to))?;
        Ok(socket)
    })?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let received = scope.spawn(|| {
            let (mut buffer, mut count) = ([0; 128], 0u64);
            loop {
                match receiver.recv(&mut buffer) {
                    Ok(_) => count += 1,
                    Err(_) if stop.load(Ordering::Acquire) => return count,
                    Err(_) => {}
                }
            }
        });
        let (payload, start) = ([0; 64], Instant::now());
        let mut failed = None;
        while failed.is_none() && start.elapsed() < how_long {
            failed = sender.send(&payload).err();
        }
        let seconds = start.elapsed().as_secs_f64();
        stop.store(true, Ordering::Release);
        let count = received
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        if let Some(error) = failed {
            return Err(error).context("sending");
        }
        Ok(count as f64 / seconds)
    })
}
