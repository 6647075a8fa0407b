//! Spans, metrics and log records as OTLP in JSON: ids in hexadecimal digits, 64-bit numbers as texts (OTLP, "JSON Protobuf
//! Encoding"), and the part of an answer that counts what a collector rejects.

use jiff::Timestamp;
use serde_json::{Value, json};
use tracing::Level;

use crate::observe::attribute::AttributeValue;
use crate::observe::log_record::LogRecord;
use crate::observe::metrics::{HistogramSums, Labels, MetricFamily, MetricPoints, MetricUnit};
use crate::observe::spans::{SpanKind, SpanRecord};

/// The sum is over the whole time since its start (`AGGREGATION_TEMPORALITY_CUMULATIVE`).
const CUMULATIVE: u8 = 2;

/// One kind of telemetry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    Spans,
    Metrics,
    Logs,
}

/// What a collector says about a request that it has accepted only in part.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PartialSuccess {
    /// How many items it rejects.
    pub(super) rejected: usize,
    /// Why, in its own words.
    pub(super) message: String,
}

/// Something that is posted in batches.
pub(crate) trait Posted {
    const SIGNAL: Signal;

    /// Returns it as JSON.
    fn json(&self) -> Value;
}

impl Signal {
    /// Returns its name in events.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Spans => "spans",
            Self::Metrics => "metrics",
            Self::Logs => "log records",
        }
    }

    /// Returns the body of a request. `resource` describes this service.
    pub(super) fn body(self, resource: &Value, items: Vec<Value>) -> Value {
        let (resources, scopes, list) = match self {
            Self::Spans => ("resourceSpans", "scopeSpans", "spans"),
            Self::Metrics => ("resourceMetrics", "scopeMetrics", "metrics"),
            Self::Logs => ("resourceLogs", "scopeLogs", "logRecords"),
        };
        let scope = json!({ "name": "callgate", "version": env!("CARGO_PKG_VERSION") });
        json!({ resources: [{ "resource": resource, scopes: [{ "scope": scope, list: items }] }] })
    }

    /// Reads the answer to a request that was accepted. Nothing: all of it was.
    pub(super) fn partial_success(self, answer: &[u8]) -> Option<PartialSuccess> {
        let answer: Value = serde_json::from_slice(answer).ok()?;
        let partial = &answer["partialSuccess"];
        let rejected = &partial[match self {
            Self::Spans => "rejectedSpans",
            Self::Metrics => "rejectedDataPoints",
            Self::Logs => "rejectedLogRecords",
        }];
        // Receivers accept both forms of a 64-bit number.
        let rejected = rejected.as_u64().or_else(|| rejected.as_str()?.parse().ok())?;
        let message = partial["errorMessage"].as_str().unwrap_or_default().to_owned();
        (rejected > 0).then(|| PartialSuccess { rejected: usize::try_from(rejected).unwrap_or(usize::MAX), message })
    }
}

/// Returns a list of attributes as JSON.
pub(super) fn texts<'t>(attributes: impl IntoIterator<Item = (&'static str, &'t str)>) -> Value {
    attributes.into_iter().map(|(key, text)| attribute(key, json!({ "stringValue": text }))).collect()
}

fn attribute(key: &str, value: Value) -> Value {
    json!({ "key": key, "value": value })
}

fn attributes(attributes: &[(&'static str, AttributeValue)]) -> Value {
    let facts = attributes.iter().map(|(key, value)| match value {
        AttributeValue::Text(text) => attribute(key, json!({ "stringValue": text })),
        AttributeValue::Number(number) => attribute(key, json!({ "intValue": number.to_string() })),
        AttributeValue::Fraction(number) => attribute(key, json!({ "doubleValue": number })),
        AttributeValue::Flag(flag) => attribute(key, json!({ "boolValue": flag })),
    });
    facts.collect()
}

fn nanoseconds(at: Timestamp) -> String {
    at.as_nanosecond().to_string()
}

impl Posted for SpanRecord {
    const SIGNAL: Signal = Signal::Spans;

    fn json(&self) -> Value {
        let kind = match self.kind {
            SpanKind::Server => 2,
            SpanKind::Client => 3,
        };
        let mut written = json!({
            "traceId": hex::encode(self.context.trace),
            "spanId": hex::encode(self.context.span),
            "name": self.name,
            "kind": kind,
            "startTimeUnixNano": nanoseconds(self.begun),
            "endTimeUnixNano": (self.begun.as_nanosecond() + self.duration.as_nanos() as i128).to_string(),
            "attributes": attributes(&self.attributes),
            "status": if self.is_error { json!({ "code": 2 }) } else { json!({}) },
        });
        if let Some(parent) = self.parent {
            written["parentSpanId"] = hex::encode(parent).into();
        }
        written
    }
}

impl Posted for LogRecord {
    const SIGNAL: Signal = Signal::Logs;

    fn json(&self) -> Value {
        let severity = match self.level {
            Level::TRACE => 1,
            Level::DEBUG => 5,
            Level::INFO => 9,
            Level::WARN => 13,
            Level::ERROR => 17,
        };
        let time = nanoseconds(self.time);
        let mut written = json!({
            "timeUnixNano": time,
            "observedTimeUnixNano": time,
            "severityNumber": severity,
            "severityText": self.level.as_str(),
            "body": { "stringValue": self.body },
            "attributes": attributes(&self.attributes),
        });
        if let Some(context) = self.trace {
            written["traceId"] = hex::encode(context.trace).into();
            written["spanId"] = hex::encode(context.span).into();
            written["flags"] = u8::from(context.is_sampled).into();
        }
        written
    }
}

/// Returns a metric as JSON, with the name that its series have at `/metrics`. `started`: when its sums were zero.
pub(super) fn metric(family: &MetricFamily, started: Timestamp, now: Timestamp) -> Value {
    let (started, now) = (nanoseconds(started), nanoseconds(now));
    let point = |labels: &Labels| {
        let labels = labels.iter().map(|(key, value)| (*key, value.as_str()));
        json!({ "attributes": texts(labels), "startTimeUnixNano": started, "timeUnixNano": now })
    };
    let number = |labels: &Labels, value: i64| with(point(labels), json!({ "asInt": value.to_string() }));
    let sum = |points: Vec<Value>, is_monotonic: bool| json!({ "aggregationTemporality": CUMULATIVE, "isMonotonic": is_monotonic, "dataPoints": points });
    let (kind, data) = match &family.points {
        MetricPoints::Counter(rows) => {
            let row = |(labels, value): &(Labels, u64)| number(labels, i64::try_from(*value).unwrap_or(i64::MAX));
            ("sum", sum(rows.iter().map(row).collect(), true))
        }
        MetricPoints::Gauge(rows) => {
            let points: Vec<_> = rows.iter().map(|(labels, value)| number(labels, *value)).collect();
            ("gauge", json!({ "dataPoints": points }))
        }
        MetricPoints::Histogram(rows) => {
            let points: Vec<_> = rows.iter().map(|(labels, sums)| with(point(labels), histogram(sums))).collect();
            ("histogram", json!({ "aggregationTemporality": CUMULATIVE, "dataPoints": points }))
        }
        // As the specification of OpenTelemetry has it for OpenMetrics.
        MetricPoints::Info(labels) => ("sum", sum(vec![number(labels, 1)], false)),
    };
    let unit = match family.unit {
        Some(MetricUnit::Seconds) => "s",
        Some(MetricUnit::Bytes) => "By",
        None => "",
    };
    json!({ "name": family.series_name(), "description": family.help, "unit": unit, kind: data })
}

fn histogram(sums: &HistogramSums) -> Value {
    let counts: Vec<_> = sums.buckets.iter().map(u64::to_string).collect();
    json!({
        "count": sums.count().to_string(),
        "sum": sums.seconds(),
        "bucketCounts": counts,
        "explicitBounds": HistogramSums::bounds().collect::<Vec<_>>(),
    })
}

/// Adds the entries of an object to another.
fn with(mut object: Value, more: Value) -> Value {
    if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
        object.extend(more);
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(answer: &str, expected: Option<(usize, &str)>) {
        let expected = expected.map(|(rejected, message)| PartialSuccess { rejected, message: message.to_owned() });
        assert_eq!(Signal::Spans.partial_success(answer.as_bytes()), expected, "{answer}");
    }

    #[test]
    fn a_partial_success_counts_what_was_rejected() {
        check(r#"{"partialSuccess":{"rejectedSpans":"2","errorMessage":"too old"}}"#, Some((2, "too old")));
        check(r#"{"partialSuccess":{"rejectedSpans":3}}"#, Some((3, "")));
        for all in [
            "",
            "ok",
            "[]",
            "{}",
            r#"{"partialSuccess":{}}"#,
            r#"{"partialSuccess":{"rejectedSpans":"0","errorMessage":"slow down"}}"#,
            r#"{"partialSuccess":{"rejectedLogRecords":"2"}}"#,
            r#"{"partialSuccess":{"rejectedSpans":"-1"}}"#,
        ] {
            check(all, None);
        }
    }
}
