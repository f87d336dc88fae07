// SPDX-License-Identifier: Apache-2.0
//! Label selectors (rules I3 and P3).

use crate::model::{LabelExpression, LabelSelector, Labels};

/// Returns true if a selector selects an object with these labels. A selector with an invalid
/// expression selects nothing.
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

/// Returns true if Kubernetes accepts the expression: `In` and `NotIn` need values, `Exists` and
/// `DoesNotExist` must have none.
pub(super) fn is_valid(expression: &LabelExpression) -> bool {
    match expression.operator.as_str() {
        "In" | "NotIn" => !expression.values.is_empty(),
        "Exists" | "DoesNotExist" => expression.values.is_empty(),
        _ => false,
    }
}

/// Returns true if a valid expression holds for these labels. `NotIn` and `DoesNotExist` hold for
/// an absent key.
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
