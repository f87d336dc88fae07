// SPDX-License-Identifier: Apache-2.0
//! Texts and labels as they are decoded. Most are those of an object that was read a moment ago:
//! they are not made again.

use std::{array, borrow::Cow, cell::RefCell, fmt, hash::BuildHasher as _, sync::Arc};

use foldhash::fast::FixedState;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};

use crate::model::{Labels, Text};

/// Texts that a thread remembers.
const RECENT: usize = 512;
/// Bytes of the longest text that is remembered: the key of a label.
const LONGEST: usize = 253 + 1 + 63;

thread_local! {
    static TEXTS: RefCell<[Option<Arc<str>>; RECENT]> = RefCell::new(array::from_fn(|_| None));
}

/// Returns the text, shared with those who had it lately.
pub(super) fn shared(text: &str) -> Arc<str> {
    if text.len() > LONGEST {
        return text.into();
    }
    TEXTS.with_borrow_mut(|texts| {
        let place = &mut texts[place(text)];
        match place {
            Some(known) if **known == *text => known.clone(),
            _ => place.insert(text.into()).clone(),
        }
    })
}

/// Where a text is remembered. Two that share a place are made anew more often: nothing else.
fn place(text: &str) -> usize {
    FixedState::default().hash_one(text) as usize % RECENT
}

/// A text that is copied only if it is written with escapes.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Borrowed<'a>(#[serde(borrow)] pub Cow<'a, str>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Borrowed(text) = Borrowed::deserialize(deserializer)?;
        Ok(shared(&text).into())
    }
}

/// A text that no other object has. `null` is the same as absent.
pub(super) fn own<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Text, D::Error> {
    let text = Option::<Borrowed<'de>>::deserialize(deserializer)?;
    Ok(text.map_or_else(Text::default, |Borrowed(text)| Text::from(&*text)))
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(LabelsVisitor)
    }
}

struct LabelsVisitor;

impl<'de> Visitor<'de> for LabelsVisitor {
    type Value = Labels;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of labels")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
        let mut labels = Vec::with_capacity(8);
        while let Some((Borrowed(key), Borrowed(value))) = map.next_entry()? {
            labels.push((shared(&key), shared(&value)));
        }
        Ok(labels.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_two_objects_have_in_common_is_there_once() {
        let labels = |app: &str| -> Labels {
            serde_json::from_str(&format!(
                r#"{{"b\u0041": "1", "app": "{app}", "app": "x-{app}"}}"#
            ))
            .unwrap()
        };
        let (one, other) = (labels("a"), labels("b"));
        assert_eq!(one.iter().collect::<Vec<_>>(), [("app", "x-a"), ("bA", "1")]);
        assert_eq!(one["bA"].as_ptr(), other["bA"].as_ptr());
        assert_eq!(&other["app"], "x-b");
    }

    #[test]
    fn labels_are_texts() {
        for wrong in [json!({"a": null}), json!({"a": 1}), json!(["a"]), json!("a")] {
            assert!(
                serde_json::from_value::<Labels>(wrong.clone()).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_long_text_is_nobody_elses() {
        let long: Text = serde_json::from_value(json!("x".repeat(LONGEST + 1))).unwrap();
        assert_eq!(Arc::strong_count(long.shared()), 1);
    }

    #[test]
    fn a_thread_forgets_what_it_has_not_read_for_long() {
        let first: Text = serde_json::from_value(json!("first")).unwrap();
        for number in 0..100 * RECENT {
            let _: Text = serde_json::from_value(json!(number.to_string())).unwrap();
        }
        assert_eq!(Arc::strong_count(first.shared()), 1);
    }
}
