//! Kubernetes' label selectors, as kubectl and the API server take them ("Labels and Selectors"); pure.

use std::{collections::BTreeMap, error::Error, fmt, str::FromStr};

/// What labels must be like, all of it; shown as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    text: String,
    requirements: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Missing,
    Greater(i64),
    Less(i64),
}

impl Selector {
    /// Whether these labels are meant.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|Requirement { key, operator }| {
            let value = labels.get(key);
            let number = || value.and_then(|value| value.parse::<i64>().ok());
            match operator {
                Operator::In(values) => value.is_some_and(|value| values.contains(value)),
                Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
                Operator::Exists => value.is_some(),
                Operator::Missing => value.is_none(),
                Operator::Greater(than) => number().is_some_and(|number| number > *than),
                Operator::Less(than) => number().is_some_and(|number| number < *than),
            }
        })
    }
}

/// The text is no selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSelector;

impl fmt::Display for NoSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("labels are selected as in app=web,tier!=cache or 'app in (web, db),!canary'")
    }
}

impl Error for NoSelector {}

impl FromStr for Selector {
    type Err = NoSelector;

    /// An empty one matches all.
    fn from_str(text: &str) -> Result<Self, NoSelector> {
        let mut rest = text.trim();
        let mut requirements = Vec::new();
        while !rest.is_empty() {
            let end = end_of_requirement(rest);
            requirements.push(requirement(rest[..end].trim())?);
            let Some(behind) = rest[end..].strip_prefix(',') else { break };
            rest = behind.trim_start();
            if rest.is_empty() {
                return Err(NoSelector);
            }
        }
        Ok(Self { text: text.to_owned(), requirements })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Where the first comma is that is in no list of values.
fn end_of_requirement(text: &str) -> usize {
    let mut is_list = false;
    let is_end = |character| match character {
        '(' => {
            is_list = true;
            false
        }
        ')' => {
            is_list = false;
            false
        }
        ',' => !is_list,
        _ => false,
    };
    text.find(is_end).unwrap_or(text.len())
}

fn requirement(text: &str) -> Result<Requirement, NoSelector> {
    if let Some(key) = text.strip_prefix('!') {
        return Ok(Requirement { key: checked_key(key)?, operator: Operator::Missing });
    }
    let end = text.find(|c: char| c.is_whitespace() || "=!<>(".contains(c)).unwrap_or(text.len());
    let (key, rest) = (checked_key(&text[..end])?, text[end..].trim());
    let operator = if rest.is_empty() {
        Operator::Exists
    } else if let Some(value) = rest.strip_prefix("!=") {
        Operator::NotIn(vec![checked_value(value)?])
    } else if let Some(value) = rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')) {
        Operator::In(vec![checked_value(value)?])
    } else if let Some(number) = rest.strip_prefix('>') {
        Operator::Greater(number.trim().parse().map_err(|_| NoSelector)?)
    } else if let Some(number) = rest.strip_prefix('<') {
        Operator::Less(number.trim().parse().map_err(|_| NoSelector)?)
    } else if let Some(values) = rest.strip_prefix("notin") {
        Operator::NotIn(list(values)?)
    } else if let Some(values) = rest.strip_prefix("in") {
        Operator::In(list(values)?)
    } else {
        return Err(NoSelector);
    };
    Ok(Requirement { key, operator })
}

fn list(text: &str) -> Result<Vec<String>, NoSelector> {
    let values = text.trim().strip_prefix('(').and_then(|text| text.strip_suffix(')')).ok_or(NoSelector)?;
    values.split(',').map(checked_value).collect()
}

fn checked_key(text: &str) -> Result<String, NoSelector> {
    let key = text.trim();
    let is_key = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if !key.is_empty() && key.chars().all(is_key) { Ok(key.to_owned()) } else { Err(NoSelector) }
}

/// A value may be empty.
fn checked_value(text: &str) -> Result<String, NoSelector> {
    let value = text.trim();
    let is_value = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if value.chars().all(is_value) { Ok(value.to_owned()) } else { Err(NoSelector) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(selector: &str, labels: &[(&str, &str)]) -> bool {
        let labels = labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        selector.parse::<Selector>().unwrap_or_else(|_| panic!("{selector}")).matches(&labels)
    }

    #[test]
    fn labels_are_judged_as_the_server_judges_them() {
        let labels = [("app", "web"), ("a.b/tier", "front"), ("size", "3"), ("empty", "")];
        for selector in [
            "",
            " ",
            "app",
            "app=web",
            "app == web , a.b/tier!=back",
            "app in (db, web),size",
            "app notin (db),!canary",
            "other!=x",
            "other notin (x)",
            "size>2",
            "size < 4",
            "empty=",
            "empty in ()",
        ] {
            assert!(matches(selector, &labels), "{selector}");
        }
        for selector in [
            "app=we",
            "app!=web",
            "app in (db)",
            "app notin (db,web)",
            "!app",
            "canary",
            "app=web,canary",
            "size>3",
            "app>1",
            "other=",
            "empty=x",
        ] {
            assert!(!matches(selector, &labels), "{selector}");
        }
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        for text in
            [",", "app=web,", "=web", "app in web", "app in (a", "app~web", "a b", "!", "app=w b", "size>x"]
        {
            assert_eq!(text.parse::<Selector>(), Err(NoSelector), "{text}");
        }
    }
}
