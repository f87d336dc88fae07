// SPDX-License-Identifier: Apache-2.0
//! Takes out of a text what looks like a token. Nothing that is collected should have one; this is
//! for what a library may once write to a log.

/// What stands in the place of a token.
const REMOVED: &str = "[removed]";
/// Characters from which on a word that begins as a JSON Web Token does is one.
const LEAST: usize = 30;

/// Returns the text without JSON Web Tokens, and without what follows `Bearer` or a word that ends
/// in `token`, `password` or `secret` and a colon or equals sign.
pub fn scrub(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut secret_next = false;
    for piece in pieces(text) {
        let is_word = piece.starts_with(is_part_of_word);
        if is_word && (secret_next || is_token(piece)) {
            clean.push_str(REMOVED);
            secret_next = false;
            continue;
        }
        let lower = piece.to_ascii_lowercase();
        if is_word {
            secret_next = lower == "bearer";
            let names = ["token", "password", "secret"];
            if names.iter().any(|name| lower.ends_with(name)) {
                // Only if a colon or an equals sign comes next.
                clean.push_str(piece);
                let rest = &text[clean_end(text, piece)..];
                secret_next = rest.trim_start_matches(['"', '\'', '\\']).starts_with([':', '=']);
                continue;
            }
        } else if piece.contains('\n') {
            secret_next = false;
        }
        clean.push_str(piece);
    }
    clean
}

/// Returns where a piece of the text ends in it.
fn clean_end(text: &str, piece: &str) -> usize {
    piece.as_ptr() as usize - text.as_ptr() as usize + piece.len()
}

fn is_token(word: &str) -> bool {
    word.starts_with("eyJ") && word.len() >= LEAST
}

fn is_part_of_word(character: char) -> bool {
    character.is_alphanumeric() || "-_.+/~".contains(character)
}

/// Cuts a text into words and what is between them.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let kind = is_part_of_word(first);
        let end = rest
            .find(|character| is_part_of_word(character) != kind)
            .unwrap_or(rest.len());
        let (piece, after) = rest.split_at(end);
        rest = after;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_token_is_taken_out_and_nothing_else() {
        let token = format!("eyJhbGciOiJSUzI1NiJ9.{}.{}", "a".repeat(40), "b-_".repeat(20));
        let table = [
            (format!("x {token} y"), "x [removed] y".to_owned()),
            (
                format!("Authorization: Bearer {token}"),
                "Authorization: Bearer [removed]".to_owned(),
            ),
            (
                "Authorization: Bearer abc123".to_owned(),
                "Authorization: Bearer [removed]".to_owned(),
            ),
            (
                "{\"token\":\"abc\",\"pod\":\"web\"}".to_owned(),
                "{\"token\":\"[removed]\",\"pod\":\"web\"}".to_owned(),
            ),
            (
                "password=hunter2 pod=web".to_owned(),
                "password=[removed] pod=web".to_owned(),
            ),
            (
                "client-secret: s3cr3t\n".to_owned(),
                "client-secret: [removed]\n".to_owned(),
            ),
        ];
        for (text, expected) in table {
            assert_eq!(scrub(&text), expected);
        }
        for text in [
            "eyJ short",
            "the token is read again",
            "from_pod at veth12: no token, 10.244.0.7:80\nbearer\nnext line",
            "",
        ] {
            assert_eq!(scrub(text), text);
        }
    }
}
