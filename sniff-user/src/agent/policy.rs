//! The agent's policy: what captures of whose pods must keep to; pure, but for reading the file.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Deserializer, de::Error as _};
use sniff_common::MAX_SNAPLEN;

use crate::targets::Demands;

/// Most bytes of a policy: it is told to each session in one message.
const MAX_BYTES: usize = 24 << 10;
/// What stands for the rest of a namespace's name.
const REST: char = '*';

/// What captures must keep to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// All that are for somebody hold.
    #[serde(default)]
    rules: Vec<Rule>,
}

/// What is demanded, and of whom.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    /// Namespaces by their names, of which a `*` at the end is any rest.
    #[serde(default)]
    namespaces: Vec<String>,
    /// Whether it is for interfaces of the node, too.
    #[serde(default)]
    node: bool,
    /// Whether a capture is to have a filter of its own.
    #[serde(default)]
    require_filter: bool,
    /// Only packets that match this, too.
    #[serde(default)]
    filter: Option<String>,
    /// Whether only headers are kept.
    #[serde(default)]
    headers: bool,
    /// Most bytes kept of a packet.
    #[serde(default)]
    snaplen: Option<u32>,
    /// The longest that a capture may last.
    #[serde(default, deserialize_with = "duration")]
    duration: Option<Duration>,
}

/// Who is captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom<'a> {
    /// A pod of this namespace.
    Namespace(&'a str),
    /// The node.
    Node,
}

/// All that is demanded of somebody's capture: the strictest of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demanded {
    /// What of packets is kept.
    pub demands: Demands,
    /// Whether it is to have a filter.
    pub require_filter: bool,
    /// The longest that it may last.
    pub duration: Option<Duration>,
}

impl Policy {
    /// The text of a policy in a file, which is one.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or is none.
    pub fn read(path: &Path) -> Result<String> {
        let cannot = || format!("the policy {}", path.display());
        let text = fs::read_to_string(path).with_context(cannot)?;
        Self::parse(&text).with_context(cannot)?;
        Ok(text)
    }

    /// Reads YAML.
    ///
    /// # Errors
    ///
    /// When it is no policy: what is not known, or demands nothing, is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        ensure!(text.len() <= MAX_BYTES, "it has {} bytes, and may have {MAX_BYTES}", text.len());
        let policy: Self = serde_saphyr::from_str(text).map_err(|error| {
            // Of several lines that show where it is, the first says what is wrong.
            anyhow::anyhow!("{}", error.to_string().lines().next().unwrap_or_default().to_owned())
        })?;
        for (number, rule) in (1..).zip(&policy.rules) {
            rule.check().with_context(|| format!("rule {number}"))?;
        }
        Ok(policy)
    }

    /// What is demanded of a capture of them.
    pub fn of(&self, whom: Whom<'_>) -> Demanded {
        let mut all = Demanded::default();
        for rule in self.rules.iter().filter(|rule| rule.is_for(whom)) {
            let Rule { namespaces: _, node: _, require_filter, filter, headers, snaplen, duration } = rule;
            let Demanded { demands, require_filter: requires, duration: longest } = &mut all;
            demands.filter = match (demands.filter.take(), filter) {
                (Some(one), Some(other)) => Some(format!("({one}) and ({other})")),
                (one, other) => one.or_else(|| other.clone()),
            };
            demands.headers |= headers;
            demands.snaplen = demands.snaplen.into_iter().chain(*snaplen).min();
            *requires |= require_filter;
            *longest = longest.iter().chain(duration).min().copied();
        }
        all
    }
}

impl Rule {
    fn is_for(&self, whom: Whom<'_>) -> bool {
        match whom {
            Whom::Node => self.node,
            Whom::Namespace(namespace) => self.namespaces.iter().any(|name| match name.strip_suffix(REST) {
                Some(begin) => namespace.starts_with(begin),
                None => name == namespace,
            }),
        }
    }

    fn check(&self) -> Result<()> {
        let Self { namespaces, node, require_filter, filter, headers, snaplen, duration } = self;
        ensure!(*node || !namespaces.is_empty(), "it is for nobody: name namespaces, or node: true");
        for name in namespaces {
            let begin = name.strip_suffix(REST).unwrap_or(name);
            let is_name =
                begin.bytes().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-');
            ensure!(
                is_name && !name.is_empty(),
                "{name:?} is no namespace, and no begin of one with a * behind it"
            );
        }
        ensure!(
            *require_filter || *headers || filter.is_some() || snaplen.is_some() || duration.is_some(),
            "it demands nothing"
        );
        if filter.as_ref().is_some_and(|filter| filter.trim().is_empty()) {
            bail!("an empty filter lets all pass");
        }
        if let Some(snaplen) = snaplen {
            ensure!((1..=MAX_SNAPLEN).contains(snaplen), "a snaplen is 1 to {MAX_SNAPLEN} bytes");
        }
        Ok(())
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    sniff_cli::options::duration(&text)
        .map(Some)
        .map_err(|error| D::Error::custom(format!("duration: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "\
rules:
  - namespaces: [shop, 'pay-*']
    require_filter: true
    filter: not port 5432
    snaplen: 200
    duration: 10m
  - namespaces: ['*']
    node: true
    filter: not port 53
    snaplen: 1000
    headers: true
  - namespaces: [pay-eu]
    duration: 1m
";

    fn of(whom: Whom<'_>) -> Demanded {
        Policy::parse(POLICY).unwrap().of(whom)
    }

    #[test]
    fn the_strictest_of_all_rules_for_somebody_holds() {
        let shop = of(Whom::Namespace("shop"));
        let demands = Demands {
            filter: Some("(not port 5432) and (not port 53)".into()),
            snaplen: Some(200),
            headers: true,
        };
        let expected = Demanded { demands, require_filter: true, duration: Some(Duration::from_secs(600)) };
        assert_eq!(shop, expected);
        assert_eq!(of(Whom::Namespace("pay-us")), expected);
        assert_eq!(of(Whom::Namespace("pay-eu")).duration, Some(Duration::from_secs(60)));
        for whom in [Whom::Namespace("shops"), Whom::Namespace("pay"), Whom::Node] {
            let Demanded { demands, require_filter, duration } = of(whom);
            assert_eq!(demands.filter.as_deref(), Some("not port 53"), "{whom:?}");
            assert_eq!((demands.snaplen, demands.headers), (Some(1000), true));
            assert_eq!((require_filter, duration), (false, None));
        }
        assert_eq!(Policy::default().of(Whom::Node), Demanded::default());
        assert_eq!(Policy::parse("rules: []\n").unwrap(), Policy::default());
    }

    #[test]
    fn what_is_no_policy_is_refused_in_one_line() {
        for (text, part) in [
            ("rules: 1", ""),
            ("rule: []", "rule"),
            ("rules: [{namespaces: [a], heders: true}]", "heders"),
            ("rules: [{namespaces: [a], snaplen: -1}]", ""),
            ("rules: [{namespaces: [a], snaplen: 0}]", "rule 1: a snaplen is 1 to "),
            ("rules: [{namespaces: [a], duration: soon}]", "duration"),
            ("rules: [{namespaces: [a], duration: 0s}]", "duration"),
            ("rules: [{namespaces: [a], filter: ' '}]", "an empty filter"),
            ("rules: [{namespaces: [a]}]", "it demands nothing"),
            ("rules: [{headers: true}]", "it is for nobody"),
            ("rules: [{namespaces: ['a*b'], headers: true}]", "\"a*b\" is no namespace"),
            ("rules: [{namespaces: [''], headers: true}]", "\"\" is no namespace"),
            ("rules: [{namespaces: [A], headers: true}]", "\"A\" is no namespace"),
            ("rules: [", ""),
            ("- a", ""),
        ] {
            let error = format!("{:#}", Policy::parse(text).expect_err(text));
            assert!(error.contains(part) && error.lines().count() == 1, "{text}: {error}");
        }
        let long = format!("rules: [] # {}", "x".repeat(MAX_BYTES));
        assert!(Policy::parse(&long).unwrap_err().to_string().contains("may have 24576"));
    }
}
