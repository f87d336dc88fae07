// SPDX-License-Identifier: Apache-2.0
//! Connections with both ends in the test, so that either can send next, and a lost packet shows:
//! messages are numbered, and never sent twice.

use std::{
    fmt,
    io::{ErrorKind, Read, Write},
    mem,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{netns::NetNs, node::Site};

/// TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// Both transports.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];
}

/// An end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The end that opened it.
    Opener,
    /// The other end.
    Opened,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

/// A connection.
#[derive(Debug)]
pub struct Pair {
    name: String,
    opener: Socket,
    opened: Socket,
    number: u64,
}

/// Addresses of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// Address that the opener connects to; with port 0, that of `backend`.
    pub frontend: SocketAddr,
    /// Address that the other end listens on; any port if it is 0.
    pub backend: SocketAddr,
}

impl Way {
    /// Returns the way directly to an address, on any port.
    pub fn direct(address: IpAddr) -> Self {
        let address = SocketAddr::new(address, 0);
        Self {
            frontend: address,
            backend: address,
        }
    }
}

/// Time limit for a packet that passes.
const SOON: Duration = Duration::from_secs(5);
/// Silence that counts as a loss.
const LOST: Duration = Duration::from_millis(700);
/// Silence after which nothing is on its way.
const QUIET: Duration = Duration::from_millis(50);
/// How long what is not lost may be on its way.
const LATE: Duration = Duration::from_secs(2);

impl Pair {
    /// Opens a connection. For UDP, the opener sends the first message, and it must arrive.
    ///
    /// # Errors
    /// If it cannot be opened within 700 ms.
    pub fn open(from: &Site, to: &Site, way: Way, transport: Transport) -> Result<Self> {
        let name = format!("{transport:?} {} -> {} ({})", from.name, to.name, way.frontend);
        let source = from.address_like(way.frontend.ip());
        let source = source.with_context(|| format!("{} has no address for {name}", from.name))?;
        let (opener, opened) = match transport {
            Transport::Tcp => open_tcp(from, to, way),
            Transport::Udp => open_udp(from, source, to, way),
        }
        .with_context(|| format!("opening {name}"))?;
        Ok(Self {
            name,
            opener,
            opened,
            number: 1,
        })
    }

    /// Sends a message from an end to the other. Returns true if it arrives.
    ///
    /// # Errors
    /// If something else arrives, or an end fails.
    pub fn says(&mut self, end: End, patience: Duration) -> Result<bool> {
        self.number += 1;
        let message = self.number.to_be_bytes();
        let (from, to) = match end {
            End::Opener => (&mut self.opener, &mut self.opened),
            End::Opened => (&mut self.opened, &mut self.opener),
        };
        from.send(&message)
            .with_context(|| format!("{}: {end:?} sends message {}", self.name, self.number))?;
        let Some(received) = to
            .receive(patience)
            .with_context(|| format!("{}: message {} of {end:?}", self.name, self.number))?
        else {
            return Ok(false);
        };
        ensure!(
            received == message,
            "{}: {end:?} sent message {}, but {received:?} arrived",
            self.name,
            self.number
        );
        Ok(true)
    }

    /// Asserts that both ends can send in turn, `first` first, each message once.
    ///
    /// # Panics
    /// If a message is lost.
    #[track_caller]
    pub fn goes_on(&mut self, first: End, times: usize) {
        let second = match first {
            End::Opener => End::Opened,
            End::Opened => End::Opener,
        };
        for _ in 0..times {
            for end in [first, second] {
                let arrived = self.says(end, SOON).unwrap_or_else(|error| panic!("{error:#}"));
                assert!(
                    arrived,
                    "{}: message {} of {end:?} is lost",
                    self.name, self.number
                );
            }
        }
    }

    /// Asserts that an end's message does not arrive.
    ///
    /// # Panics
    /// If it does.
    #[track_caller]
    pub fn is_cut(&mut self, end: End) {
        let arrived = self.says(end, LOST).unwrap_or_else(|error| panic!("{error:#}"));
        assert!(!arrived, "{}: {end:?} is still heard", self.name);
    }

    /// Returns the opener's address and port.
    ///
    /// # Errors
    /// If its socket does not tell.
    pub fn source(&self) -> Result<SocketAddr> {
        Ok(match &self.opener {
            Socket::Tcp(stream) => stream.local_addr()?,
            Socket::Udp(socket) => socket.local_addr()?,
        })
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Socket {
    fn send(&mut self, message: &[u8; 8]) -> Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(message)?,
            Self::Udp(socket) => {
                socket.send(message)?;
            }
        }
        Ok(())
    }

    fn receive(&mut self, patience: Duration) -> Result<Option<[u8; 8]>> {
        let mut message = [0; 8];
        let received = match self {
            Self::Tcp(stream) => {
                stream.set_read_timeout(Some(patience))?;
                stream.read_exact(&mut message)
            }
            Self::Udp(socket) => {
                socket.set_read_timeout(Some(patience))?;
                socket.recv(&mut message).map(drop)
            }
        };
        match received {
            Ok(()) => Ok(Some(message)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn open_tcp(from: &Site, to: &Site, way: Way) -> Result<(Socket, Socket)> {
    let listener = to.netns.run(|| Ok(TcpListener::bind(way.backend)?))?;
    let frontend = with_port(way.frontend, listener.local_addr()?);
    let opener = from
        .netns
        .run(|| Ok(TcpStream::connect_timeout(&frontend, LOST)?))?;
    let (opened, _) = listener.accept()?;
    for stream in [&opener, &opened] {
        stream.set_nodelay(true)?;
    }
    Ok((Socket::Tcp(opener), Socket::Tcp(opened)))
}

fn open_udp(from: &Site, source: IpAddr, to: &Site, way: Way) -> Result<(Socket, Socket)> {
    let opened = to.netns.run(|| Ok(UdpSocket::bind(way.backend)?))?;
    let frontend = with_port(way.frontend, opened.local_addr()?);
    let opener = from.netns.run(|| {
        let socket = UdpSocket::bind(SocketAddr::new(source, 0))?;
        socket.connect(frontend)?;
        Ok(socket)
    })?;
    opener.send(&1u64.to_be_bytes())?;
    opened.set_read_timeout(Some(LOST))?;
    let (_, peer) = opened.recv_from(&mut [0; 8])?;
    opened.connect(peer)?;
    Ok((Socket::Udp(opener), Socket::Udp(opened)))
}

fn with_port(address: SocketAddr, like: SocketAddr) -> SocketAddr {
    let port = if address.port() == 0 {
        like.port()
    } else {
        address.port()
    };
    SocketAddr::new(address.ip(), port)
}

/// Lets what is on its way arrive.
#[expect(
    clippy::disallowed_methods,
    reason = "that nothing more comes is no event to wait for"
)]
fn rest() {
    thread::sleep(QUIET);
}

/// Counts of TCP segments in a namespace, from its kernel. IPv4 and IPv6 are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segments {
    /// Segments sent, retransmissions among them.
    pub sent: u64,
    /// Segments sent again. The kernel sends again what is acknowledged too late, lost or not.
    pub retransmitted: u64,
    /// Segments received.
    pub received: u64,
}

impl Segments {
    /// Reads the counts of a namespace.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn read(netns: &NetNs) -> Result<Self> {
        let text = netns.run(|| {
            let path = "/proc/thread-self/net/snmp";
            std::fs::read_to_string(path).with_context(|| format!("reading {path}"))
        })?;
        let mut rows = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
        let (names, values) = (
            rows.next().context("no names")?,
            rows.next().context("no values")?,
        );
        let column = |wanted: &str| -> Result<u64> {
            let mut columns = names.split(' ').zip(values.split(' '));
            let found = columns.find(|(name, _)| *name == wanted);
            let (_, value) = found.with_context(|| format!("no column {wanted}"))?;
            value.parse().with_context(|| format!("reading {wanted}"))
        };
        Ok(Self {
            sent: column("OutSegs")?,
            retransmitted: column("RetransSegs")?,
            received: column("InSegs")?,
        })
    }

    /// Returns how many segments were sent between these namespaces and not received. They must
    /// have no TCP connections to others. Waits until none was sent for a while, as those on their
    /// way are not lost.
    ///
    /// # Errors
    /// If the kernel does not tell, or if more were received than sent.
    pub fn lost<'a>(namespaces: impl Iterator<Item = &'a NetNs> + Clone) -> Result<u64> {
        let read = || namespaces.clone().map(Self::read).collect::<Result<Vec<_>>>();
        let until = Instant::now() + LATE;
        let mut segments = read()?;
        let (sent, received) = loop {
            rest();
            let before = mem::replace(&mut segments, read()?);
            let sent: u64 = segments.iter().map(|of| of.sent).sum();
            let received: u64 = segments.iter().map(|of| of.received).sum();
            // A kernel whose threads wait for a processor keeps some back.
            if segments == before && (sent == received || Instant::now() > until) {
                break (sent, received);
            }
        };
        let lost = sent.checked_sub(received);
        lost.with_context(|| format!("{sent} segments sent, and {received} received"))
    }
}
