//! Metrics in Prometheus' text format
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>).

use std::fmt::Write as _;

/// What there is to tell.
#[derive(Debug, Default)]
pub(super) struct Text(String);

/// A metric, whose samples follow.
pub(super) struct Metric<'a> {
    name: &'a str,
    text: &'a mut String,
}

impl Text {
    /// Begins one that goes up and down.
    pub(super) fn gauge<'a>(&'a mut self, name: &'a str, help: &str) -> Metric<'a> {
        self.begin(name, "gauge", help)
    }

    /// Begins one that only goes up.
    pub(super) fn counter<'a>(&'a mut self, name: &'a str, help: &str) -> Metric<'a> {
        self.begin(name, "counter", help)
    }

    fn begin<'a>(&'a mut self, name: &'a str, kind: &str, help: &str) -> Metric<'a> {
        let Self(text) = self;
        // Writing to memory does not fail.
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        Metric { name, text }
    }

    /// All of it.
    pub(super) fn finish(self) -> String {
        self.0
    }
}

impl Metric<'_> {
    /// Tells a value. No two of a metric have the same labels: Prometheus would take nothing of the whole text.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: u64) {
        let labels: Vec<String> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        // As above.
        let _ = writeln!(self.text, "{}{labels} {value}", self.name);
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_a_heading_and_samples_whose_labels_cannot_end_early() {
        let mut text = Text::default();
        text.gauge("held_bytes", "What is held.").sample(&[], 7);
        let mut total = text.counter("seen_total", "What was seen.");
        total.sample(&[("pod", "web-0"), ("fate", "saves")], 1);
        total.sample(&[("pod", "a\"b\\n\nc")], 2);
        text.gauge("free_bytes", "What is free.");
        let expected = r#"# HELP held_bytes What is held.
# TYPE held_bytes gauge
held_bytes 7
# HELP seen_total What was seen.
# TYPE seen_total counter
seen_total{pod="web-0",fate="saves"} 1
seen_total{pod="a\"b\\n\nc"} 2
# HELP free_bytes What is free.
# TYPE free_bytes gauge
"#;
        assert_eq!(text.finish(), expected);
    }
}
