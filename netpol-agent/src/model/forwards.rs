// SPDX-License-Identifier: Apache-2.0
//! The annotation by which a Namespace lets its pods route for others (rule A6).

use ipnet::IpNet;

use super::{CidrError, parse_cidr};

/// Annotation of a Namespace: the CIDRs that its pods send and receive for, separated by commas.
/// Only those who may edit Namespaces can write it.
pub const FORWARDS: &str = "netpol/forwards";

/// Maximum number of ranges per Namespace: with 1,024 endpoints they fit map `forwards`.
pub const MOST_FORWARDS: usize = 64;

/// Ranges that never belong to one host: unspecified, loopback, link-local, multicast and reserved
/// addresses, and IPv4 in IPv6 notation.
const NOBODYS: [&str; 10] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/128",
    "::1/128",
    "::ffff:0:0/96",
    "fe80::/10",
    "ff00::/8",
];

/// The annotation has more than [`MOST_FORWARDS`] ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany;

/// The text of a range in an annotation, and its parsed value.
pub type ForwardedRange<'a> = (&'a str, Result<IpNet, CidrError>);

/// Parses the ranges of an annotation.
///
/// # Errors
/// The annotation has too many ranges.
pub fn forwarded_ranges(text: &str) -> Result<Vec<ForwardedRange<'_>>, TooMany> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    if text.split(',').count() > MOST_FORWARDS {
        return Err(TooMany);
    }
    let parts = text.split(',').map(str::trim);
    Ok(parts.map(|part| (part, parse_cidr(part))).collect())
}

/// Returns true if a range contains an address that never belongs to one host.
pub fn is_nobodys_alone(range: IpNet) -> bool {
    let mut nobodys = NOBODYS.iter().filter_map(|text| text.parse::<IpNet>().ok());
    nobodys.any(|net| net.contains(&range) || range.contains(&net))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a6_ranges_are_read_one_by_one() {
        let read = |text| {
            let ranges = forwarded_ranges(text).unwrap().into_iter();
            ranges
                .map(|(_, range)| range.ok().map(|range| range.to_string()))
                .collect::<Vec<_>>()
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read(""), []);
        assert_eq!(read("  "), []);
        assert_eq!(
            read("10.8.0.0/16, fd00:8::/64"),
            [some("10.8.0.0/16"), some("fd00:8::/64")]
        );
        assert_eq!(read("010.8.7.9/016"), [some("10.8.0.0/16")]);
        assert_eq!(
            read("10.8.0.0/16,,x, 10.9.0.1,::ffff:10.8.0.0/112"),
            [some("10.8.0.0/16"), None, None, None, None]
        );
        let many = |count| vec!["10.8.0.0/16"; count].join(",");
        assert_eq!(
            forwarded_ranges(&many(MOST_FORWARDS)).unwrap().len(),
            MOST_FORWARDS
        );
        assert_eq!(forwarded_ranges(&many(MOST_FORWARDS + 1)), Err(TooMany));
    }

    #[test]
    fn a6_what_is_nobodys_alone_is_in_no_range() {
        for text in NOBODYS {
            assert!(is_nobodys_alone(text.parse().unwrap()), "{text}");
        }
        for text in [
            "0.0.0.0/0",
            "::/0",
            "127.0.0.1/32",
            "fe80::1/128",
            "255.255.255.255/32",
            "224.0.0.0/3",
            "::/96",
        ] {
            assert!(is_nobodys_alone(text.parse().unwrap()), "{text}");
        }
        for text in [
            "10.8.0.0/16",
            "fd00:8::/64",
            "100.64.0.0/10",
            "2001:db8::/32",
            "126.0.0.0/8",
        ] {
            assert!(!is_nobodys_alone(text.parse().unwrap()), "{text}");
        }
    }
}
