//! The span of an exchange, for a collector of OpenTelemetry: by the semantic conventions for HTTP servers
//! (<https://opentelemetry.io/docs/specs/semconv/http/http-spans/>).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Version};
use hyper::body::Incoming;
use jiff::Timestamp;

use super::AnswerState;
use crate::model::redact;
use crate::observe::RequestId;
use crate::observe::access;
use crate::observe::attribute::AttributeValue;
use crate::observe::metrics::TlsVersion;
use crate::observe::spans::{RequestTrace, SpanKind, SpanRecord, Tracer};

/// The most characters of a path.
const LONGEST: usize = 1024;
/// The methods that the conventions know. All others are one, because a client can make up any number of them.
const KNOWN: [Method; 9] = [
    Method::CONNECT,
    Method::DELETE,
    Method::GET,
    Method::HEAD,
    Method::OPTIONS,
    Method::PATCH,
    Method::POST,
    Method::PUT,
    Method::TRACE,
];

/// The trace of an exchange, and the facts of its span.
#[derive(Debug)]
pub(super) struct ExchangeSpan {
    pub(super) trace: RequestTrace,
    tracer: Arc<Tracer>,
    begun: Timestamp,
    method: Method,
    path: String,
    version: Version,
    tls: TlsVersion,
    client: IpAddr,
    pub(super) host: String,
    /// The public code of an answer of callgate.
    pub(super) reason: Option<&'static str>,
}

impl ExchangeSpan {
    /// Begins with the head of a request.
    pub(super) fn begin(
        tracer: &Arc<Tracer>,
        request: &Request<Incoming>,
        client: IpAddr,
        tls: TlsVersion,
    ) -> Box<Self> {
        Box::new(Self {
            trace: tracer.trace(request.headers()),
            tracer: Arc::clone(tracer),
            begun: Timestamp::now(),
            method: request.method().clone(),
            path: redact::target(request.uri().path()).chars().take(LONGEST).collect(),
            version: request.version(),
            tls,
            client,
            host: String::new(),
            reason: None,
        })
    }

    /// Ends, and adds the span to those that wait for the collector.
    pub(super) fn end(self, id: RequestId, answer: &AnswerState, took: Duration) {
        let Self { trace, tracer, begun, method, path, version, tls, client, host, reason } = self;
        let status = answer.stage.status();
        let is_error = status.is_some_and(|status| status.is_server_error());
        let is_known = KNOWN.contains(&method);
        let name = if is_known { method.as_str() } else { "_OTHER" };
        let text = |text: &str| AttributeValue::from(text);
        let error = || reason.map_or_else(|| status.map(|status| text(status.as_str())), |reason| Some(text(reason)));
        let facts = [
            ("http.request.method", Some(text(name))),
            ("url.scheme", Some(text("https"))),
            ("url.path", Some(AttributeValue::Text(path))),
            ("server.address", Some(text(&redact::text(&host)))),
            ("client.address", Some(text(&client.to_string()))),
            ("network.protocol.version", Some(text(access::version(version)))),
            ("tls.protocol.version", Some(text(tls.as_str()))),
            ("http.response.status_code", status.map(|status| u64::from(status.as_u16()).into())),
            ("error.type", if is_error { error() } else { None }),
            ("callgate.route", Some(text(answer.route.as_str()))),
            ("callgate.request_id", Some(text(id.as_str()))),
        ];
        tracer.add(SpanRecord {
            context: trace.context,
            parent: trace.parent,
            kind: SpanKind::Server,
            name: if is_known { name.to_owned() } else { "HTTP".to_owned() },
            begun,
            duration: took,
            attributes: facts.into_iter().filter_map(|(key, value)| Some((key, value?))).collect(),
            is_error,
        });
    }
}
