// SPDX-License-Identifier: Apache-2.0
//! The request and its text form.

use std::{fmt, net::IpAddr, str::FromStr};

use thiserror::Error;

use crate::model::{ObjectKey, Protocol};

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The end that opens the connection.
    pub source: End,
    /// The end that it is opened to.
    pub destination: End,
    /// The port that it is opened to.
    pub port: Port,
    /// The only family to judge; `None` for all that both ends share.
    pub family: Option<Family>,
}

impl Request {
    /// Formats the request as a URL query: `src=..&dst=..&port=..` and, if given, `&family=..`.
    pub fn to_query(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("src", &self.source.to_string());
        query.append_pair("dst", &self.destination.to_string());
        query.append_pair("port", &self.port.to_string());
        if let Some(family) = self.family {
            query.append_pair("family", family.name());
        }
        query.finish()
    }

    /// Parses what [`Request::to_query`] writes.
    ///
    /// # Errors
    /// A part is missing, unknown or malformed.
    pub fn from_query(query: &str) -> Result<Self, RequestError> {
        let (mut source, mut destination, mut port, mut family) = (None, None, None, None);
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match key.as_ref() {
                "src" => source = Some(value.parse()?),
                "dst" => destination = Some(value.parse()?),
                "port" => port = Some(value.parse()?),
                "family" => family = Some(value.parse()?),
                other => return Err(RequestError::Key(other.to_owned())),
            }
        }
        Ok(Self {
            source: source.ok_or(RequestError::Missing("src"))?,
            destination: destination.ok_or(RequestError::Missing("dst"))?,
            port: port.ok_or(RequestError::Missing("port"))?,
            family,
        })
    }
}

/// A malformed part of a request.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RequestError {
    /// Neither an address nor `namespace/name`.
    #[error(
        "{0:?} is neither an IP address nor namespace/name (namespace/pod/name and namespace/svc/name tell which of both)"
    )]
    End(String),
    /// Not a port.
    #[error(
        "{0:?} is no port: expected NUMBER/TCP, NUMBER/UDP, NUMBER/SCTP (1 to 65535), icmp, or ip/NUMBER for another IP protocol"
    )]
    Port(String),
    /// Not a family.
    #[error("{0:?} is no address family: expected ipv4 or ipv6")]
    Family(String),
    /// The query lacks a part.
    #[error("the query has no {0}: expected src, dst, port, and family or not")]
    Missing(&'static str),
    /// The query has an unknown part.
    #[error("the query has {0:?}: expected src, dst, port, and family or not")]
    Key(String),
}

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// A pod or a Service with this key, whichever exists.
    Named(ObjectKey),
    /// A pod.
    Pod(ObjectKey),
    /// A Service.
    Service(ObjectKey),
    /// An address: a pod's, a Service's or any other.
    Address(IpAddr),
}

impl End {
    /// Parses an end as kubectl would in this namespace: `web`, `pod/web`, `svc/web`. Also accepts
    /// all that [`End::from_str`] parses.
    ///
    /// # Errors
    /// See [`RequestError::End`].
    pub fn in_namespace(namespace: &str, text: &str) -> Result<Self, RequestError> {
        match text.split_once('/') {
            _ if text.contains(':') || text.parse::<IpAddr>().is_ok() => text.parse(),
            None if !text.is_empty() => Ok(Self::Named(ObjectKey::new(namespace, text))),
            Some((kind, name)) if !name.is_empty() && !name.contains('/') => match of_kind(kind) {
                Some(kind) => Ok(kind(ObjectKey::new(namespace, name))),
                None => text.parse(),
            },
            _ => text.parse(),
        }
    }
}

/// Parses a kind, in kubectl's spellings.
fn of_kind(word: &str) -> Option<fn(ObjectKey) -> End> {
    match word {
        "pod" | "pods" | "po" => Some(End::Pod),
        "service" | "services" | "svc" => Some(End::Service),
        _ => None,
    }
}

impl FromStr for End {
    type Err = RequestError;

    fn from_str(text: &str) -> Result<Self, RequestError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Address(address.to_canonical()));
        }
        let refused = || RequestError::End(text.to_owned());
        // `pod:shop/web` is `shop/pod/web`.
        let (before, name) = match text.split_once(':') {
            Some((kind, name)) => (Some(of_kind(kind).ok_or_else(refused)?), name),
            None => (None, text),
        };
        let parts: Vec<&str> = name.split('/').collect();
        let (kind, namespace, name) = match (before, parts.as_slice()) {
            (kind, [namespace, name]) => (kind.unwrap_or(Self::Named), *namespace, *name),
            (None, [namespace, kind, name]) => (of_kind(kind).ok_or_else(refused)?, *namespace, *name),
            _ => return Err(refused()),
        };
        if namespace.is_empty() || name.is_empty() {
            return Err(refused());
        }
        Ok(kind(ObjectKey::new(namespace, name)))
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(key) => key.fmt(f),
            Self::Pod(key) => write!(f, "{}/pod/{}", key.namespace, key.name),
            Self::Service(key) => write!(f, "{}/svc/{}", key.namespace, key.name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// A destination port, or a protocol without ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Port {
    /// A port of a transport protocol.
    Transport(Protocol, u16),
    /// Echo request of ICMP or ICMPv6, by the family.
    Icmp,
    /// Another IP protocol, by its IANA number.
    Ip(u8),
}

impl Port {
    /// Returns the IANA protocol number and the port of packets of a family.
    pub const fn of_family(self, family: Family) -> (u8, Option<u16>) {
        match (self, family) {
            (Self::Transport(protocol, port), _) => (protocol.number(), Some(port)),
            (Self::Icmp, Family::Ipv4) => (1, None),
            (Self::Icmp, Family::Ipv6) => (58, None),
            (Self::Ip(number), _) => (number, None),
        }
    }
}

impl FromStr for Port {
    type Err = RequestError;

    fn from_str(text: &str) -> Result<Self, RequestError> {
        let refused = || RequestError::Port(text.to_owned());
        if text.eq_ignore_ascii_case("icmp") {
            return Ok(Self::Icmp);
        }
        let (first, second) = text.split_once('/').ok_or_else(refused)?;
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if first.eq_ignore_ascii_case("ip") && digits(second) {
            let number: u8 = second.parse().map_err(|_| refused())?;
            let has_ports = Protocol::ALL.iter().any(|protocol| protocol.number() == number);
            return (!has_ports).then_some(Self::Ip(number)).ok_or_else(refused);
        }
        let protocol = Protocol::from_kubernetes(&second.to_ascii_uppercase()).ok_or_else(refused)?;
        match first.parse::<u16>() {
            Ok(port) if port > 0 && digits(first) => Ok(Self::Transport(protocol, port)),
            _ => Err(refused()),
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transport(protocol, port) => write!(f, "{port}/{protocol}"),
            Self::Icmp => f.write_str("icmp"),
            Self::Ip(number) => write!(f, "ip/{number}"),
        }
    }
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// Both families.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// Returns the family of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }

    /// Returns `IPv4` or `IPv6`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        }
    }
}

impl FromStr for Family {
    type Err = RequestError;

    fn from_str(text: &str) -> Result<Self, RequestError> {
        let found = Self::ALL
            .into_iter()
            .find(|family| family.name().eq_ignore_ascii_case(text));
        found.ok_or_else(|| RequestError::Family(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends() {
        for (text, shown) in [
            ("shop/web", "shop/web"),
            ("service:shop/web", "shop/svc/web"),
            ("pod:shop/web", "shop/pod/web"),
            ("shop/svc/web", "shop/svc/web"),
            ("shop/services/web", "shop/svc/web"),
            ("shop/pod/web", "shop/pod/web"),
            ("svc/web", "svc/web"),
            ("::1", "::1"),
        ] {
            assert_eq!(text.parse::<End>().unwrap().to_string(), shown);
        }
        let mapped = End::Address([10, 0, 0, 1].into());
        assert_eq!("::ffff:10.0.0.1".parse(), Ok(mapped));
        for (text, shown) in [
            ("web", "shop/web"),
            ("svc/web", "shop/svc/web"),
            ("po/web", "shop/pod/web"),
            ("data/web", "data/web"),
            ("data/svc/web", "data/svc/web"),
            ("10.0.0.1", "10.0.0.1"),
        ] {
            assert_eq!(End::in_namespace("shop", text).unwrap().to_string(), shown);
        }
        for bad in ["", "a/b/c", "svc/", "/web"] {
            assert!(End::in_namespace("shop", bad).is_err(), "{bad}");
        }
        for bad in [
            "web",
            "a/b/c",
            "pod:a/svc/b",
            "/web",
            "shop/",
            "node:a",
            "",
            "10.0.0.300",
        ] {
            let error = bad.parse::<End>().unwrap_err();
            assert!(error.to_string().contains(&format!("{bad:?}")), "{error}");
        }
    }

    #[test]
    fn queries_say_the_same_and_nothing_is_ignored() {
        let request = Request {
            source: End::Named(ObjectKey::new("shop", "we b&port=1")),
            destination: "2001:db8::1".parse().unwrap(),
            port: "icmp".parse().unwrap(),
            family: Some(Family::Ipv6),
        };
        assert_eq!(Request::from_query(&request.to_query()), Ok(request));
        let plain = "src=shop/web&dst=10.0.0.1&port=80/tcp";
        assert_eq!(
            Request::from_query(plain).unwrap().to_query(),
            "src=shop%2Fweb&dst=10.0.0.1&port=80%2FTCP"
        );
        assert_eq!(
            Request::from_query("src=a/b&dst=a/c"),
            Err(RequestError::Missing("port"))
        );
        assert_eq!(
            Request::from_query(&format!("{plain}&ports=1")),
            Err(RequestError::Key("ports".to_owned()))
        );
    }

    #[test]
    fn ports() {
        for (text, port) in [
            ("80/tcp", Port::Transport(Protocol::Tcp, 80)),
            ("65535/SCTP", Port::Transport(Protocol::Sctp, 65535)),
            ("ICMP", Port::Icmp),
            ("ip/47", Port::Ip(47)),
        ] {
            assert_eq!(text.parse(), Ok(port));
        }
        for bad in [
            "80",
            "0/TCP",
            "65536/TCP",
            "+80/TCP",
            "http/TCP",
            "80/ICMP",
            "ip/6",
            "ip/256",
            "80/",
            "",
        ] {
            assert_eq!(bad.parse::<Port>(), Err(RequestError::Port(bad.to_owned())));
        }
    }
}
