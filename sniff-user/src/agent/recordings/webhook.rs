//! Alerts as triggers: what Alertmanager posts to a webhook, in version 4
//! (<https://prometheus.io/docs/alerting/latest/configuration/#webhook_config>).

use std::{
    collections::{BTreeMap, VecDeque},
    error::Error,
    fmt,
    fs::File,
    hash::{BuildHasher as _, RandomState},
    io::Read as _,
    net::IpAddr,
    ops::RangeInclusive,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header::AUTHORIZATION};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Body;
use serde::{Deserialize, Serialize};
use sniff_cli::sanitize::sanitize_line;
use subtle::ConstantTimeEq as _;

use super::triggers::{Reason, Trigger, plain};
use crate::{agent::metrics::Text, system::clock, targets::Target};

/// Where alerts are posted.
pub const PATH: &str = "/alerts";

/// The version that is understood.
const VERSION: &str = "4";
/// What an alert is that has not been resolved.
const FIRING: &str = "firing";
/// Most bytes of what is posted.
const MAX_BODY: usize = 256 << 10;
/// Fewest and most bytes of a token: it must not be guessed, and goes in a header.
const TOKEN: RangeInclusive<usize> = 16..=1024;
/// Most alerts that are known when they come again.
const MAX_KNOWN: usize = 1024;

/// What may be shown in place of being on this node.
pub struct Token(String);

impl Token {
    /// The token in a file; what is blank around it does not count.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or holds none.
    pub fn read(path: &Path) -> Result<Self> {
        let cannot = || format!("the token for alerts in {} (SNIFF_ALERTS_TOKEN_FILE)", path.display());
        let mut text = String::new();
        // More is not looked at, and too long.
        let most = *TOKEN.end() as u64 + 2;
        File::open(path).and_then(|file| file.take(most).read_to_string(&mut text)).with_context(cannot)?;
        Self::parse(&text).with_context(cannot)
    }

    fn parse(text: &str) -> Result<Self> {
        let token = text.trim();
        let (least, most) = (TOKEN.start(), TOKEN.end());
        ensure!(
            TOKEN.contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic()),
            "a token has {least} to {most} letters, digits and signs, as `openssl rand -hex 32` writes them"
        );
        Ok(Self(token.to_owned()))
    }

    /// Whether it is shown. How long the answer takes says nothing about it but its length.
    fn is_in(&self, headers: &HeaderMap) -> bool {
        let shown = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let shown = shown.and_then(|value| value.split_once(' '));
        shown.is_some_and(|(scheme, token)| {
            scheme.eq_ignore_ascii_case("bearer")
                && bool::from(self.0.as_bytes().ct_eq(token.trim().as_bytes()))
        })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// An alert that is firing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// The pod that it is about.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// What it is.
    pub trigger: Trigger,
}

/// What becomes of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The pod's recording is saved.
    Saves,
    /// It belongs to a save that is about to begin, or runs.
    Joins,
    /// A limit refuses it.
    Refused,
    /// No pod of that name is recorded on this node.
    Elsewhere,
}

/// What has become of alerts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Those that have had a recording saved.
    pub saves: u64,
    /// Those that have joined others.
    pub joined: u64,
    /// Those that a limit has refused.
    pub refused: u64,
    /// Those about pods that are not recorded on this node.
    pub elsewhere: u64,
    /// Those that have come before, and are still firing.
    pub repeated: u64,
    /// Those that name no pod.
    pub without_pod: u64,
    /// Those that are not firing.
    pub resolved: u64,
}

/// Who takes alerts.
pub struct Webhook {
    /// What must be shown.
    token: Option<Token>,
    /// Whether anybody may come who can.
    is_open: bool,
    hear: Box<dyn Fn(Alert) -> Fate + Send + Sync>,
    book: Mutex<Book>,
}

/// What was heard.
#[derive(Debug, Default)]
struct Book {
    counts: Counts,
    /// Alerts that have become triggers, the latest first. Alertmanager tells of all that are firing whenever one more does, and
    /// every few hours.
    known: VecDeque<u64>,
    hasher: RandomState,
}

impl Webhook {
    /// One that listens at an address. `hear` is told of each alert that is firing and was not before, in no particular thread.
    pub fn new(
        address: IpAddr,
        token: Option<Token>,
        hear: impl Fn(Alert) -> Fate + Send + Sync + 'static,
    ) -> Self {
        let is_open = token.is_none() && address.is_loopback();
        Self { token, is_open, hear: Box::new(hear), book: Mutex::default() }
    }

    /// What has become of all alerts so far.
    pub fn counts(&self) -> Counts {
        self.book().counts
    }

    /// The same in Prometheus' text format.
    pub fn metrics(&self) -> String {
        let Counts { saves, joined, refused, elsewhere, repeated, without_pod, resolved } = self.counts();
        let fates = [
            ("saves", saves),
            ("joined", joined),
            ("refused", refused),
            ("elsewhere", elsewhere),
            ("repeated", repeated),
            ("without_pod", without_pod),
            ("resolved", resolved),
        ];
        let mut text = Text::default();
        let help = "Alerts that have come, and what has become of them.";
        let mut metric = text.counter("sniff_alerts_total", help);
        fates.iter().for_each(|(fate, count)| metric.sample(&[("fate", fate)], *count));
        text.finish()
    }

    /// Takes what is posted. The answer is counts, or why there are none.
    pub async fn answer<B: Body<Data = Bytes>>(&self, request: Request<B>) -> (StatusCode, String)
    where
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let answered = match self.objection(request.headers()) {
            Some(objection) => Err(objection),
            None => read(request.into_body()).await.and_then(|body| self.take(&body)),
        };
        match answered {
            Ok(counts) => (StatusCode::OK, serde_json::to_string(&counts).expect("a few numbers") + "\n"),
            Err((status, why)) => (status, why + "\n"),
        }
    }

    fn objection(&self, headers: &HeaderMap) -> Option<(StatusCode, String)> {
        match &self.token {
            None if self.is_open => None,
            None => Some((
                StatusCode::FORBIDDEN,
                "this address can be reached from elsewhere, and alerts are taken there with a token only, which this agent has \
                 none of (SNIFF_ALERTS_TOKEN_FILE)"
                    .to_owned(),
            )),
            Some(token) if token.is_in(headers) => None,
            Some(_) => Some((
                StatusCode::UNAUTHORIZED,
                "alerts are taken with the right token only: Authorization: Bearer ...".to_owned(),
            )),
        }
    }

    fn take(&self, body: &[u8]) -> Result<Counts, (StatusCode, String)> {
        let Posted { alerts, .. } = Posted::parse(body).map_err(|why| (StatusCode::BAD_REQUEST, why))?;
        let mut counts = Counts::default();
        let now = clock::now();
        for alert in &alerts {
            let count = self.hear_one(alert, now);
            *count(&mut counts) += 1;
            *count(&mut self.book().counts) += 1;
        }
        Ok(counts)
    }

    /// Hears one; returns what it counts as.
    fn hear_one(&self, told: &Told, now: u64) -> fn(&mut Counts) -> &mut u64 {
        if told.status != FIRING {
            return |counts| &mut counts.resolved;
        }
        let Some(alert) = told.alert(now) else { return |counts| &mut counts.without_pod };
        let id = told.starts_at.as_ref().map(|since| self.book().hasher.hash_one((since, &told.labels)));
        if id.is_some_and(|id| self.book().known.contains(&id)) {
            return |counts| &mut counts.repeated;
        }
        let fate = (self.hear)(alert);
        // What is refused may have more luck the next time.
        if let (Fate::Saves | Fate::Joins, Some(id)) = (fate, id) {
            let known = &mut self.book().known;
            known.truncate(MAX_KNOWN - 1);
            known.push_front(id);
        }
        match fate {
            Fate::Saves => |counts| &mut counts.saves,
            Fate::Joins => |counts| &mut counts.joined,
            Fate::Refused => |counts| &mut counts.refused,
            Fate::Elsewhere => |counts| &mut counts.elsewhere,
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads what is posted.
async fn read<B: Body<Data = Bytes>>(body: B) -> Result<Bytes, (StatusCode, String)>
where
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err((
            StatusCode::PAYLOAD_TOO_LARGE,
            format!(
                "alerts have {MAX_BODY} bytes at most: have Alertmanager send fewer at once (max_alerts)"
            ),
        )),
        Err(_) => Err((StatusCode::BAD_REQUEST, "the request is not whole".to_owned())),
    }
}

/// What Alertmanager posts, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Posted {
    version: String,
    alerts: Vec<Told>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    status: String,
    labels: BTreeMap<String, String>,
    /// Since when it is firing.
    starts_at: Option<String>,
}

impl Posted {
    fn parse(body: &[u8]) -> Result<Self, String> {
        let posted: Self = serde_json::from_slice(body).map_err(|error| {
            format!("this is not what Alertmanager posts to webhooks: {}", sanitize_line(&error.to_string()))
        })?;
        if posted.version != VERSION {
            return Err(format!(
                "alerts are understood in version {VERSION} of what Alertmanager posts to webhooks"
            ));
        }
        Ok(posted)
    }
}

impl Told {
    /// What it means, if it is about a pod.
    fn alert(&self, now: u64) -> Option<Alert> {
        let (namespace, pod) = (self.labels.get("namespace")?, self.labels.get("pod")?);
        Target::pod(&format!("{namespace}/{pod}")).ok()?;
        let name =
            self.labels.get("alertname").map_or_else(|| "without a name".to_owned(), |name| plain(name));
        let words = format!("alert {name} is firing");
        let trigger = Trigger { reason: Reason::Alert, words, time: now };
        Some(Alert { namespace: namespace.clone(), pod: pod.clone(), trigger })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        net::Ipv4Addr,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
    };

    use http_body_util::Full;

    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    const SECRET: &str = "0123456789abcdef";

    /// As Alertmanager 0.28 writes it.
    fn posted(alerts: &[(&str, &str, &str, &str)]) -> String {
        let alerts: Vec<_> = alerts
            .iter()
            .map(|(status, name, pod, starts_at)| {
                serde_json::json!({
                    "status": status,
                    "labels": {"alertname": name, "namespace": "shop", "pod": pod, "severity": "page"},
                    "annotations": {"summary": "5xx"},
                    "startsAt": starts_at,
                    "endsAt": "0001-01-01T00:00:00Z",
                    "generatorURL": "http://prometheus.example.com/graph",
                    "fingerprint": "a1b2c3d4e5f60718",
                })
            })
            .collect();
        serde_json::json!({
            "receiver": "sniff",
            "status": "firing",
            "alerts": alerts,
            "groupLabels": {"alertname": "HighLatency"},
            "commonLabels": {},
            "commonAnnotations": {},
            "externalURL": "http://alertmanager.example.com",
            "version": "4",
            "groupKey": "{}:{alertname=\"HighLatency\"}",
            "truncatedAlerts": 0,
        })
        .to_string()
    }

    /// One that keeps what it hears, and knows the pods `web` and, unless there is a limit, `db`.
    fn webhook(address: IpAddr, token: Option<&str>) -> (Webhook, Arc<Mutex<Vec<Alert>>>, Arc<AtomicBool>) {
        let (heard, is_limited) = (Arc::<Mutex<Vec<Alert>>>::default(), Arc::<AtomicBool>::default());
        let (ours, limited) = (Arc::clone(&heard), Arc::clone(&is_limited));
        let hear = move |alert: Alert| {
            let fate = match alert.pod.as_str() {
                "web" if ours.lock().unwrap().is_empty() => Fate::Saves,
                "web" => Fate::Joins,
                "db" if limited.load(Ordering::Relaxed) => Fate::Refused,
                "db" => Fate::Saves,
                _ => Fate::Elsewhere,
            };
            ours.lock().unwrap().push(alert);
            fate
        };
        let token = token.map(|token| Token::parse(token).unwrap());
        (Webhook::new(address, token, hear), heard, is_limited)
    }

    async fn post(webhook: &Webhook, token: Option<&str>, body: impl Into<Bytes>) -> (StatusCode, String) {
        let mut request = Request::post(PATH);
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token);
        }
        webhook.answer(request.body(Full::new(body.into())).unwrap()).await
    }

    #[tokio::test]
    async fn alerts_that_fire_about_pods_are_triggers_and_the_answer_counts_all() {
        let (webhook, heard, is_limited) = webhook(LOOPBACK, None);
        is_limited.store(true, Ordering::Relaxed);
        let body = posted(&[
            ("firing", "High \u{1b}[2J latency", "web", "2026-11-27T04:51:22.5Z"),
            ("firing", "Errors", "web", "2026-11-27T04:51:23Z"),
            ("firing", "Errors", "db", "2026-11-27T04:51:23Z"),
            ("firing", "Errors", "other", "2026-11-27T04:51:23Z"),
            ("firing", "Errors", "../web", "2026-11-27T04:51:23Z"),
            ("resolved", "Errors", "web", "2026-11-27T04:51:23Z"),
        ]);
        let counts = Counts {
            saves: 1,
            joined: 1,
            refused: 1,
            elsewhere: 1,
            repeated: 0,
            without_pod: 1,
            resolved: 1,
        };
        let (status, answer) = post(&webhook, None, body).await;
        assert_eq!((status, webhook.counts()), (StatusCode::OK, counts));
        assert_eq!(
            answer,
            "{\"saves\":1,\"joined\":1,\"refused\":1,\"elsewhere\":1,\"repeated\":0,\"without_pod\":1,\"resolved\":1}\n"
        );
        let first = heard.lock().unwrap()[0].clone();
        assert_eq!((first.namespace.as_str(), first.pod.as_str()), ("shop", "web"));
        assert_eq!(first.trigger.words, "alert High___2J_latency is firing");
        assert_eq!(first.trigger.reason, Reason::Alert);
    }

    #[tokio::test]
    async fn an_alert_that_is_told_again_is_a_trigger_once_unless_it_was_refused() {
        let (webhook, heard, is_limited) = webhook(LOOPBACK, None);
        is_limited.store(true, Ordering::Relaxed);
        let web = ("firing", "Errors", "web", "2026-11-27T04:51:23Z");
        let db = ("firing", "Errors", "db", "2026-11-27T04:51:23Z");
        post(&webhook, None, posted(&[web, db])).await;
        is_limited.store(false, Ordering::Relaxed);
        post(&webhook, None, posted(&[web, db])).await;
        post(&webhook, None, posted(&[web, db])).await;
        let counts = webhook.counts();
        assert_eq!((counts.saves, counts.refused, counts.repeated), (2, 1, 3));
        // It was resolved meanwhile.
        post(&webhook, None, posted(&[("firing", "Errors", "web", "2026-11-27T05:00:00Z")])).await;
        assert_eq!((webhook.counts().joined, heard.lock().unwrap().len()), (1, 4));
        let alone =
            r#"{"version":"4","alerts":[{"status":"firing","labels":{"namespace":"shop","pod":"web"}}]}"#;
        for _ in 0..2 {
            post(&webhook, None, alone).await;
        }
        // What does not say since when may be another each time.
        assert_eq!((webhook.counts().joined, webhook.counts().repeated), (3, 3));
        assert_eq!(heard.lock().unwrap()[5].trigger.words, "alert without a name is firing");
    }

    #[tokio::test]
    async fn what_is_remembered_of_alerts_is_bounded() {
        let (webhook, ..) = webhook(LOOPBACK, None);
        for second in 0..MAX_KNOWN + 10 {
            post(&webhook, None, posted(&[("firing", "Errors", "web", &second.to_string())])).await;
        }
        assert_eq!(webhook.book().known.len(), MAX_KNOWN);
        post(&webhook, None, posted(&[("firing", "Errors", "web", &(MAX_KNOWN + 9).to_string())])).await;
        assert_eq!(webhook.counts().repeated, 1);
    }

    #[tokio::test]
    async fn whatever_else_is_posted_is_refused_in_words() {
        let (webhook, heard, _) = webhook(LOOPBACK, None);
        let other = posted(&[]).replace("\"version\":\"4\"", "\"version\":\"5\"");
        let deep = "[".repeat(MAX_BODY);
        for (body, status, words) in [
            ("", StatusCode::BAD_REQUEST, "not what Alertmanager posts"),
            ("{}", StatusCode::BAD_REQUEST, "missing field"),
            ("[]\u{1b}[2J", StatusCode::BAD_REQUEST, "not what"),
            (&deep, StatusCode::BAD_REQUEST, "not what"),
            (&other, StatusCode::BAD_REQUEST, "in version 4"),
            (&" ".repeat(MAX_BODY + 1), StatusCode::PAYLOAD_TOO_LARGE, "262144 bytes at most"),
            (&posted(&[]), StatusCode::OK, "\"saves\":0"),
        ] {
            let (answered, why) = post(&webhook, None, body.to_owned()).await;
            assert_eq!(answered, status, "{why}");
            assert!(why.contains(words) && !why.contains('\u{1b}'), "{why}");
        }
        assert!(heard.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn where_others_may_come_a_token_is_asked_for() {
        let body = || posted(&[("firing", "Errors", "web", "2026-11-27T04:51:23Z")]);
        let (open, heard, _) = webhook(ELSEWHERE, None);
        let (status, why) = post(&open, Some(&format!("Bearer {SECRET}")), body()).await;
        assert_eq!((status, heard.lock().unwrap().len()), (StatusCode::FORBIDDEN, 0));
        assert!(why.contains("SNIFF_ALERTS_TOKEN_FILE"), "{why}");
        for address in [LOOPBACK, ELSEWHERE] {
            let (webhook, heard, _) = webhook(address, Some(SECRET));
            for wrong in [
                None,
                Some(String::new()),
                Some(SECRET.to_owned()),
                Some("Bearer ".to_owned()),
                Some(format!("Basic {SECRET}")),
                Some(format!("Bearer {SECRET}0")),
                Some(format!("Bearer {}", &SECRET[1..])),
            ] {
                let (status, _) = post(&webhook, wrong.as_deref(), body()).await;
                assert_eq!((status, heard.lock().unwrap().len()), (StatusCode::UNAUTHORIZED, 0), "{wrong:?}");
            }
            let (status, _) = post(&webhook, Some(&format!("bearer {SECRET}")), body()).await;
            assert_eq!((status, heard.lock().unwrap().len()), (StatusCode::OK, 1));
        }
    }

    #[test]
    fn a_token_is_read_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, format!("{SECRET}\n")).unwrap();
        let token = Token::read(&path).unwrap();
        assert_eq!((token.0.as_str(), format!("{token:?}").as_str()), (SECRET, "Token"));
        for wrong in ["", "short", "with a blank in between", &"x".repeat(5000), "gr\u{fc}\u{df}e0123456789"]
        {
            fs::write(&path, wrong).unwrap();
            let why = format!("{:#}", Token::read(&path).unwrap_err());
            assert!(why.contains("16 to 1024") && why.contains("token"), "{why}");
        }
        assert!(Token::read(folder.path()).is_err());
    }
}
