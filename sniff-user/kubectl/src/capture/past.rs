//! Fetching what was recorded, in place of a capture: from all nodes, since nobody else knows where pods were that are gone.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use log::{debug, error};
use sniff_cli::sanitize::sanitize_line;
use sniff_protocol::message::Past;

use super::Capture;
use crate::recordings::recording_pods;

impl Capture {
    /// The nodes where something may have been recorded, and what the API knows of pods that are still there.
    pub(super) async fn find_recorders(&mut self) -> Result<()> {
        let common = &self.common;
        let node = self.args.node.as_deref();
        let pods = recording_pods(&common.cluster, &common.daemonset_namespace, node).await?;
        self.expected.extend(pods.into_keys());
        for selection in self.selections.clone() {
            match self.common.cluster.pods(&selection).await {
                Ok(pods) => pods.iter().for_each(|pod| self.learn(pod)),
                Err(error) => debug!("{selection}: {error:#}"),
            }
        }
        Ok(())
    }

    /// Whether sessions end by themselves: once all that is held has come.
    pub(super) fn ends_by_itself(&self) -> bool {
        self.past.as_ref().is_some_and(|past| !matches!(past, Past::Held { follow: true, .. }))
    }

    /// Has sessions wait that are far ahead of the past of others.
    pub(super) fn hold_up(&self) {
        if self.past.is_some() {
            let each = self.sessions.iter().filter(|running| !running.ended);
            each.for_each(|running| running.session.hold(self.merger.must_wait(running.stream)));
        }
    }

    /// When nothing was recorded, says so: that is no capture that went well.
    pub(super) fn say_if_nothing_was_recorded(&mut self) {
        if self.past.is_none() || self.has_captured {
            return;
        }
        let has_asked = self.sessions.iter().any(|running| running.listening_since.is_some());
        if has_asked && !self.failed {
            error!(
                "no node holds anything that was recorded of {}: a recorder is begun by `kubectl sniff record`, or by a pod's \
                 annotation `sniff/record: 64MiB`, and holds what passes from then on",
                self.common.what
            );
        }
        self.failed = true;
    }
}

/// What is fetched, for the file.
pub(super) fn in_words(past: &Past) -> String {
    match past {
        Past::List => "what there is".to_owned(),
        Past::Held { last_ms, follow } => {
            let since = match last_ms {
                Some(last) => {
                    let last = humantime::format_duration(Duration::from_millis(*last));
                    format!("what was recorded in the last {last}")
                }
                None => "all that was recorded".to_owned(),
            };
            let now = humantime::format_rfc3339_seconds(SystemTime::now());
            let on = if *follow { ", and what came after that" } else { "" };
            format!("{since}, as of {now}{on}")
        }
        Past::Saved { name } => format!("what was saved as {}", sanitize_line(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_which_of_the_past_was_asked_for() {
        let held = |last_ms, follow| in_words(&Past::Held { last_ms, follow });
        assert!(held(Some(300_000), false).starts_with("what was recorded in the last 5m, as of 20"));
        assert!(held(Some(1500), true).starts_with("what was recorded in the last 1s 500ms, as of "));
        assert!(held(Some(1500), true).ends_with("Z, and what came after that"));
        assert!(held(None, false).starts_with("all that was recorded, as of "));
        let saved = Past::Saved { name: "a\u{1b}[2K\nb".into() };
        assert_eq!(in_words(&saved), r"what was saved as a\u{1b}[2K\nb");
    }
}
