// SPDX-License-Identifier: Apache-2.0
//! Parses addresses and CIDRs of objects. All code that reads them from an object uses this module,
//! so a text means the same everywhere (rule P5).
//!
//! It accepts what Kubernetes accepts, old servers included (`ParseIPSloppy` and `ParseCIDRSloppy`
//! of `k8s.io/utils/net`): numbers may have leading zeros, and are decimal all the same. API
//! servers from 1.36 on refuse such texts in new objects, and keep those that they have.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Why a text is not a usable CIDR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// The text is not a CIDR.
    #[error("is not a CIDR")]
    Syntax,
    /// The block is within `::ffff:0:0/96`. No packet carries such an address; IPv4 was meant.
    #[error("is an IPv4-mapped IPv6 CIDR: write it as IPv4")]
    Mapped,
}

/// Parses an address. IPv4 in IPv6 notation stays as written. Returns `None` for anything else, for
/// example with a zone, a space or a sign.
pub fn parse_address(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        ipv6(text).map(IpAddr::V6)
    } else {
        ipv4(text).map(IpAddr::V4)
    }
}

/// Parses a CIDR and clears its host bits.
///
/// # Errors
/// The text is no CIDR, or is IPv4 in IPv6 notation.
pub fn parse_cidr(text: &str) -> Result<IpNet, CidrError> {
    let parsed = text.split_once('/').and_then(|(address, length)| {
        let address = parse_address(address)?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        IpNet::new(address, decimal(length, longest)?).ok()
    });
    let net = parsed.ok_or(CidrError::Syntax)?.trunc();
    match net {
        IpNet::V6(v6) if v6.prefix_len() >= 96 && v6.addr().to_ipv4_mapped().is_some() => {
            Err(CidrError::Mapped)
        }
        _ => Ok(net),
    }
}

fn ipv4(text: &str) -> Option<Ipv4Addr> {
    let mut parts = text.split('.').map(|part| decimal(part, u8::MAX));
    let mut next = || parts.next().flatten();
    let address = Ipv4Addr::new(next()?, next()?, next()?, next()?);
    parts.next().is_none().then_some(address)
}

/// Parses what the standard library parses, after removing the leading zeros that it refuses.
fn ipv6(text: &str) -> Option<Ipv6Addr> {
    let (groups, last) = text.rsplit_once(':')?;
    let short = |group: &str| match group.trim_start_matches('0') {
        "" if !group.is_empty() => "0".to_owned(),
        digits => digits.to_owned(),
    };
    let last = if last.contains('.') {
        ipv4(last)?.to_string()
    } else {
        short(last)
    };
    let groups: Vec<String> = groups.split(':').map(short).chain([last]).collect();
    groups.join(":").parse().ok()
}

/// Parses a number of digits only, at most `most`.
fn decimal(text: &str, most: u8) -> Option<u8> {
    let digits = text.trim_start_matches('0');
    let all_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = if digits.is_empty() {
        0
    } else {
        digits.parse::<u8>().ok()?
    };
    (all_digits && number <= most).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expects what Go's `ParseCIDRSloppy` returns by its documentation and source, except for IPv4
    /// in IPv6 notation, see [`CidrError::Mapped`].
    #[test]
    fn p5_cidrs_are_read_as_kubernetes_reads_them() {
        for (text, expected) in [
            ("10.244.0.0/16", "10.244.0.0/16"),
            ("010.244.0.0/16", "10.244.0.0/16"),
            ("10.244.0.0/016", "10.244.0.0/16"),
            ("0010.0244.000.00/0016", "10.244.0.0/16"),
            ("10.244.7.9/16", "10.244.0.0/16"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("0.0.0.0/00", "0.0.0.0/0"),
            ("192.0.2.1/32", "192.0.2.1/32"),
            ("192.0.2.1/032", "192.0.2.1/32"),
            ("FD00:0010:0244::/64", "fd00:10:244::/64"),
            ("fd00:00010:0000244::/064", "fd00:10:244::/64"),
            ("fd00::7/64", "fd00::/64"),
            ("::/0", "::/0"),
            ("0::0/0", "::/0"),
            ("2001:db8::192.0.2.1/128", "2001:db8::c000:201/128"),
            ("2001:db8::192.000.02.001/128", "2001:db8::c000:201/128"),
            ("::ffff:0:0/95", "::fffe:0:0/95"),
        ] {
            let expected: IpNet = expected.parse().unwrap();
            assert_eq!(parse_cidr(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "/",
            "10.0.0.0",
            "10.0.0.0/",
            "/8",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/8/8",
            "10.0.0/8",
            "10.0.0.0.0/8",
            "10.0.0.256/8",
            "10.0.0./8",
            "10..0.0/8",
            "10.0.0.0x/8",
            "0x0a.0.0.0/8",
            " 10.0.0.0/8",
            "10.0.0.0/8 ",
            "10.0.0.0 /8",
            "10.0.0.0/ 8",
            "+10.0.0.0/8",
            "10.0.0.0/+8",
            "10.0.0.0/-8",
            "-10.0.0.0/8",
            "10.0.0.0/255.0.0.0",
            "10.0.0.0/8.0",
            "fe80::1%eth0/64",
            "fd00:::/64",
            "fd00::1::/64",
            "1:2:3:4:5:6:7:8:9/64",
            "1:2:3:4:5:6:7/64",
            "fd00::g/64",
            "192.0.2.1::/64",
            "::192.0.2.1:1/128",
            ":1::/64",
            "1:/64",
            "[fd00::]/64",
            "10000::/64",
            "１0.0.0.0/8",
            "10.0.0.0/٨",
            "4294967297.0.0.0/8",
            "word",
            "10.0.0.0/99999999999999999999",
        ] {
            assert_eq!(parse_cidr(text), Err(CidrError::Syntax), "{text:?}");
        }
        for text in [
            "::ffff:10.0.0.0/104",
            "::ffff:a00:0/104",
            "0:0:0:0:0:ffff:10.0.0.1/128",
            "::ffff:010.0.0.0/104",
            "::ffff:0:0/96",
        ] {
            assert_eq!(parse_cidr(text), Err(CidrError::Mapped), "{text:?}");
        }
    }

    #[test]
    fn addresses_are_read_as_kubernetes_reads_them() {
        for (text, expected) in [
            ("192.0.2.1", Some("192.0.2.1")),
            ("192.000.02.001", Some("192.0.2.1")),
            ("::ffff:192.0.2.1", Some("::ffff:192.0.2.1")),
            ("2001:DB8::0001", Some("2001:db8::1")),
            ("::", Some("::")),
            ("192.0.2.1 ", None),
            ("fe80::1%eth0", None),
            ("None", None),
            ("", None),
        ] {
            assert_eq!(
                parse_address(text),
                expected.map(|text| text.parse().unwrap()),
                "{text:?}"
            );
        }
    }

    /// Accepts what the standard library accepts, with the same result.
    #[test]
    fn p5_canonical_texts_are_read_as_the_standard_library_reads_them() {
        use proptest::prelude::*;
        proptest!(|(v4: [u8; 4], groups: [u16; 8], zeros in 0_usize..8, width in 0_usize..6)| {
            let mut groups = groups;
            groups[..zeros].fill(0);
            let (v4, v6) = (IpAddr::from(v4), IpAddr::from(groups));
            prop_assert_eq!(parse_address(&v4.to_string()), Some(v4));
            prop_assert_eq!(parse_address(&v6.to_string()), Some(v6));
            let padded: Vec<String> = v4.to_string().split('.').map(|part| format!("{part:0>width$}")).collect();
            prop_assert_eq!(parse_address(&padded.join(".")), Some(v4));
            let padded: Vec<String> = groups.iter().map(|group| format!("{group:0>width$x}")).collect();
            prop_assert_eq!(parse_address(&padded.join(":")), Some(v6));
        });
    }
}
