//! Floor 4: posts spans to a collector of OpenTelemetry, as OTLP over HTTP in JSON
//! (<https://opentelemetry.io/docs/specs/otlp/>).

use std::convert::Infallible;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::backoff;
use crate::config::{TelemetryConfig, Trust};
use crate::observe::causes;
use crate::observe::spans::{SpanKind, SpanRecord, SpanValue, Tracer};
use crate::upstream::{FetchError, Fetcher};

/// The deadline of one request to the collector.
const DEADLINE: Duration = Duration::from_secs(10);
/// The pause after the first failure. It doubles with each further failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause after failures in a row.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Posts spans to one collector.
#[derive(Debug)]
pub(crate) struct Exporter {
    fetcher: Fetcher,
    to: Uri,
    headers: HeaderMap,
    /// Describes this service.
    resource: Value,
}

/// A batch that the collector does not have. It is lost when this is dropped, also by a reload.
struct UnsentBatch<'t> {
    tracer: &'t Tracer,
    spans: usize,
}

impl Drop for UnsentBatch<'_> {
    fn drop(&mut self) {
        self.tracer.note_lost(self.spans);
    }
}

/// Why the collector does not have a batch.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    /// It gave no answer.
    #[error("no answer from the collector")]
    Fetch(#[from] FetchError),
    /// It does not accept the batch, now or at all.
    #[error("the collector answers {0}")]
    Status(StatusCode),
}

impl ExportError {
    /// Tells whether the same batch may be accepted later (OTLP, "Failures").
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
        let known = facts.into_iter().filter_map(|(key, text)| Some(attribute(key, json!({ "stringValue": text? }))));
        Ok(Self {
            fetcher: Fetcher::new(&Trust::roots(settings.ca.clone()), DEADLINE, settings.outbound_proxy.clone())?,
            to: settings.traces.clone(),
            headers,
            resource: json!({ "attributes": known.collect::<Vec<_>>() }),
        })
    }

    /// Posts the spans of a tracer. While the collector is away one batch waits for it, and the tracer's queue fills.
    pub(crate) async fn run(self, tracer: Arc<Tracer>) -> Infallible {
        loop {
            let batch = tracer.batch().await;
            let mut unsent = UnsentBatch { tracer: &tracer, spans: batch.len() };
            match self.deliver(&batch).await {
                Ok(()) => tracer.note_sent(mem::take(&mut unsent.spans)),
                Err(error) => {
                    tracing::warn!(
                        error = causes(&error),
                        spans = unsent.spans,
                        "the collector refuses spans: they are lost"
                    );
                }
            }
        }
    }

    /// Posts a batch until the collector has it, or refuses it for good.
    async fn deliver(&self, batch: &[SpanRecord]) -> Result<(), ExportError> {
        let body = Bytes::from(self.body(batch).to_string());
        let mut failures = 0;
        loop {
            match self.post(body.clone()).await {
                Ok(()) if failures == 0 => return Ok(()),
                Ok(()) => {
                    tracing::info!("the collector accepts spans again");
                    return Ok(());
                }
                Err(error) if error.is_temporary() => {
                    if failures == 0 {
                        tracing::warn!(error = causes(&error), "spans wait: the collector cannot be used");
                    }
                    failures += 1;
                    sleep(backoff::jittered(backoff::after(failures, FIRST_PAUSE, MAX_PAUSE))).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn post(&self, body: Bytes) -> Result<(), ExportError> {
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        request.uri_mut().clone_from(&self.to);
        request.headers_mut().clone_from(&self.headers);
        let status = self.fetcher.fetch(request).await?.status();
        if status.is_success() { Ok(()) } else { Err(ExportError::Status(status)) }
    }

    fn body(&self, batch: &[SpanRecord]) -> Value {
        let scope = json!({ "name": "callgate", "version": env!("CARGO_PKG_VERSION") });
        let spans: Vec<_> = batch.iter().map(span).collect();
        json!({ "resourceSpans": [{
            "resource": self.resource,
            "scopeSpans": [{ "scope": scope, "spans": spans }],
        }] })
    }
}

/// Returns a span as JSON: ids in hexadecimal digits, 64-bit numbers as texts (OTLP, "JSON Protobuf Encoding").
fn span(span: &SpanRecord) -> Value {
    let kind = match span.kind {
        SpanKind::Server => 2,
        SpanKind::Client => 3,
    };
    let begun = span.begun.as_nanosecond();
    let attributes = span.attributes.iter().map(|(key, value)| match value {
        SpanValue::Text(text) => attribute(key, json!({ "stringValue": text })),
        SpanValue::Number(number) => attribute(key, json!({ "intValue": number.to_string() })),
    });
    let mut written = json!({
        "traceId": hex::encode(span.context.trace),
        "spanId": hex::encode(span.context.span),
        "name": span.name,
        "kind": kind,
        "startTimeUnixNano": begun.to_string(),
        "endTimeUnixNano": (begun + span.duration.as_nanos() as i128).to_string(),
        "attributes": attributes.collect::<Vec<_>>(),
        "status": if span.is_error { json!({ "code": 2 }) } else { json!({}) },
    });
    if let Some(parent) = span.parent {
        written["parentSpanId"] = hex::encode(parent).into();
    }
    written
}

fn attribute(key: &str, value: Value) -> Value {
    json!({ "key": key, "value": value })
}
