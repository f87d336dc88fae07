// SPDX-License-Identifier: Apache-2.0
//! Takes out of a text what looks like a token, a password or a private key. Nothing that is
//! collected should have one; this is for what a library or a tool may once write.

use std::sync::LazyLock;

use regex::Regex;

/// What is taken out, and what stays of it.
static SECRETS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let rows = [
        // Private keys in PEM.
        (
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z ]*PRIVATE KEY-----|\z)",
            "[removed]",
        ),
        // JSON Web Tokens, wherever they stand.
        (r"eyJ[A-Za-z0-9_-]{17,}[A-Za-z0-9_.-]*", "[removed]"),
        // What HTTP authenticates with.
        (
            r#"(?i)\b(bearer|authorization:?[ \t]*basic)[ \t]+[^\s"'\\]+"#,
            "$1 [removed]",
        ),
        // A value after such a name and a colon or an equals sign, with or without quotes.
        (
            r#"(?i)((?:token|password|passwd|secret|key-data)["'\\]*[ \t]*[:=][ \t]*["'\\]*)[^\s"'\\]+"#,
            "$1[removed]",
        ),
    ];
    let compiled = rows.map(|(pattern, stays)| Regex::new(pattern).map(|pattern| (pattern, stays)));
    compiled.into_iter().flatten().collect()
});

/// Returns the text without them.
pub fn scrub(text: &str) -> String {
    SECRETS.iter().fold(text.to_owned(), |text, (pattern, stays)| {
        pattern.replace_all(&text, *stays).into_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_compiles() {
        assert_eq!(SECRETS.len(), 4);
    }

    #[test]
    fn what_looks_like_a_secret_is_taken_out_and_nothing_else() {
        let token = format!("eyJhbGciOiJSUzI1NiJ9.{}.{}", "a".repeat(40), "b-_".repeat(20));
        let table = [
            (format!("x {token} y"), "x [removed] y"),
            (
                format!("Authorization: Bearer {token}"),
                "Authorization: Bearer [removed]",
            ),
            (
                "Authorization: Bearer abc123".to_owned(),
                "Authorization: Bearer [removed]",
            ),
            (
                "Authorization: Basic dXNlcjpwYXNz".to_owned(),
                "Authorization: Basic [removed]",
            ),
            (
                format!("https://host/v1/{token}?a=b"),
                "https://host/v1/[removed]?a=b",
            ),
            (
                r#"{"token":"abc","pod":"web"}"#.to_owned(),
                r#"{"token":"[removed]","pod":"web"}"#,
            ),
            ("password=p@ss!x pod=web".to_owned(), "password=[removed] pod=web"),
            ("client-secret: s3cr3t\n".to_owned(), "client-secret: [removed]\n"),
            (
                "client-key-data: TFMwdExT\n".to_owned(),
                "client-key-data: [removed]\n",
            ),
            (
                "a\n-----BEGIN EC PRIVATE KEY-----\nMHc\n-----END EC PRIVATE KEY-----\nb".to_owned(),
                "a\n[removed]\nb",
            ),
            ("-----BEGIN PRIVATE KEY-----\ncut off".to_owned(), "[removed]"),
        ];
        for (text, expected) in table {
            assert_eq!(scrub(&text), expected);
        }
        for text in [
            "eyJ short",
            "the token is read again",
            "from_pod at veth12: no token, 10.244.0.7:80\nbearer\nnext line",
            "basic rules",
            "",
        ] {
            assert_eq!(scrub(text), text);
        }
    }
}
