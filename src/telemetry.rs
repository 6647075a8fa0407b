//! Floor 4: posts spans, metrics and log records to a collector of OpenTelemetry, as OTLP over HTTP in JSON
//! (<https://opentelemetry.io/docs/specs/otlp/>).

mod notices;
mod otlp;

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use self::notices::CollectorNotices;
use self::otlp::{PartialSuccess, Posted, Signal};
use crate::backoff;
use crate::config::{MetricPosts, TelemetryConfig, Trust};
use crate::model::redact;
use crate::model::secret::Secret;
use crate::observe::causes;
use crate::observe::export_queue::{ExportQueue, Exported};
use crate::observe::metrics::Metrics;
use crate::upstream::{FetchError, Fetcher};

/// The deadline of one request to the collector.
const DEADLINE: Duration = Duration::from_secs(10);
/// The pause after the first failure. It doubles with each further failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause after failures in a row.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// The shortest part of a field's value that may be a secret by itself, in bytes.
const SHORTEST_SECRET: usize = 8;

/// Posts to one collector.
#[derive(Debug, Clone)]
pub(crate) struct Exporter {
    fetcher: Fetcher,
    headers: HeaderMap,
    /// The values of `headers` that the log must not show.
    secrets: Vec<Secret>,
    /// Describes this service.
    resource: Value,
}

/// Why the collector does not have what was posted.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    /// It gave no answer.
    #[error("no answer from the collector")]
    Fetch(#[from] FetchError),
    /// It does not accept the request, now or at all.
    #[error("the collector answers {0}")]
    Status(StatusCode),
}

impl ExportError {
    /// Tells whether the same request may be accepted later (OTLP, "Failures").
    const fn is_temporary(&self) -> bool {
        match self {
            Self::Fetch(_) => true,
            Self::Status(status) => matches!(status.as_u16(), 429 | 502..=504),
        }
    }
}

impl Exporter {
    /// Prepares to post. `member`: the name of this member, where there are several.
    ///
    /// # Errors
    /// When a certificate of `ca` cannot be a trust root.
    pub(crate) fn new(settings: &TelemetryConfig, member: Option<&str>) -> Result<Self, rustls::Error> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("callgate/", env!("CARGO_PKG_VERSION"))));
        for (name, value) in &settings.headers {
            let mut value = HeaderValue::from_str(value.expose()).expect("the configuration checks it");
            value.set_sensitive(true);
            headers.append(name, value);
        }
        let version = ("service.version", Some(env!("CARGO_PKG_VERSION")));
        let facts = [("service.name", Some(settings.service.as_str())), version, ("service.instance.id", member)];
        let known = facts.into_iter().filter_map(|(key, text)| Some((key, text?)));
        Ok(Self {
            fetcher: Fetcher::new(&Trust::roots(settings.ca.clone()), DEADLINE, settings.outbound_proxy.clone())?,
            headers,
            secrets: settings.headers.iter().map(|(_, value)| value.clone()).collect(),
            resource: json!({ "attributes": otlp::texts(known) }),
        })
    }

    // === Spans and log records ===

    /// Posts what waits in a queue. While the collector is away one batch waits for it, and the queue fills.
    pub(crate) async fn post_queue<T>(self, to: Uri, queue: &ExportQueue<T>) -> Infallible
    where
        T: Posted + Exported,
    {
        let mut notices = CollectorNotices::default();
        loop {
            let batch = queue.batch().await;
            let items = batch.items().iter().map(T::json).collect();
            // Without an answer or after a refusal the batch is dropped, and counts as lost.
            if let Some(rejected) = self.deliver(&to, T::SIGNAL, items, &mut notices).await {
                batch.settle(rejected);
            }
        }
    }

    /// Posts a batch until the collector has it, and returns how many items it rejects; nothing if it refuses all for good.
    async fn deliver(
        &self,
        to: &Uri,
        signal: Signal,
        items: Vec<Value>,
        notices: &mut CollectorNotices,
    ) -> Option<usize> {
        let body = Bytes::from(signal.body(&self.resource, items).to_string());
        let mut failures = 0;
        loop {
            let posted = self.post(to, signal, body.clone()).await;
            self.tell(signal, &posted, notices);
            match posted {
                Ok(partial) => return Some(partial.map_or(0, |partial| partial.rejected)),
                Err(error) if error.is_temporary() => {
                    failures += 1;
                    sleep(backoff::jittered(backoff::after(failures, FIRST_PAUSE, MAX_PAUSE))).await;
                }
                Err(_) => return None,
            }
        }
    }

    // === Metrics ===

    /// Posts all metrics now, and then at intervals.
    pub(crate) async fn post_metrics(self, posts: MetricPosts, metrics: &Metrics) -> Infallible {
        let mut notices = CollectorNotices::default();
        let mut ticks = interval(posts.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.post_metrics_once(&posts.to, metrics, &mut notices).await;
        }
    }

    /// Posts all metrics at the end of the process.
    pub(crate) async fn post_last_metrics(self, to: &Uri, metrics: &Metrics) {
        self.post_metrics_once(to, metrics, &mut CollectorNotices::default()).await;
    }

    /// Posts all metrics, once: a later post has their sums again.
    async fn post_metrics_once(&self, to: &Uri, metrics: &Metrics, notices: &mut CollectorNotices) {
        let now = Timestamp::now();
        let families = metrics.families().into_iter().filter(|family| !family.is_empty());
        let items = families.map(|family| otlp::metric(&family, metrics.started, now)).collect();
        let body = Bytes::from(Signal::Metrics.body(&self.resource, items).to_string());
        let posted = self.post(to, Signal::Metrics, body).await;
        self.tell(Signal::Metrics, &posted, notices);
        match posted {
            Ok(None) => metrics.posts.note_sent(1),
            Ok(Some(_)) | Err(_) => metrics.posts.note_lost(1),
        }
    }

    // === Requests ===

    async fn post(&self, to: &Uri, signal: Signal, body: Bytes) -> Result<Option<PartialSuccess>, ExportError> {
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        request.uri_mut().clone_from(to);
        request.headers_mut().clone_from(&self.headers);
        let answer = self.fetcher.fetch(request).await?;
        let status = answer.status();
        if status.is_success() { Ok(signal.partial_success(answer.body())) } else { Err(ExportError::Status(status)) }
    }

    /// Reports that posts begin to fail, or succeed again.
    fn tell(
        &self,
        signal: Signal,
        posted: &Result<Option<PartialSuccess>, ExportError>,
        notices: &mut CollectorNotices,
    ) {
        let kind = signal.as_str();
        match posted {
            Ok(None) if notices.succeeded() => tracing::info!("the collector accepts {kind} again"),
            Ok(Some(partial)) if notices.failed(Instant::now()) => {
                let (rejected, why) = (partial.rejected, self.without_secrets(&partial.message));
                tracing::warn!(rejected, why, "the collector accepts only a part of the {kind}: the others are lost");
            }
            Err(error) if notices.failed(Instant::now()) => {
                let outcome = match (signal, error.is_temporary()) {
                    (Signal::Spans | Signal::Logs, true) => "wait: the collector cannot be used",
                    (Signal::Metrics, true) => "are not posted: the collector cannot be used",
                    (_, false) => "are lost: the collector refuses them",
                };
                tracing::warn!(error = causes(error), "{kind} {outcome}");
            }
            Ok(_) | Err(_) => {}
        }
    }

    /// Returns words of the collector, cut and without what callgate sent it as a secret.
    fn without_secrets(&self, words: &str) -> String {
        let hidden = self.secrets.iter().fold(words.to_owned(), |words, secret| hide(&words, secret.expose()));
        redact::text(&hidden).into_owned()
    }
}

/// Hides a value of a field in words, and each part of it that may be the secret, such as the one behind `Bearer`.
fn hide(words: &str, value: &str) -> String {
    let parts = value.split_whitespace().filter(|part| part.len() >= SHORTEST_SECRET);
    [value].into_iter().chain(parts).fold(words.to_owned(), |words, part| words.replace(part, "***"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_collector_show_no_field() {
        for (value, expected) in [
            ("Bearer 1f0c9d7e", "a bad *** in Bearer"),
            ("1f0c9d7e", "a bad *** in Bearer"),
            ("a 1f0c9d7e", "a bad *** in Bearer"),
            ("other", "a bad 1f0c9d7e in Bearer"),
        ] {
            assert_eq!(hide("a bad 1f0c9d7e in Bearer", value), expected, "{value}");
        }
    }
}
