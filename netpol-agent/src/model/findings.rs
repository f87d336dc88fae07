// SPDX-License-Identifier: Apache-2.0
//! As much of what is wrong with an object as anybody reads (rule L2).

use crate::model::Diagnostic;

/// Findings on one place of an object that are told.
const MOST: usize = 20;
/// Bytes of a field's path or of a message.
const LONGEST: usize = 1024;

/// The first of these findings, and how many more there are. Texts that an object filled end early.
pub fn bounded(mut found: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let more = found.len().saturating_sub(MOST);
    found.truncate(MOST);
    for diagnostic in &mut found {
        shorten(&mut diagnostic.field);
        shorten(&mut diagnostic.message);
    }
    if let Some(last) = found.last().filter(|_| more > 0) {
        let message = format!("and {more} more findings that are left out here");
        found.push(Diagnostic {
            code: "findings-omitted",
            object: last.object.clone(),
            field: String::new(),
            message,
        });
    }
    found.shrink_to_fit();
    found
}

fn shorten(text: &mut String) {
    if text.len() <= LONGEST {
        return;
    }
    let end = text.floor_char_boundary(LONGEST);
    text.truncate(end);
    text.push('…');
    text.shrink_to_fit();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l2_findings_are_few_and_short_whatever_an_object_holds() {
        let found = |nth: usize| Diagnostic {
            code: "cidr-invalid",
            object: "NetworkPolicy shop/p".to_owned(),
            field: format!("spec.ingress[{nth}]"),
            message: "ä".repeat(100_000),
        };
        let told = bounded((0..30_000).map(found).collect());
        assert_eq!(told.len(), MOST + 1);
        assert!(told.iter().all(|told| told.message.len() < 2 * LONGEST));
        assert!(told[MOST].message.contains("29980 more"), "{}", told[MOST]);
        let few: Vec<Diagnostic> = (0..MOST)
            .map(|nth| Diagnostic {
                message: String::new(),
                ..found(nth)
            })
            .collect();
        assert_eq!(bounded(few.clone()), few);
    }
}
