// SPDX-License-Identifier: Apache-2.0
//! One file: its documents, and the objects in them.

use serde_json::Value;

use crate::{
    model::Diagnostic,
    watch::object::{Entry, Id, Object},
};

use super::decode;

/// An object of a file.
#[derive(Debug)]
pub struct Item {
    /// File, document and, in a List, item. Documents and items count from 1.
    pub place: String,
    /// The object, or why it is not read.
    pub outcome: Outcome,
}

/// What became of an object.
#[derive(Debug)]
pub enum Outcome {
    /// It is read.
    Read(Box<Entry>),
    /// It cannot be read.
    Refused(Id, Diagnostic),
}

impl Item {
    /// Kind and key of the object.
    pub fn id(&self) -> Id {
        match &self.outcome {
            Outcome::Read(entry) => Object::id(&entry.object),
            Outcome::Refused(id, _) => id.clone(),
        }
    }
}

/// As [`read`], of the bytes on the disk.
///
/// # Errors
/// As there, and if they are no text.
pub fn read_bytes(name: &str, bytes: &[u8]) -> Result<Vec<Item>, Diagnostic> {
    let text = std::str::from_utf8(bytes).map_err(|error| Diagnostic {
        code: "manifest-unparseable",
        object: name.to_owned(),
        field: String::new(),
        message: format!("not UTF-8: {error}; the objects that the file had stay in force"),
    })?;
    read(name, text)
}

/// Reads a file. `name` is its path as diagnostics show it.
///
/// # Errors
/// If it does not parse, or something in it cannot be told to be which object: then nothing of it
/// can be relied on.
pub fn read(name: &str, text: &str) -> Result<Vec<Item>, Diagnostic> {
    let documents = if name.ends_with(".json") {
        json(name, text)
    } else {
        yaml(name, text)
    }?;
    let mut items = Vec::new();
    for (index, document) in documents.into_iter().enumerate() {
        decode::document(&format!("{name}, document {}", index + 1), document, &mut items)?;
    }
    Ok(items)
}

fn unparseable(name: &str, document: usize, line: u64, reason: &str) -> Diagnostic {
    Diagnostic {
        code: "manifest-unparseable",
        object: name.to_owned(),
        field: format!("document {document}, line {line}"),
        message: format!("{reason}; the objects that the file had stay in force"),
    }
}

fn yaml(name: &str, text: &str) -> Result<Vec<Value>, Diagnostic> {
    // Limits guard against anchors that expand without end; a list of ten thousand pods is no such
    // thing.
    let options = serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_reader_input_bytes: None,
            max_events: 5_000_000,
            max_nodes: 2_500_000,
            max_total_scalar_bytes: 1 << 30,
            max_documents: 1_000_000,
        },
    };
    let mut bytes = text.as_bytes();
    let mut documents = Vec::new();
    for document in serde_saphyr::read_with_options::<_, Value>(&mut bytes, options) {
        let document = document.map_err(|error| {
            let line = error.location().map_or(1, |location| location.line());
            unparseable(name, documents.len() + 1, line, error.to_string().trim_end())
        })?;
        if !document.is_null() {
            documents.push(document);
        }
    }
    Ok(documents)
}

fn json(name: &str, text: &str) -> Result<Vec<Value>, Diagnostic> {
    let mut documents = Vec::new();
    for document in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
        let document = document.map_err(|error| {
            unparseable(name, documents.len() + 1, error.line() as u64, &error.to_string())
        })?;
        documents.push(document);
    }
    Ok(documents)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";

    fn ids(name: &str, text: &str) -> Vec<String> {
        read(name, text)
            .unwrap()
            .iter()
            .map(|item| item.id().to_string())
            .collect()
    }

    #[test]
    fn documents_and_lists() {
        let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: a, namespace: shop}}\n- {apiVersion: v1, kind: Pod, metadata: {name: b}}\n";
        let text = format!("# nothing\n---\n{NAMESPACE}---\n---\n{list}");
        assert_eq!(
            ids("a.yaml", &text),
            ["Namespace shop", "Pod shop/a", "Pod default/b"]
        );
        let places: Vec<_> = read("a.yaml", &text)
            .unwrap()
            .into_iter()
            .map(|item| item.place)
            .collect();
        assert_eq!(
            places,
            [
                "a.yaml, document 1",
                "a.yaml, document 2, item 1",
                "a.yaml, document 2, item 2"
            ]
        );
        let json = r#"{"apiVersion": "v1", "kind": "PodList", "items": [{"metadata": {"name": "a"}}]}"#;
        assert_eq!(ids("a.json", json), ["Pod default/a"]);
        assert_eq!(ids("a.yaml", json), ["Pod default/a"]);
        assert_eq!(ids("a.yaml", ""), Vec::<String>::new());
        assert_eq!(ids("a.json", ""), Vec::<String>::new());
    }

    #[test]
    fn syntax_errors_name_document_and_line() {
        for (name, text, field) in [
            ("a.yaml", format!("{NAMESPACE}---\nkind: [\n"), "document 2"),
            (
                "a.yaml",
                format!("{NAMESPACE}---\nkind: Pod\nkind: Pod\n"),
                "document 2, line 6",
            ),
            ("a.yaml", "a: b\n c: d\n".to_owned(), "document 1, line 2"),
            ("a.json", "{\n\"a\": }".to_owned(), "document 1, line 2"),
        ] {
            let fault = read(name, &text).unwrap_err();
            assert_eq!(
                (fault.code, fault.object.as_str()),
                ("manifest-unparseable", name)
            );
            assert!(fault.field.starts_with(field), "{fault}");
        }
    }

    #[test]
    fn quoted_scalars_are_strings_and_plain_ones_are_not() {
        let pod = |value: &str| {
            format!("{{apiVersion: v1, kind: Pod, metadata: {{name: a, labels: {{x: {value}}}}}}}")
        };
        assert!(matches!(
            read("a.yaml", &pod("\"1\"")).unwrap()[0].outcome,
            Outcome::Read(_)
        ));
        for value in ["1", "true", "1.5", "null"] {
            let items = read("a.yaml", &pod(value)).unwrap();
            let Outcome::Refused(_, fault) = &items[0].outcome else {
                panic!("{value} is no label value")
            };
            assert_eq!(
                (fault.code, fault.field.as_str()),
                ("field-type", "metadata.labels.x")
            );
        }
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let before = format!("*a{}", level - 1);
            text += &format!("a{level}: &a{level} [{}]\n", [before.as_str(); 10].join(", "));
        }
        assert_eq!(read("a.yaml", &text).unwrap_err().code, "manifest-unparseable");
    }
}
