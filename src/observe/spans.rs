//! Spans of OpenTelemetry: how long an exchange took, or the opening of a session, and in which trace. They wait in a queue for
//! the exporter.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use jiff::Timestamp;

use super::attribute::{self, Attribute};
use super::export_queue::{ExportCounts, ExportQueue, Exported};
use crate::model::trace_context::{SpanId, TraceContext};
use crate::random;

/// The field that names the trace of a request (W3C Trace Context §3.2).
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What vendors add to it (§3.3). It is valid only beside a valid `traceparent`.
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Decides which traces are recorded, and holds the spans that wait for the exporter.
#[derive(Debug)]
pub struct Tracer {
    /// How many of a hundred traces that begin here are recorded.
    percent: u8,
    queue: ExportQueue<SpanRecord>,
}

/// The place of a request in its trace.
#[derive(Debug, Clone, Copy)]
pub struct RequestTrace {
    /// The span of the exchange.
    pub context: TraceContext,
    /// The span of the caller; nothing: the trace begins here.
    pub parent: Option<SpanId>,
}

/// A span that has ended.
#[derive(Debug, Clone)]
pub struct SpanRecord {
    /// The span, and its trace.
    pub context: TraceContext,
    /// The span that it is part of.
    pub parent: Option<SpanId>,
    /// Its side of the message.
    pub kind: SpanKind,
    /// What it is about.
    pub name: String,
    /// When it began.
    pub begun: Timestamp,
    /// How long it took.
    pub duration: Duration,
    /// More facts, by the names of the semantic conventions. Never a query string, a field or a secret.
    pub attributes: Vec<Attribute>,
    /// Whether it failed through callgate or an upstream.
    pub is_error: bool,
}

/// The side of the message that a span describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// The receiver of a request.
    Server,
    /// The sender of a request.
    Client,
}

impl Exported for SpanRecord {
    fn size(&self) -> usize {
        size_of::<Self>() + self.name.len() + attribute::size(&self.attributes)
    }
}

impl Tracer {
    /// Makes a tracer that records `percent` of the traces that begin here, and goes on counting spans here.
    #[must_use]
    pub fn new(percent: u8, counts: &Arc<ExportCounts>) -> Self {
        Self { percent, queue: ExportQueue::new(counts) }
    }

    /// Continues the trace that a request names, or begins one. The side that began a trace has decided whether it is recorded.
    #[must_use]
    pub fn trace(&self, headers: &HeaderMap) -> RequestTrace {
        let span = random::bytes();
        let mut lines = headers.get_all(TRACEPARENT).into_iter();
        let named = lines.next().filter(|_| lines.next().is_none());
        match named.and_then(|field| TraceContext::parse(field.as_bytes())) {
            Some(named) => RequestTrace { context: TraceContext { span, ..named }, parent: Some(named.span) },
            None => {
                let trace = random::bytes();
                let context = TraceContext { trace, span, is_sampled: self.samples(&trace) };
                RequestTrace { context, parent: None }
            }
        }
    }

    /// Decides by the random part of the id, so that each member that sees the trace decides alike.
    fn samples(&self, trace: &[u8; 16]) -> bool {
        let low = u128::from_be_bytes(*trace) as u64;
        (u128::from(low) * 100) >> 64 < u128::from(self.percent)
    }

    /// Adds a span, if its trace is recorded. Never waits.
    pub fn add(&self, span: SpanRecord) {
        if span.context.is_sampled {
            self.queue.add(span);
        }
    }

    /// Returns the spans that wait for the exporter.
    #[must_use]
    pub const fn queue(&self) -> &ExportQueue<SpanRecord> {
        &self.queue
    }
}

impl RequestTrace {
    /// Tells the next hop the span that its request belongs to.
    pub fn assert(&self, headers: &mut HeaderMap) {
        let value = HeaderValue::try_from(self.context.field()).expect("digits and dashes are ASCII");
        headers.insert(TRACEPARENT, value);
        if self.parent.is_none() {
            headers.remove(TRACESTATE);
        }
    }

    /// Returns a new span within that of the exchange.
    #[must_use]
    pub fn child(&self) -> TraceContext {
        TraceContext { span: random::bytes(), ..self.context }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn a_valid_trace_is_continued_and_an_invalid_one_replaced() {
        let tracer = Tracer::new(100, &Arc::default());
        let mut valid = headers(&[("traceparent", FIELD), ("tracestate", "a=b")]);
        let trace = tracer.trace(&valid);
        assert_eq!(hex::encode(trace.parent.unwrap()), "b7ad6b7169203331");
        trace.assert(&mut valid);
        let next = TraceContext::parse(valid["traceparent"].as_bytes()).unwrap();
        assert_eq!((next, hex::encode(next.trace)), (trace.context, "0af7651916cd43dd8448eb211c80319c".to_owned()));
        assert_ne!(hex::encode(next.span), "b7ad6b7169203331");
        assert_eq!(valid["tracestate"], "a=b");
        for lines in [
            &[("traceparent", "00-1-2-3"), ("tracestate", "a=b")][..],
            &[("traceparent", FIELD), ("traceparent", FIELD)],
            &[],
        ] {
            let mut invalid = headers(lines);
            let trace = tracer.trace(&invalid);
            trace.assert(&mut invalid);
            assert_eq!(
                (trace.parent, invalid.get("tracestate"), invalid.get_all("traceparent").iter().count()),
                (None, None, 1)
            );
            assert_eq!(invalid["traceparent"], trace.context.field());
        }
    }

    #[test]
    fn a_part_of_the_traces_is_recorded() {
        let count = |percent| {
            let tracer = Tracer::new(percent, &Arc::default());
            (0..10_000).filter(|_| tracer.trace(&HeaderMap::new()).context.is_sampled).count()
        };
        assert_eq!((count(0), count(100)), (0, 10_000));
        assert!((500..1500).contains(&count(10)), "{}", count(10));
    }

    #[test]
    fn only_spans_of_recorded_traces_wait() {
        for (percent, is_settled) in [(0, true), (100, false)] {
            let tracer = Tracer::new(percent, &Arc::default());
            tracer.add(SpanRecord {
                context: tracer.trace(&HeaderMap::new()).context,
                parent: None,
                kind: SpanKind::Server,
                name: "GET".to_owned(),
                begun: Timestamp::UNIX_EPOCH,
                duration: Duration::ZERO,
                attributes: Vec::new(),
                is_error: false,
            });
            assert_eq!(tracer.queue().is_settled(), is_settled);
        }
    }
}
