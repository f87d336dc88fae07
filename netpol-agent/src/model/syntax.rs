// SPDX-License-Identifier: Apache-2.0
//! The syntax of names and labels that an API server demands, for objects from elsewhere.

use std::collections::BTreeMap;

/// RFC 1123 label: at most 63 lower case letters, digits and `-`, a letter or digit at both ends.
pub fn is_dns_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.len() <= 63
        && text.bytes().all(|b| inner(b) || b == b'-')
        && text.bytes().next().is_some_and(inner)
        && text.bytes().last().is_some_and(inner)
}

/// RFC 1123 subdomain: at most 253 bytes of labels with dots between them.
pub fn is_dns_subdomain(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.len() <= 253
        && text.split('.').all(|part| {
            part.bytes().all(|b| inner(b) || b == b'-')
                && part.bytes().next().is_some_and(inner)
                && part.bytes().last().is_some_and(inner)
        })
}

/// A port name as in RFC 6335: at most 15 lower case letters, digits and single inner `-`, at least
/// one letter.
pub fn is_port_name(text: &str) -> bool {
    text.len() <= 15
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && text.bytes().any(|b| b.is_ascii_lowercase())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--")
}

fn is_qualified_name(text: &str) -> bool {
    text.len() <= 63
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && text.bytes().last().is_some_and(|b| b.is_ascii_alphanumeric())
}

/// A label's key: a name, with a DNS subdomain and `/` before it or not.
pub fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_qualified_name(name),
        None => is_qualified_name(text),
    }
}

/// A label's value: a name, or empty.
pub fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_qualified_name(text)
}

/// The labels that Kubernetes would refuse: field and reason of each.
pub fn label_faults(labels: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let mut faults = Vec::new();
    for (key, value) in labels {
        let field = format!("metadata.labels[{key}]");
        if !is_label_key(key) {
            faults.push((
                field,
                format!("`{key}` is not a label key that Kubernetes accepts"),
            ));
        } else if !is_label_value(value) {
            faults.push((
                field,
                format!("`{value}` is not a label value that Kubernetes accepts"),
            ));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(predicate: fn(&str) -> bool, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(predicate(text), "{text:?} is good");
        }
        for text in bad {
            assert!(!predicate(text), "{text:?} is bad");
        }
    }

    #[test]
    fn names() {
        let long = "a".repeat(64);
        check(
            is_dns_label,
            &["a", "a-b", "0a"],
            &["", "-a", "a-", "A", "a.b", "a_b", "ä", &long],
        );
        check(
            is_dns_subdomain,
            &["a", "a.b-c.d", &long],
            &["", ".a", "a.", "a..b", "a.-b", "A.b", &"a".repeat(254)],
        );
        check(
            is_port_name,
            &["http", "http-2", "1a"],
            &["", "80", "HTTP", "-a", "a-", "a--b", "abcdefghijklmnop"],
        );
    }

    #[test]
    fn labels() {
        let long = "a".repeat(64);
        check(
            is_label_key,
            &["app", "App_1.x", "example.com/app", "kubernetes.io/metadata.name"],
            &[
                "",
                "/app",
                "example.com/",
                "a b",
                "-a",
                "a.",
                "Example.com/app",
                "a/b/c",
                &long,
            ],
        );
        check(
            is_label_value,
            &["", "v1.0", "A_b"],
            &["a b", "-a", "a-", "a/b", &long],
        );
    }
}
