// SPDX-License-Identifier: Apache-2.0
//! Label selectors (rules I3 and P3).

use crate::model::{LabelExpression, LabelSelector, Labels};

/// Whether a selector selects an object with these labels. A selector with an invalid expression selects nothing at all.
pub(super) fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    if !selector.match_expressions.iter().all(is_valid) {
        return false;
    }
    let labels_match = selector
        .match_labels
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value));
    labels_match
        && selector
            .match_expressions
            .iter()
            .all(|expression| holds(expression, labels))
}

/// Whether Kubernetes accepts the expression: `In` and `NotIn` need values, `Exists` and `DoesNotExist` must have none.
pub(super) fn is_valid(expression: &LabelExpression) -> bool {
    match expression.operator.as_str() {
        "In" | "NotIn" => !expression.values.is_empty(),
        "Exists" | "DoesNotExist" => expression.values.is_empty(),
        _ => false,
    }
}

/// Whether a valid expression is true of these labels. `NotIn` and `DoesNotExist` are true of an absent key.
pub(super) fn holds(expression: &LabelExpression, labels: &Labels) -> bool {
    let value = labels.get(&expression.key);
    let listed = value.is_some_and(|value| expression.values.iter().any(|listed| listed == value));
    match expression.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}
