// SPDX-License-Identifier: Apache-2.0
//! Label selectors in normal form (rules I3, P3).

use std::{collections::BTreeSet, fmt};

use super::fault::Fault;
use crate::model::{LabelExpression, LabelSelector, Labels, syntax};

/// Values times requirements that are searched for a remark.
const LOOKS: usize = 1 << 16;

/// A valid label selector. Its requirements are ANDed, sorted and without repetition. Without a
/// requirement it selects everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(super) struct Selector(BTreeSet<Requirement>);

/// One requirement on the label `key`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Operator {
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Exists,
    DoesNotExist,
}

impl Selector {
    /// The selector in normal form. Every expression that Kubernetes would refuse is a fault, and
    /// one fault makes the selector invalid (rule I3). `otherwise` says what enforcement does with
    /// an invalid one.
    pub(super) fn parse(selector: &LabelSelector, otherwise: &str) -> Result<Self, Vec<Fault>> {
        let mut requirements = BTreeSet::new();
        let mut faults = Vec::new();
        for (key, value) in selector.match_labels.iter() {
            requirements.insert(Requirement {
                key: key.to_owned(),
                operator: Operator::In(BTreeSet::from([value.to_owned()])),
            });
        }
        for (index, expression) in selector.match_expressions.iter().enumerate() {
            match Operator::parse(expression) {
                Ok(operator) => {
                    requirements.insert(Requirement {
                        key: expression.key.clone(),
                        operator,
                    });
                }
                Err((part, problem)) => faults.push(Fault::new(
                    "selector-invalid",
                    format!(".matchExpressions[{index}].{part}"),
                    format!("{problem}; {otherwise}"),
                )),
            }
        }
        if faults.is_empty() {
            Ok(Self(requirements))
        } else {
            Err(faults)
        }
    }

    /// What is odd about a valid selector, which is enforced as written: labels that Kubernetes
    /// refuses, and requirements that no object can meet together. `selector` is what this was
    /// parsed from.
    pub(super) fn remarks(&self, selector: &LabelSelector) -> Vec<Fault> {
        let mut remarks = label_remarks(selector);
        for key in self.keys().collect::<BTreeSet<_>>() {
            if self.contradicts_itself(key) {
                remarks.push(Fault::new(
                    "selector-matches-nothing",
                    "",
                    format!(
                        "no value of label {key:?} meets all requirements on it; the selector selects nothing"
                    ),
                ));
            }
        }
        remarks
    }

    /// Whether no value of a label, nor its absence, meets every requirement on it. False if that
    /// costs too much to find out: a selector that contradicts itself selects nothing anyway.
    fn contradicts_itself(&self, key: &str) -> bool {
        let requirements: Vec<&Operator> = self.of_key(key).collect();
        if requirements.len() < 2 || requirements.iter().all(|operator| operator.meets(None)) {
            return false;
        }
        let list = requirements.iter().find_map(|operator| match operator {
            Operator::In(values) => Some(values),
            _ => None,
        });
        match list {
            Some(values) if values.len().saturating_mul(requirements.len()) > LOOKS => false,
            // Only the values of one list can be in all lists.
            Some(values) => !values
                .iter()
                .any(|value| requirements.iter().all(|operator| operator.meets(Some(value)))),
            // Without a list there are more values than any `NotIn` can name.
            None => requirements.contains(&&Operator::DoesNotExist),
        }
    }

    /// The requirements on a label.
    fn of_key<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a Operator> {
        let first = Requirement {
            key: key.to_owned(),
            operator: Operator::In(BTreeSet::new()),
        };
        let from = self
            .0
            .range(first..)
            .take_while(move |requirement| requirement.key == key);
        from.map(|requirement| &requirement.operator)
    }

    /// Whether the selector selects an object with these labels.
    pub(super) fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| {
            let value = labels.get(&requirement.key);
            requirement.operator.meets(value)
        })
    }

    /// The label keys that decide whether it matches.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|requirement| requirement.key.as_str())
    }
}

/// Keys and values that no object of a cluster can have.
fn label_remarks(selector: &LabelSelector) -> Vec<Fault> {
    let mut remarks = Vec::new();
    let mut look = |field: &str, key: &str, values: &mut dyn Iterator<Item = &str>| {
        if !syntax::is_label_key(key) {
            let message =
                format!("{key:?} is no label key that Kubernetes accepts; it is compared as written");
            remarks.push(Fault::new("selector-label-invalid", field, message));
        }
        for value in values {
            if !syntax::is_label_value(value) {
                let message =
                    format!("{value:?} is no label value that Kubernetes accepts; it is compared as written");
                remarks.push(Fault::new("selector-label-invalid", field, message));
            }
        }
    };
    for (key, value) in selector.match_labels.iter() {
        look(&format!(".matchLabels[{key}]"), key, &mut std::iter::once(value));
    }
    for (index, expression) in selector.match_expressions.iter().enumerate() {
        let field = format!(".matchExpressions[{index}]");
        look(
            &field,
            &expression.key,
            &mut expression.values.iter().map(String::as_str),
        );
    }
    remarks
}

impl Operator {
    /// Whether a label with this value, or no label, meets it.
    fn meets(&self, value: Option<&str>) -> bool {
        match self {
            Self::In(values) => value.is_some_and(|value| values.contains(value)),
            Self::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Self::Exists => value.is_some(),
            Self::DoesNotExist => value.is_none(),
        }
    }

    /// The operator of an expression, or the field that is wrong and the problem with it.
    fn parse(expression: &LabelExpression) -> Result<Self, (&'static str, String)> {
        let operator = expression.operator.as_str();
        let values = || expression.values.iter().cloned().collect::<BTreeSet<_>>();
        match (operator, expression.values.is_empty()) {
            ("In", false) => Ok(Self::In(values())),
            ("NotIn", false) => Ok(Self::NotIn(values())),
            ("Exists", true) => Ok(Self::Exists),
            ("DoesNotExist", true) => Ok(Self::DoesNotExist),
            ("In" | "NotIn", true) => Err(("values", format!("{operator} needs at least one value"))),
            ("Exists" | "DoesNotExist", false) => Err(("values", format!("{operator} takes no values"))),
            _ => Err(("operator", format!("unknown operator {operator:?}"))),
        }
    }
}

/// Canonical: two selectors are equal exactly if their texts are.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (index, requirement) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            let key = Word(&requirement.key);
            match &requirement.operator {
                Operator::In(values) => write!(f, "{key} in {}", Words(values))?,
                Operator::NotIn(values) => write!(f, "{key} notin {}", Words(values))?,
                Operator::Exists => write!(f, "{key} exists")?,
                Operator::DoesNotExist => write!(f, "{key} absent")?,
            }
        }
        f.write_str("}")
    }
}

/// A label key, a label value or a name. It is quoted unless Kubernetes would accept it, so that
/// nothing written into a canonical text can be taken for another part of it.
pub(super) struct Word<'a>(pub(super) &'a str);

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/');
        if !self.0.is_empty() && self.0.bytes().all(plain) {
            f.write_str(self.0)
        } else {
            write!(f, "{:?}", self.0)
        }
    }
}

struct Words<'a>(&'a BTreeSet<String>);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(")?;
        for (index, value) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{}", Word(value))?;
        }
        f.write_str(")")
    }
}
