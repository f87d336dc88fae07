// SPDX-License-Identifier: Apache-2.0
//! Explains why a label selector does not select an object (rules I3, P3).

use super::Missing;
use crate::{
    evaluate::selector::{holds, is_valid},
    model::{LabelExpression, LabelSelector, Labels},
};

/// Lists what `selector`, written at `field`, lacks to select `object` (e.g. ``pod `shop/web` ``)
/// with these labels. Empty exactly if it selects the object.
pub(super) fn missing(selector: &LabelSelector, labels: &Labels, object: &str, field: &str) -> Vec<Missing> {
    let expressions = || selector.match_expressions.iter().enumerate();
    let at = |index: usize| format!("{field}.matchExpressions[{index}]");
    let invalid: Vec<Missing> = expressions()
        .filter(|(_, expression)| !is_valid(expression))
        .map(|(index, expression)| Missing::new(at(index), why_invalid(expression)))
        .collect();
    if !invalid.is_empty() {
        return invalid;
    }
    let mut missing = Vec::new();
    for (key, wanted) in selector.match_labels.iter() {
        let problem = match labels.get(key) {
            None => format!("{object} has no label `{key}`; the rule wants `{wanted}`"),
            Some(value) if value != wanted => {
                format!("label `{key}` of {object} is `{value}`; the rule wants `{wanted}`")
            }
            Some(_) => continue,
        };
        missing.push(Missing::new(format!("{field}.matchLabels"), problem));
    }
    for (index, expression) in expressions() {
        if !holds(expression, labels) {
            missing.push(Missing::new(at(index), why_false(expression, labels, object)));
        }
    }
    missing
}

fn why_invalid(expression: &LabelExpression) -> String {
    let operator = &expression.operator;
    let problem = match operator.as_str() {
        "In" | "NotIn" => format!("{operator} needs at least one value"),
        "Exists" | "DoesNotExist" => format!("{operator} takes no values"),
        _ => format!("unknown operator `{operator}`"),
    };
    format!("{problem}, so the selector selects nothing")
}

fn why_false(expression: &LabelExpression, labels: &Labels, object: &str) -> String {
    let LabelExpression {
        key,
        operator,
        values,
    } = expression;
    let wanted = match values.as_slice() {
        [one] => format!("`{one}`"),
        many => format!("one of `{}`", many.join("`, `")),
    };
    match (operator.as_str(), labels.get(key)) {
        ("In", None) => format!("{object} has no label `{key}`; the rule wants {wanted}"),
        ("In", Some(value)) => format!("label `{key}` of {object} is `{value}`; the rule wants {wanted}"),
        ("Exists", _) => format!("{object} has no label `{key}`"),
        (_, Some(value)) => format!("label `{key}` of {object} is `{value}`, which the rule leaves out"),
        // Unreachable: `NotIn` and `DoesNotExist` hold for an absent key.
        (_, None) => format!("{operator} on label `{key}` does not hold for {object}"),
    }
}
