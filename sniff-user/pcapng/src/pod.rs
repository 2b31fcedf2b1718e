//! What a file tells of a pod beyond its name, once for each of its interfaces: a comment of the description, an item a line.
//!
//! It comes from a runtime or an API server, where others may have written it, and ends up in files and on terminals: what
//! is kept of a word is what labels and images are made of, and a line has its limit.

use std::collections::BTreeMap;

use crate::names::keep;

/// What labels and references of images may have besides letters and digits. (A name in front of a `/` is a label's prefix or
/// a registry.)
const IN_WORDS: &[char] = &['-', '_', '.', '/', ':', '@'];
/// Longest word: a label's key is the longest there is (a prefix of 253, a `/`, and 63).
const MAX_WORD: usize = 317;
/// Most bytes of the words of a line.
const MAX_LINE: usize = 2000;

/// What is known of a pod; what is not known is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What made it.
    pub owner: Option<Owner>,
    /// The node that it runs on.
    pub node: Option<String>,
    /// Its containers, in order.
    pub containers: Vec<ContainerFacts>,
}

/// The workload that a pod is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// As in `Deployment`.
    pub kind: String,
    /// Its name, in the pod's namespace.
    pub name: String,
    /// Whether the pod's labels are all that tells: anybody may write those.
    pub is_by_labels: bool,
}

/// A container of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerFacts {
    /// Its name in the pod.
    pub name: String,
    /// What it was made from, as in `docker.io/library/nginx:1.27`.
    pub image: Option<String>,
    /// How often it was started again.
    pub restarts: Option<u32>,
}

impl PodFacts {
    /// All of it in lines, as in `labels: app=web, tier=front`; `None` when nothing is known.
    pub fn comment(&self) -> Option<String> {
        let Self { labels, owner, node, containers } = self;
        let labels = labels.iter().map(|(key, value)| format!("{}={}", word(key), word(value)));
        let owner = owner.iter().map(|Owner { kind, name, is_by_labels }| {
            let by = if *is_by_labels { " by its labels" } else { "" };
            format!("{}/{}{by}", word(kind), word(name))
        });
        let images = containers.iter().filter_map(|ContainerFacts { name, image, .. }| {
            Some(format!("{}={}", word(name), word(image.as_ref()?)))
        });
        let lines = [
            line("labels", labels),
            line("owner", owner),
            line("node", node.iter().map(|node| word(node))),
            line("images", images),
            line("restarts", restarts(containers).into_iter()),
        ];
        let lines: Vec<String> = lines.into_iter().flatten().collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }
}

/// How often each container was started again that ever was; `none` where it is known that none was.
fn restarts(containers: &[ContainerFacts]) -> Vec<String> {
    let known = containers.iter().filter_map(|it| Some((&it.name, it.restarts?)));
    let restarted = known.clone().filter(|(_, restarts)| *restarts > 0);
    let restarted: Vec<_> = restarted.map(|(name, restarts)| format!("{} {restarts}", word(name))).collect();
    let are_all_known = !containers.is_empty() && known.count() == containers.len();
    if restarted.is_empty() && are_all_known { vec!["none".to_owned()] } else { restarted }
}

/// A line of as many words as have room; `None` without any.
fn line(name: &str, words: impl Iterator<Item = String>) -> Option<String> {
    let mut words = words.peekable();
    words.peek()?;
    let mut line = format!("{name}: ");
    let (start, mut left_out) = (line.len(), 0);
    for word in words {
        if line.len() + word.len() > start + MAX_LINE {
            left_out += 1;
            continue;
        }
        line += if line.len() > start { ", " } else { "" };
        line += &word;
    }
    if left_out > 0 {
        line += &format!(", and {left_out} more");
    }
    Some(line)
}

fn word(text: &str) -> String {
    keep(text, IN_WORDS, MAX_WORD)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str, image: Option<&str>, restarts: Option<u32>) -> ContainerFacts {
        ContainerFacts { name: name.into(), image: image.map(str::to_owned), restarts }
    }

    fn labels(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
        labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_pod_is_told_of_in_lines() {
        let owner = Owner { kind: "Deployment".into(), name: "web".into(), is_by_labels: false };
        let facts = PodFacts {
            labels: labels(&[("tier", "front"), ("app.kubernetes.io/name", "web"), ("canary", "")]),
            owner: Some(owner.clone()),
            node: Some("n1".into()),
            containers: vec![
                container("nginx", Some("docker.io/library/nginx:1.27"), Some(3)),
                container("proxy", Some("proxy@sha256:0123"), Some(0)),
            ],
        };
        let told = "labels: app.kubernetes.io/name=web, canary=, tier=front\nowner: Deployment/web\nnode: n1\n\
                    images: nginx=docker.io/library/nginx:1.27, proxy=proxy@sha256:0123\nrestarts: nginx 3";
        assert_eq!(facts.comment().as_deref(), Some(told));
        let owner = Some(Owner { is_by_labels: true, ..owner });
        let facts = PodFacts { owner, ..PodFacts::default() };
        assert_eq!(facts.comment().as_deref(), Some("owner: Deployment/web by its labels"));
    }

    #[test]
    fn what_is_not_known_is_not_told() {
        assert_eq!(PodFacts::default().comment(), None);
        let of = |containers| PodFacts { containers, ..PodFacts::default() }.comment();
        assert_eq!(of(vec![container("a", None, None)]), None);
        assert_eq!(of(vec![container("a", None, Some(0))]).as_deref(), Some("restarts: none"));
        assert_eq!(of(vec![container("a", None, Some(0)), container("b", None, None)]), None);
    }

    #[test]
    fn hostile_words_are_words_and_lines_have_an_end() {
        let facts = PodFacts {
            labels: labels(&[("a\nowner", "\u{1b}[31mrot, b=c"), ("ü", &"x".repeat(100_000))]),
            containers: vec![container("c d", Some("i\0\u{202e}"), None)],
            ..PodFacts::default()
        };
        let long = "x".repeat(MAX_WORD);
        let told = format!("labels: a_owner=__31mrot__b_c, _={long}\nimages: c_d=i__");
        assert_eq!(facts.comment(), Some(told));
        let many: BTreeMap<_, _> = (0..100_000).map(|n| (format!("label-{n:06}"), "v".to_owned())).collect();
        let containers = (0..10_000).map(|n| container(&format!("c{n}"), Some("image"), Some(n))).collect();
        let told = PodFacts { labels: many, containers, ..PodFacts::default() }.comment().unwrap();
        let lines: Vec<_> = told.lines().collect();
        assert_eq!(lines.len(), 3);
        for line in lines {
            assert!(line.len() < MAX_LINE + 40 && line.ends_with(" more"), "{line}");
        }
        assert!(told.starts_with("labels: label-000000=v, label-000001=v, "), "{told}");
    }
}
