// SPDX-License-Identifier: Apache-2.0
//! Sends unusual frames through the real programs, and through the same parser and decision in
//! userspace: verdict, counters and remembered state must agree. If a frame is well formed, the
//! reference evaluator must agree too.

pub mod entry;
pub mod grow;
pub mod mutate;
pub mod play;
pub mod seeds;
pub mod shrink;

use std::fmt::Write as _;

/// Encodes bytes as hexadecimal digits.
pub fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Decodes hexadecimal digits; `None` if the text is none.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits
        .map(|pair| {
            let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
            u8::from_str_radix(pair, 16).ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits() {
        assert_eq!(to_hex(&[0, 0x1f, 0xff]), "001fff");
        assert_eq!(from_hex("001fff"), Some(vec![0, 0x1f, 0xff]));
        assert_eq!(from_hex(""), Some(Vec::new()));
        for wrong in ["0", "0g", "00 1"] {
            assert_eq!(from_hex(wrong), None, "{wrong}");
        }
    }
}
