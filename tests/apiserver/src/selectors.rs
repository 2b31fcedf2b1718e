//! Which objects a list or a watch is about.

use serde_json::Value;

use crate::router::Asked;

/// Whether the namespace and the selectors of a request let an object through.
pub(crate) fn selects(asked: &Asked, namespace: &str, object: &Value) -> bool {
    let in_namespace = asked.namespace.is_empty() || asked.namespace == namespace;
    let fields = asked.parameter("fieldSelector").unwrap_or_default();
    let labels = asked.parameter("labelSelector").unwrap_or_default();
    in_namespace && fields_match(fields, object) && labels_match(labels, &object["metadata"]["labels"])
}

fn fields_match(selector: &str, object: &Value) -> bool {
    selector.split(',').filter(|term| !term.is_empty()).all(|term| {
        let (field, value) = term.split_once('=').expect("FIELD=VALUE");
        let found = field.split('.').fold(object, |object, step| &object[step]);
        found.as_str().unwrap_or_default() == value.trim_start_matches('=')
    })
}

/// Terms are `KEY=VALUE`, `KEY!=VALUE`, `KEY` and `!KEY`.
fn labels_match(selector: &str, labels: &Value) -> bool {
    selector.split(',').filter(|term| !term.is_empty()).all(|term| {
        let label = |key: &str| labels[key].as_str().map(str::to_owned);
        if let Some((key, value)) = term.split_once("!=") {
            label(key).as_deref() != Some(value)
        } else if let Some((key, value)) = term.split_once('=') {
            label(key).as_deref() == Some(value.trim_start_matches('='))
        } else if let Some(key) = term.strip_prefix('!') {
            label(key).is_none()
        } else {
            label(term).is_some()
        }
    })
}
