// SPDX-License-Identifier: Apache-2.0
//! The argument `--flow-lifetime STATE=SECONDS`.

use std::str::FromStr;

use netpol_common::abi::Lifetimes;
use thiserror::Error;

/// Longest lifetime in seconds: a year.
const MOST: u32 = 31_536_000;

/// A lifetime of one state.
#[derive(Debug, Clone, Copy)]
pub struct Lifetime {
    field: fn(&mut Lifetimes) -> &mut u32,
    seconds: u32,
}

/// Why an argument is not a lifetime.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LifetimeError {
    /// It has no `=`, or no known state before it.
    #[error(
        "expected STATE=SECONDS, with tcp-opening, tcp-established, tcp-closing, tcp-closed, udp-opening, udp-established, \
         sctp-opening, sctp-established, icmp or other"
    )]
    State,
    /// The seconds are not a number, or out of bounds.
    #[error("expected 1 to {MOST} seconds")]
    Seconds,
}

impl FromStr for Lifetime {
    type Err = LifetimeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (state, seconds) = text.split_once('=').ok_or(LifetimeError::State)?;
        let field: fn(&mut Lifetimes) -> &mut u32 = match state {
            "tcp-opening" => |all| &mut all.tcp_opening,
            "tcp-established" => |all| &mut all.tcp_established,
            "tcp-closing" => |all| &mut all.tcp_closing,
            "tcp-closed" => |all| &mut all.tcp_closed,
            "udp-opening" => |all| &mut all.udp_opening,
            "udp-established" => |all| &mut all.udp_established,
            "sctp-opening" => |all| &mut all.sctp_opening,
            "sctp-established" => |all| &mut all.sctp_established,
            "icmp" => |all| &mut all.icmp,
            "other" => |all| &mut all.other,
            _ => return Err(LifetimeError::State),
        };
        let seconds = seconds.parse().map_err(|_| LifetimeError::Seconds)?;
        if !(1..=MOST).contains(&seconds) {
            return Err(LifetimeError::Seconds);
        }
        Ok(Self { field, seconds })
    }
}

/// Collects the lifetimes. The last one for a state counts; a state without one gets 0, the
/// default.
pub fn all(given: &[Lifetime]) -> Lifetimes {
    let mut all = Lifetimes::default();
    for lifetime in given {
        *(lifetime.field)(&mut all) = lifetime.seconds;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c3_every_lifetime_has_an_argument() {
        let mut given = Vec::new();
        for (number, (field, _, _)) in (1..).zip(Lifetimes::LAYOUT) {
            let text = format!("{}={number}", field.replace('_', "-"));
            given.push(text.parse::<Lifetime>().unwrap());
        }
        assert_eq!(
            all(&given),
            Lifetimes {
                tcp_opening: 1,
                tcp_established: 2,
                tcp_closing: 3,
                tcp_closed: 4,
                udp_opening: 5,
                udp_established: 6,
                sctp_opening: 7,
                sctp_established: 8,
                icmp: 9,
                other: 10,
            }
        );
        assert_eq!(all(&[]), Lifetimes::default());
    }

    #[test]
    fn c3_what_is_no_lifetime_is_refused() {
        for (text, expected) in [
            ("", LifetimeError::State),
            ("tcp-established", LifetimeError::State),
            ("tcp=5", LifetimeError::State),
            ("icmp=0", LifetimeError::Seconds),
            ("icmp=31536001", LifetimeError::Seconds),
            ("icmp=-1", LifetimeError::Seconds),
            ("icmp=5s", LifetimeError::Seconds),
        ] {
            assert_eq!(text.parse::<Lifetime>().err(), Some(expected), "{text}");
        }
    }
}
