//! Floor 5: a client's connection, its requests and their answers, as the server and the proxy both see them.

mod activity;
mod body;
mod connection;
mod interim;
mod passed_connection;
mod span;
mod tunnel_guard;

use std::cell::OnceCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Frame;
use hyper::body::{Body as _, Incoming};
use tokio::time::Instant;

pub(crate) use self::activity::{AbortReason, Activity, InFlight};
pub(crate) use self::body::Body;
pub(crate) use self::connection::{ClientConnection, SideChannel, TlsPeer, TlsSession, Tunnel};
pub(crate) use self::interim::Interims;
pub(crate) use self::passed_connection::PassedConnection;
use self::span::ExchangeSpan;
pub(crate) use self::tunnel_guard::TunnelGuard;
use crate::message::forwarded::X_REQUEST_ID;
use crate::model::limit_set::LimitSet;
use crate::model::upstream_name::UpstreamName;
use crate::observe::access::{self, AccessCaller, ExchangeEnd};
use crate::observe::metrics::{ExchangeRoute, Tally, TunnelEnd};
use crate::observe::spans::RequestTrace;
use crate::observe::{Logs, RequestId};
use crate::upstream::{BodyError, Meter, TunnelBytes};

const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// One request with its answer: from the head of the request to the last byte of the answer, or of the tunnel that the
/// answer begins. When it is dropped, it is counted and its access line is written.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// Identifies the exchange in every log, and to the client in `X-Request-Id`.
    pub id: RequestId,
    started: Instant,
    request: RequestShape,
    answer: AnswerState,
    bytes: ByteCount,
    /// When the request was sent to the upstream that answered.
    sent_upstream: Option<Instant>,
    line: Option<Box<AccessLine>>,
    span: Option<Box<ExchangeSpan>>,
    /// Held until the exchange is over.
    in_flight: InFlight,
}

/// The facts about the request that [`Exchange::finish`] decides by.
#[derive(Debug, Clone, Copy)]
struct RequestShape {
    is_head: bool,
    /// Whether a body, or the bytes of a tunnel, may follow the head.
    has_body: bool,
    /// Whether `Connection: close` ends the connection. In HTTP/2 a frame does.
    closes_by_field: bool,
}

/// The answer, as far as it is known.
#[derive(Debug, Clone, Copy)]
struct AnswerState {
    route: ExchangeRoute,
    stage: ExchangeStage,
    /// Whether an upstream made the answer.
    is_relayed: bool,
    /// Whether bytes behind the head may be left unread: they would be taken for the next request.
    leaves_bytes: bool,
    is_complete: bool,
    /// Whether a stalled upstream ended it.
    is_stalled: bool,
}

/// How far an exchange has come.
#[derive(Debug, Clone, Copy)]
enum ExchangeStage {
    /// No answer yet.
    Request,
    /// The answer with this status.
    Answer(StatusCode),
    /// The tunnel behind an answer with this status, and how it ended.
    Tunnel(StatusCode, TunnelEnd),
}

/// The bytes of the bodies, or of the tunnel.
#[derive(Debug, Default)]
struct ByteCount {
    sent: u64,
    received: u64,
    /// Counts the request's body.
    meter: Option<Meter>,
    /// Counts both directions of the tunnel.
    tunnel: Option<Rc<TunnelBytes>>,
}

/// The line of the access log, if that is written.
#[derive(Debug)]
struct AccessLine {
    facts: access::AccessRecord,
    logs: Rc<Logs>,
}

impl RequestShape {
    fn of(request: &Request<Incoming>) -> Self {
        Self {
            is_head: *request.method() == Method::HEAD,
            has_body: !request.body().is_end_stream() || *request.method() == Method::CONNECT,
            closes_by_field: matches!(request.version(), Version::HTTP_10 | Version::HTTP_11),
        }
    }
}

impl ExchangeStage {
    const fn status(self) -> Option<StatusCode> {
        match self {
            Self::Request => None,
            Self::Answer(status) | Self::Tunnel(status, _) => Some(status),
        }
    }
}

impl Exchange {
    /// Begins with the head of a request.
    #[must_use]
    pub(crate) fn begin(
        request: &Request<Incoming>,
        client: IpAddr,
        connection: &ClientConnection,
        logs: &Rc<Logs>,
    ) -> Self {
        let id = RequestId::next();
        Self {
            id,
            started: Instant::now(),
            request: RequestShape::of(request),
            answer: AnswerState {
                route: ExchangeRoute::Own,
                stage: ExchangeStage::Request,
                is_relayed: false,
                leaves_bytes: false,
                is_complete: false,
                is_stalled: false,
            },
            bytes: ByteCount::default(),
            sent_upstream: None,
            line: logs.access().then(|| AccessLine::begin(id, request, client, connection, logs)),
            span: logs.tracer().map(|tracer| ExchangeSpan::begin(tracer, request, client, connection.tls.version)),
            in_flight: connection.activity.begin_exchange(),
        }
    }

    /// Records the host that the request is for.
    pub(crate) fn set_host(&mut self, host: &str) {
        if let Some(line) = &mut self.line {
            host.clone_into(&mut line.facts.host);
        }
        if let Some(span) = &mut self.span {
            host.clone_into(&mut span.host);
        }
    }

    /// Returns its place in a trace, if a collector is configured.
    pub(crate) fn trace(&self) -> Option<RequestTrace> {
        self.span.as_ref().map(|span| span.trace)
    }

    /// Records the account of the session that the request shows.
    pub(crate) fn set_account(&mut self, account: String) {
        if let Some(line) = &mut self.line {
            line.facts.caller.account = Some(account);
        }
    }

    /// Records the PBX node that the request goes to, where there are several.
    pub(crate) fn set_pbx_node(&mut self, name: &str) {
        if let Some(line) = &mut self.line {
            line.facts.caller.pbx = Some(name.to_owned());
        }
    }

    /// Records whom the request logs in, if it is known.
    pub(crate) fn set_caller(&mut self, caller: &OnceCell<AccessCaller>) {
        if let (Some(line), Some(caller)) = (&mut self.line, caller.get()) {
            line.facts.caller.clone_from(caller);
        }
    }

    /// Records the limits in shadow that would have refused the request.
    pub(crate) fn set_refusers(&mut self, refusers: LimitSet) {
        if let Some(line) = &mut self.line {
            line.facts.shadow = refusers;
        }
    }

    /// Records the upstream that the request goes to.
    pub(crate) fn set_upstream(&mut self, upstream: UpstreamName) {
        self.answer.route = match upstream {
            UpstreamName::App => ExchangeRoute::App,
            UpstreamName::Pbx => ExchangeRoute::Pbx,
        };
        if let Some(line) = &mut self.line {
            line.facts.upstream = upstream.as_str();
        }
    }

    /// Records the route that metrics count the exchange under.
    pub(crate) const fn set_route(&mut self, route: ExchangeRoute) {
        self.answer.route = route;
    }

    /// Records that the head of an upstream's answer is here, to a request that was sent at this time.
    pub(crate) const fn set_sent_upstream(&mut self, at: Option<Instant>) {
        self.sent_upstream = at;
    }

    /// Notes how long the upstream took to answer, once.
    pub(crate) fn note_upstream_duration(&mut self, now: Instant) {
        if let (Some(line), Some(sent)) = (&mut self.line, self.sent_upstream.take()) {
            line.facts.upstream_duration = Some(now.duration_since(sent));
        }
    }

    /// Records that an upstream made the answer: it passes without a field of callgate's own.
    pub(crate) const fn set_relayed(&mut self) {
        self.answer.is_relayed = true;
    }

    /// Records that the answer is an error of callgate's own, with its code. `is_malformed`: the request has no single
    /// reading, so that neither have the bytes behind it.
    pub(crate) fn fail(&mut self, code: &'static str, is_malformed: bool) {
        // A body that is not read would be taken for the next request.
        self.answer.leaves_bytes = is_malformed || self.request.has_body;
        if let Some(line) = &mut self.line {
            line.facts.reason = Some(code);
        }
        if let Some(span) = &mut self.span {
            span.reason = Some(code);
        }
    }

    /// Records where the bytes of the request's body are counted.
    pub(crate) fn set_meter(&mut self, meter: Option<Meter>) {
        // Bytes that were read before the request is passed on stay counted.
        self.bytes.meter = meter.or_else(|| self.bytes.meter.take());
    }

    /// Returns whether part of the request's body is still to come.
    fn is_receiving(&self) -> bool {
        self.bytes.meter.as_ref().is_some_and(|meter| !meter.is_done())
    }

    /// Makes an answer ready to be sent, and ends the exchange with its body. Only this function decides whether the connection
    /// closes behind it, whether it has a body, and whether it carries `X-Request-Id`.
    #[must_use]
    pub(crate) fn finish(mut self, mut response: Response<Body>) -> Response<Body> {
        if self.request.is_head {
            body::remove_own(&mut response);
        }
        if self.answer.is_relayed && self.request.closes_by_field {
            body::keep_length(&mut response);
        }
        if self.closes_connection(response.status()) {
            response.headers_mut().insert(header::CONNECTION, CLOSE);
        }
        if !self.answer.is_relayed {
            response.headers_mut().insert(X_REQUEST_ID, self.id.header_value());
        }
        self.answer.stage = ExchangeStage::Answer(response.status());
        let now = Instant::now();
        self.tally().answered(self.answer.route, now.duration_since(self.started));
        self.note_upstream_duration(now);
        response.body_mut().hold(self);
        response
    }

    /// Decides whether the connection closes behind the answer (RFC 9112 §9.6).
    fn closes_connection(&self, status: StatusCode) -> bool {
        // Over HTTP/2 a GOAWAY frame says it, and a tunnel takes the connection over.
        if !self.request.closes_by_field || status == StatusCode::SWITCHING_PROTOCOLS {
            return false;
        }
        // An upstream that answers before the body's end may be the reason why the rest of it never comes.
        self.answer.leaves_bytes || self.is_receiving() || self.in_flight.is_last()
    }

    /// Splits off the exchange of the tunnel that an answer with this status agrees to. That one writes the access line
    /// when the tunnel ends; the answer writes none.
    #[must_use]
    pub(crate) fn split(&mut self, status: StatusCode) -> Self {
        self.tally().tunnel_opened();
        self.note_upstream_duration(Instant::now());
        Self {
            id: self.id,
            started: self.started,
            request: self.request,
            // Until the tunnel has said how it ended.
            answer: AnswerState { stage: ExchangeStage::Tunnel(status, TunnelEnd::Cut), ..self.answer },
            bytes: ByteCount { tunnel: Some(Rc::default()), ..ByteCount::default() },
            sent_upstream: None,
            line: self.line.take(),
            span: self.span.take(),
            in_flight: self.in_flight.tunnel(),
        }
    }

    /// Returns where the bytes of its tunnel are counted.
    fn tunnel_bytes(&self) -> Rc<TunnelBytes> {
        self.bytes.tunnel.clone().unwrap_or_default()
    }

    /// Records how its tunnel ended.
    const fn set_tunnel_end(&mut self, end: TunnelEnd) {
        if let ExchangeStage::Tunnel(_, ended) = &mut self.answer.stage {
            *ended = end;
        }
    }

    /// Returns how it ended, in the words of the access log.
    fn ended(&self) -> ExchangeEnd {
        let aborted = self.in_flight.abort_reason();
        match self.answer.stage {
            ExchangeStage::Tunnel(_, end) => tunnel_end(end, aborted),
            ExchangeStage::Request | ExchangeStage::Answer(_) if self.answer.is_complete => ExchangeEnd::Complete,
            ExchangeStage::Request | ExchangeStage::Answer(_)
                if self.answer.is_stalled || aborted == Some(AbortReason::WriteStall) =>
            {
                ExchangeEnd::Stalled
            }
            ExchangeStage::Request | ExchangeStage::Answer(_) => cut_off(aborted),
        }
    }

    fn tally(&self) -> &Tally {
        self.in_flight.tally()
    }

    fn count(&self) {
        let tally = self.tally();
        tally.carried(self.bytes.received, self.bytes.sent);
        match self.answer.stage {
            ExchangeStage::Tunnel(_, end) => tally.tunnel_ended(end),
            stage => tally.exchange(self.answer.route, stage.status(), self.answer.is_complete),
        }
    }

    /// Counts a frame of the answer, or logs the error in its place.
    fn record_frame(&mut self, frame: &Result<Frame<Bytes>, BodyError>) {
        match frame {
            Ok(frame) => self.bytes.sent += frame.data_ref().map_or(0, |data| data.len() as u64),
            Err(cut) => {
                self.answer.is_stalled |= matches!(cut, BodyError::Stalled);
                tracing::warn!(id = %self.id, error = cut as &dyn std::error::Error, "answer cut off");
            }
        }
    }
}

/// Returns how a tunnel ended, in the words of the access log.
const fn tunnel_end(end: TunnelEnd, aborted: Option<AbortReason>) -> ExchangeEnd {
    match end {
        TunnelEnd::Closed => ExchangeEnd::Complete,
        TunnelEnd::Frozen => ExchangeEnd::Frozen,
        TunnelEnd::SessionEnded => ExchangeEnd::SessionEnded,
        TunnelEnd::CertificatePolicyChanged => ExchangeEnd::CertificatePolicyChanged,
        TunnelEnd::Idle | TunnelEnd::Stalled => ExchangeEnd::Stalled,
        TunnelEnd::Failed => ExchangeEnd::Aborted,
        TunnelEnd::Cut => cut_off(aborted),
    }
}

/// Returns how an exchange ended that was cut off.
const fn cut_off(aborted: Option<AbortReason>) -> ExchangeEnd {
    match aborted {
        Some(AbortReason::Drain) => ExchangeEnd::Drained,
        Some(AbortReason::WriteStall) | None => ExchangeEnd::Aborted,
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.bytes.read_counters();
        self.count();
        let ended = self.ended();
        if self.line.is_none() && self.span.is_none() {
            return;
        }
        let (took, trace) = (self.started.elapsed(), self.trace());
        if let Some(span) = self.span.take() {
            span.end(self.id, &self.answer, took);
        }
        let Some(mut line) = self.line.take() else { return };
        line.facts.duration = took;
        line.facts.status = self.answer.stage.status().map_or(0, |status| status.as_u16());
        (line.facts.received, line.facts.sent) = (self.bytes.received, self.bytes.sent);
        (line.facts.ended, line.facts.trace) = (ended, trace.map(|trace| trace.context));
        line.logs.write_access(&line.facts);
    }
}

impl ByteCount {
    /// Takes over what was counted elsewhere.
    fn read_counters(&mut self) {
        if let Some(meter) = &self.meter {
            self.received = meter.bytes();
        }
        if let Some(tunnel) = &self.tunnel {
            (self.received, self.sent) = (tunnel.up(), tunnel.down());
        }
    }
}

impl AccessLine {
    fn begin(
        id: RequestId,
        request: &Request<Incoming>,
        client: IpAddr,
        connection: &ClientConnection,
        logs: &Rc<Logs>,
    ) -> Box<Self> {
        let facts = access::AccessRecord {
            id,
            client,
            method: request.method().clone(),
            host: String::new(),
            target: request.uri().path_and_query().map_or_else(|| request.uri().to_string(), ToString::to_string),
            version: request.version(),
            tls: connection.tls.version,
            upstream: "-",
            status: 0,
            sent: 0,
            received: 0,
            duration: Duration::ZERO,
            upstream_duration: None,
            ended: ExchangeEnd::Aborted,
            reason: None,
            caller: AccessCaller::default(),
            shadow: LimitSet::default(),
            fields: logs.client_fields(request.headers()),
            trace: None,
        };
        Box::new(Self { facts, logs: Rc::clone(logs) })
    }
}
