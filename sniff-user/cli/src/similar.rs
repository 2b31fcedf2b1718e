//! Names like the one that was not found.

use strsim::damerau_levenshtein;

/// How many names are suggested.
const SHOWN: usize = 3;

/// The end of an error message that suggests pods, written `NAMESPACE/NAME`, which may have
/// been meant by `namespace` and `name`; empty when nothing comes near.
pub fn did_you_mean(namespace: &str, name: &str, pods: impl IntoIterator<Item = (String, String)>) -> String {
    let mut near: Vec<(usize, String)> = pods
        .into_iter()
        .filter_map(|(its_namespace, its_name)| {
            let distance = distance((namespace, name), (&its_namespace, &its_name))?;
            Some((distance, format!("{its_namespace}/{its_name}")))
        })
        .collect();
    near.sort_unstable();
    question(near)
}

/// The same for names of any kind.
pub fn did_you_mean_name(name: &str, names: impl IntoIterator<Item = String>) -> String {
    let near = names.into_iter().filter_map(|there| Some((distance(("", name), ("", &there))?, there)));
    let mut near: Vec<(usize, String)> = near.collect();
    near.sort_unstable();
    question(near)
}

fn question(mut near: Vec<(usize, String)>) -> String {
    near.dedup();
    near.truncate(SHOWN);
    let near: Vec<String> = near.into_iter().map(|(_, name)| name).collect();
    if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(" or ")) }
}

/// How far a pod is from the one asked for, when it is near.
fn distance(asked: (&str, &str), there: (&str, &str)) -> Option<usize> {
    if asked.1 == there.1 {
        // The right name in another namespace.
        return Some(0);
    }
    if asked.0 == there.0 && there.1.starts_with(&format!("{}-", asked.1)) {
        // The name of its Deployment or StatefulSet.
        return Some(1);
    }
    let typos = damerau_levenshtein(asked.0, there.0) + damerau_levenshtein(asked.1, there.1);
    let allowed = 2.max(asked.1.len() / 4);
    (typos <= allowed).then_some(1 + typos)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suggestion(namespace: &str, name: &str) -> String {
        let pods = [
            ("default", "web-6d5f8-x2x4z"),
            ("default", "web-6d5f8-b7kqp"),
            ("default", "database-0"),
            ("kube-system", "coredns"),
        ];
        did_you_mean(namespace, name, pods.map(|(ns, name)| (ns.into(), name.into())))
    }

    #[test]
    fn near_names_are_suggested_the_nearest_first() {
        let both = "; did you mean default/web-6d5f8-b7kqp or default/web-6d5f8-x2x4z?";
        assert_eq!(suggestion("default", "web"), both);
        assert_eq!(suggestion("default", "coredns"), "; did you mean kube-system/coredns?");
        assert_eq!(suggestion("default", "databsae-0"), "; did you mean default/database-0?");
        assert_eq!(suggestion("kube-systen", "coredn"), "; did you mean kube-system/coredns?");
    }

    #[test]
    fn other_names_are_suggested_too() {
        let of = |name: &str| did_you_mean_name(name, ["shop", "tools", "kube-system"].map(str::to_owned));
        assert_eq!(of("shpo"), "; did you mean shop?");
        assert_eq!(of("kube-sytem"), "; did you mean kube-system?");
        assert_eq!(of("monitoring"), "");
    }

    #[test]
    fn far_names_are_not() {
        assert_eq!(suggestion("default", "frontend"), "");
    }
}
