//! What events say of pods, from here on: a watch for each reason, which the server narrows to that.
//!
//! What is news is told by events' versions, which grow: those of objects of a kind are compared as numbers
//! (<https://www.kubernetes.dev/resources/keps/5504/>). Their times are of clocks of other machines.

use std::{
    pin::pin,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use futures_util::{StreamExt as _, future::join_all};
use k8s_openapi::api::core::v1;
use kube::{Api, ResourceExt as _, runtime::watcher};
use tokio::{sync::mpsc, time::sleep};

use super::MAX_MESSAGE;
use crate::{
    Cluster, Forbidden, Request,
    recordings::nanoseconds,
    refusal::explain_watch,
    watching::{Heard, Pauses, hear},
};

/// News that wait to be heard; the server waits with more.
const QUEUED: usize = 64;
/// How long until it is tried again where the right is missing.
const REFUSED: Duration = Duration::from_secs(60);
/// A version that none is later than.
const NOTHING_IS_NEWS: u64 = u64::MAX;

/// What an event of a pod says that is new, or has happened again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// The namespace that the event is in: whoever tells may tell of that one.
    pub namespace: String,
    /// The pod's name, by the word of whoever tells.
    pub pod: String,
    /// Its UID, as its kubelet knows it; by the same word.
    pub pod_uid: String,
    /// Why it is told: one of the reasons that were asked for.
    pub reason: String,
    /// The same in words of whoever tells; of at most 1 KiB.
    pub message: String,
    /// When it has happened last, in nanoseconds since the epoch.
    pub time: Option<u64>,
}

impl Cluster {
    /// Follows the events of all pods that have one of these reasons, until nobody hears of them. What is there at first is no
    /// news. Of what comes in an outage is told afterwards how it is then, unless it has gone meanwhile.
    pub fn follow_events(self, reasons: Vec<String>) -> mpsc::Receiver<News> {
        let (told, news) = mpsc::channel(QUEUED);
        tokio::spawn(async move {
            let is_refused = AtomicBool::default();
            let follow = |reason| {
                let latest = AtomicU64::new(NOTHING_IS_NEWS);
                Followed { cluster: &self, reason, latest, is_refused: &is_refused, told: &told }.follow()
            };
            tokio::select! {
                _ = join_all(reasons.iter().map(String::as_str).map(follow)) => {}
                () = told.closed() => {}
            }
        });
        news
    }
}

/// Events of a reason.
struct Followed<'a> {
    cluster: &'a Cluster,
    reason: &'a str,
    /// The version of the latest that was heard of.
    latest: AtomicU64,
    /// Whether it was said that the right is missing, which is the same for all reasons.
    is_refused: &'a AtomicBool,
    told: &'a mpsc::Sender<News>,
}

/// An event, of which nothing is held that is no news.
struct Versioned {
    version: u64,
    news: Option<Box<News>>,
}

impl Followed<'_> {
    async fn follow(self) {
        let request = |verb| Request { verb, resource: "events", namespace: None, name: None };
        for pause in Pauses::default() {
            let Err(error) = self.watch().await else { return };
            let error = explain_watch(self.cluster.server(), request, error);
            if !error.is::<Forbidden>() {
                log::info!("{error:#}");
                sleep(pause).await;
                continue;
            }
            if !self.is_refused.swap(true, Ordering::Relaxed) {
                log::warn!("nothing is heard of events of pods: {error:#}");
            }
            sleep(REFUSED).await;
        }
    }

    /// Lists and watches until something goes wrong, or nobody hears it any more.
    async fn watch(&self) -> Result<(), watcher::Error> {
        let selector = format!("involvedObject.kind=Pod,reason={}", self.reason);
        let config = watcher::Config { field_selector: Some(selector), ..watcher::Config::default() };
        let api = Api::<v1::Event>::all(self.cluster.client.clone());
        let mut events = pin!(hear(api, config, |event| self.read(event)));
        while let Some(heard) = events.next().await {
            let events = match heard? {
                Heard::All(events) => events,
                Heard::Applied(event) => vec![event],
                Heard::Gone(_) => continue,
            };
            let latest = events.iter().map(|event| event.version).max();
            self.latest.store(latest.unwrap_or_default(), Ordering::Relaxed);
            for news in events.into_iter().filter_map(|event| event.news) {
                if self.told.send(*news).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn read(&self, event: v1::Event) -> Versioned {
        let version = event.resource_version().and_then(|it| it.parse().ok()).unwrap_or_default();
        let is_news = version > self.latest.load(Ordering::Relaxed);
        Versioned { version, news: is_news.then(|| Box::new(News::of(event, self.reason))) }
    }
}

impl News {
    fn of(event: v1::Event, reason: &str) -> Self {
        let again = event.series.and_then(|series| series.last_observed_time).or(event.event_time);
        let time = event.last_timestamp.map(|it| it.0).or(again.map(|it| it.0));
        let mut message = event.message.unwrap_or_default();
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        Self {
            namespace: event.metadata.namespace.unwrap_or_default(),
            pod: event.involved_object.name.unwrap_or_default(),
            pod_uid: event.involved_object.uid.unwrap_or_default(),
            reason: reason.to_owned(),
            message,
            time: time.and_then(nanoseconds),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use sniff_apiserver::ApiServer;
    use tokio::time::timeout;

    use super::*;
    use crate::Login;

    const PATIENCE: Duration = Duration::from_secs(20);

    async fn follow(api: &ApiServer, reasons: &[&str]) -> mpsc::Receiver<News> {
        let login = Login { kubeconfig: Some(api.kubeconfig_file().to_owned()), ..Login::default() };
        let cluster = Cluster::configured(&login).await.unwrap().unwrap();
        let news = cluster.follow_events(reasons.iter().map(|&it| it.to_owned()).collect());
        wait_for_watches(api, reasons.len()).await;
        news
    }

    fn asked(api: &ApiServer, what: &str) -> usize {
        api.log().iter().filter(|it| *it == what).count()
    }

    async fn wait_for_watches(api: &ApiServer, count: usize) {
        wait_until_asked(api, "watch events /", count).await;
    }

    async fn wait_until_asked(api: &ApiServer, what: &str, count: usize) {
        let begun = async {
            while asked(api, what) < count {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, begun).await.unwrap();
    }

    fn event(reason: &str, kind: &str, uid: &str, more: &Value) -> Value {
        let mut event = json!({"metadata": {"name": uid, "namespace": "shop"}, "reason": reason, "message": uid,
            "involvedObject": {"kind": kind, "namespace": "shop", "name": "web-0", "uid": uid}});
        event.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        event
    }

    fn put(api: &ApiServer, uid: &str, count: u32) {
        api.put("events", "shop", uid, event("Unhealthy", "Pod", uid, &json!({"count": count})));
    }

    async fn next(news: &mut mpsc::Receiver<News>) -> String {
        timeout(PATIENCE, news.recv()).await.unwrap().unwrap().pod_uid
    }

    #[tokio::test]
    async fn what_comes_or_happens_again_is_news_and_what_was_there_is_not() {
        let api = ApiServer::without_nodes();
        put(&api, "old", 1);
        put(&api, "older", 7);
        let mut news = follow(&api, &["Unhealthy", "BackOff"]).await;
        api.put("events", "shop", "other", event("Pulled", "Pod", "other", &json!({})));
        api.put("events", "shop", "node", event("Unhealthy", "Node", "node", &json!({})));
        api.remove("events", "shop", "older");
        put(&api, "new", 1);
        assert_eq!(next(&mut news).await, "new");
        put(&api, "old", 2);
        assert_eq!(next(&mut news).await, "old");
        api.put("events", "shop", "back-off", event("BackOff", "Pod", "back-off", &json!({})));
        let told = timeout(PATIENCE, news.recv()).await.unwrap().unwrap();
        let wanted = News {
            namespace: "shop".into(),
            pod: "web-0".into(),
            pod_uid: "back-off".into(),
            reason: "BackOff".into(),
            message: "back-off".into(),
            time: None,
        };
        assert_eq!(told, wanted);
    }

    #[tokio::test]
    async fn what_comes_while_the_server_is_not_heard_is_told_once_it_is() {
        for has_forgotten in [false, true] {
            let api = ApiServer::without_nodes();
            put(&api, "old", 1);
            put(&api, "grows", 1);
            let mut news = follow(&api, &["Unhealthy"]).await;
            put(&api, "new", 1);
            assert_eq!(next(&mut news).await, "new");
            api.go_down();
            put(&api, "grows", 2);
            put(&api, "between", 1);
            if has_forgotten {
                api.forget_versions();
            }
            api.come_up();
            let mut told = [next(&mut news).await, next(&mut news).await];
            told.sort();
            assert_eq!(told, ["between", "grows"]);
            put(&api, "later", 1);
            assert_eq!(next(&mut news).await, "later");
        }
    }

    #[tokio::test]
    async fn an_expired_watch_goes_on_with_what_it_has_missed() {
        let api = ApiServer::without_nodes();
        put(&api, "old", 1);
        let mut news = follow(&api, &["Unhealthy"]).await;
        api.forget_versions();
        wait_for_watches(&api, 2).await;
        put(&api, "new", 1);
        assert_eq!(next(&mut news).await, "new");
        // None was there at first.
        let api = ApiServer::without_nodes();
        let mut news = follow(&api, &["Unhealthy"]).await;
        api.go_down();
        put(&api, "first", 1);
        api.forget_versions();
        api.come_up();
        assert_eq!(next(&mut news).await, "first");
    }

    #[tokio::test]
    async fn who_may_not_hear_of_events_asks_seldom() {
        for verb in ["list", "watch"] {
            let api = ApiServer::without_nodes();
            api.deny(verb, "events");
            let login = Login { kubeconfig: Some(api.kubeconfig_file().to_owned()), ..Login::default() };
            let cluster = Cluster::configured(&login).await.unwrap().unwrap();
            let _news = cluster.follow_events(vec!["Unhealthy".to_owned()]);
            let refused = format!("{verb} events /");
            wait_until_asked(&api, &refused, 1).await;
            sleep(Duration::from_secs(3)).await;
            assert_eq!(asked(&api, &refused), 1);
        }
    }

    #[test]
    fn an_event_is_of_the_namespace_that_it_is_in() {
        let mut event = event("Unhealthy", "Pod", "u", &json!({}));
        event["metadata"]["namespace"] = json!("evil");
        let news = News::of(serde_json::from_value(event).unwrap(), "Unhealthy");
        assert_eq!((news.namespace.as_str(), news.pod.as_str()), ("evil", "web-0"));
    }

    #[test]
    fn times_are_the_last_ones_and_messages_are_bounded() {
        let of = |more: Value| {
            News::of(serde_json::from_value(event("Unhealthy", "Pod", "u", &more)).unwrap(), "Unhealthy")
        };
        let first = "1970-01-01T00:00:01.000000Z";
        for (more, time) in [
            (json!({}), None),
            (json!({"eventTime": first}), Some(1_000_000_000)),
            (
                json!({"firstTimestamp": "1970-01-01T00:00:01Z", "lastTimestamp": "1970-01-01T00:00:02Z"}),
                Some(2_000_000_000),
            ),
            (
                json!({"eventTime": first, "series": {"count": 2, "lastObservedTime": "1970-01-01T00:00:03.000000Z"}}),
                Some(3_000_000_000),
            ),
            (json!({"lastTimestamp": "1960-01-01T00:00:02Z"}), None),
        ] {
            assert_eq!(of(more.clone()).time, time, "{more}");
        }
        assert_eq!(of(json!({"message": "ü".repeat(1000)})).message.len(), MAX_MESSAGE);
    }
}
