//! The body of an answer, and the exchange it ends.

use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode, Version};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::inject;
use super::peer::{InFlight, Peer};
use super::route::To;
use crate::message::hop;
use crate::observe::access::{self, Ended};
use crate::observe::metrics::{Route, Tally, TunnelEnd};
use crate::observe::{Logs, RequestId};
use crate::upstream::{Carried, Cut, Meter, Payload, Relay};

/// The body of an answer. When it is dropped, the exchange is over and logged.
#[derive(Debug)]
pub struct Body {
    kind: Kind,
    exchange: Option<Exchange>,
}

#[derive(Debug)]
enum Kind {
    /// Bytes of our own, or none.
    Own(Option<Bytes>),
    /// An upstream's.
    Relay(Relay),
    /// None, where a length is told all the same.
    Untold(u64),
}

impl Body {
    /// Makes a body of bytes of our own.
    #[must_use]
    pub fn own(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { kind: Kind::Own((!bytes.is_empty()).then_some(bytes)), exchange: None }
    }

    /// Passes an upstream's body on.
    #[must_use]
    pub const fn relay(relay: Relay) -> Self {
        Self { kind: Kind::Relay(relay), exchange: None }
    }

    /// Tells whether it is an upstream's.
    #[must_use]
    pub const fn is_relayed(&self) -> bool {
        matches!(self.kind, Kind::Relay(_))
    }

    /// Lets at most so many bytes be read at once from now on.
    pub fn read_at_most(&self, bytes: usize) {
        if let Kind::Relay(relay) = &self.kind {
            relay.read_at_most(bytes);
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let this = self.get_mut();
        let polled = match &mut this.kind {
            Kind::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Relay(relay) => Pin::new(relay).poll_frame(cx).map_ok(clean),
            Kind::Untold(_) => Poll::Ready(None),
        };
        if let (Some(exchange), Poll::Ready(Some(frame))) = (&mut this.exchange, &polled) {
            exchange.note(frame);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Own(bytes) => bytes.is_none(),
            Kind::Relay(relay) => relay.is_end_stream(),
            Kind::Untold(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Kind::Relay(relay) => relay.size_hint(),
            Kind::Untold(length) => SizeHint::with_exact(*length),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let complete = matches!(self.kind, Kind::Untold(_)) || http_body::Body::is_end_stream(self);
        if let Some(exchange) = &mut self.exchange {
            exchange.complete |= complete;
        }
    }
}

/// Takes the body from an answer of our own to `HEAD`, and leaves its length (RFC 9110 §9.3.2): HTTP/2 would send both.
pub(super) fn silence(response: &mut Response<Body>) {
    if let Kind::Own(bytes) = &mut response.body_mut().kind
        && let Some(bytes) = bytes.take()
    {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    }
}

/// Lets a 304 tell the length of what has not changed (RFC 9110 §8.6). hyper writes a length in HTTP/1 only for a body
/// that has it, and asks for nothing of that where the status permits none.
pub(super) fn keep_length(response: &mut Response<Body>) {
    if response.status() == StatusCode::NOT_MODIFIED
        && let Some(length) = response.headers().get(header::CONTENT_LENGTH)
        && let Some(length) = length.to_str().ok().and_then(|length| length.parse().ok())
    {
        response.body_mut().kind = Kind::Untold(length);
    }
}

/// Takes from trailers what is taken from heads.
fn clean(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        hop::strip_trailers(trailers, inject::is_name);
    }
    frame
}

/// What the access log will say, where there is one.
#[derive(Debug)]
struct Line {
    facts: access::Exchange,
    logs: Rc<Logs>,
}

/// One request with its answer, from the first look at the request to the last byte of the answer.
#[derive(Debug)]
pub struct Exchange {
    /// What the log calls it.
    pub id: RequestId,
    begun: Instant,
    line: Option<Box<Line>>,
    route: Route,
    part: Part,
    sent: u64,
    received: u64,
    complete: bool,
    /// A pause that was too long ended it.
    stalled: bool,
    meter: Option<Meter>,
    /// What a tunnel carries.
    carried: Option<Rc<Carried>>,
    /// Held until the exchange is over.
    in_flight: InFlight,
}

/// What an exchange has come to.
#[derive(Debug, Clone, Copy)]
enum Part {
    /// No answer yet.
    Question,
    /// The answer with this status.
    Answer(StatusCode),
    /// The tunnel behind an answer with this status, and how it ended.
    Tunnel(StatusCode, TunnelEnd),
}

impl Part {
    const fn status(self) -> Option<StatusCode> {
        match self {
            Self::Question => None,
            Self::Answer(status) | Self::Tunnel(status, _) => Some(status),
        }
    }
}

impl Exchange {
    /// Begins with a request.
    #[must_use]
    pub fn begin(request: &http::Request<Incoming>, client: IpAddr, peer: &Peer, logs: &Rc<Logs>) -> Self {
        let id = RequestId::next();
        let line = logs.access().then(|| {
            let facts = access::Exchange {
                id,
                client,
                method: request.method().clone(),
                host: String::new(),
                target: request.uri().path_and_query().map_or_else(|| request.uri().to_string(), ToString::to_string),
                version: request.version(),
                upstream: "-",
                status: 0,
                sent: 0,
                received: 0,
                duration: std::time::Duration::ZERO,
                ended: Ended::Aborted,
                reason: None,
            };
            Box::new(Line { facts, logs: Rc::clone(logs) })
        });
        let in_flight = peer.vitals.begin();
        Self {
            id,
            begun: Instant::now(),
            line,
            route: Route::Own,
            part: Part::Question,
            sent: 0,
            received: 0,
            complete: false,
            stalled: false,
            meter: None,
            carried: None,
            in_flight,
        }
    }

    /// Notes which host the request is for.
    pub fn is_for(&mut self, host: &str) {
        if let Some(line) = &mut self.line {
            host.clone_into(&mut line.facts.host);
        }
    }

    /// Notes which upstream serves it.
    pub(super) fn goes_to(&mut self, to: To) {
        self.route = match to {
            To::App => Route::App,
            To::Pbx => Route::Pbx,
        };
        if let Some(line) = &mut self.line {
            line.facts.upstream = to.name();
        }
    }

    /// Notes who answers it, where that is no upstream alone.
    pub(super) const fn is_answered_by(&mut self, route: Route) {
        self.route = route;
    }

    /// Notes why the answer is one of our own.
    pub fn because(&mut self, reason: &'static str) {
        if let Some(line) = &mut self.line {
            line.facts.reason = Some(reason);
        }
    }

    /// Lets the exchange end with the body of this answer.
    #[must_use]
    pub fn end_with(mut self, mut response: Response<Body>) -> Response<Body> {
        self.part = Part::Answer(response.status());
        self.tally().answered(self.route, self.begun.elapsed());
        response.body_mut().exchange = Some(self);
        response
    }

    /// Notes where the bytes of the request's body are counted.
    pub fn receives(&mut self, meter: Option<Meter>) {
        // What was read before it was passed on stays counted.
        self.meter = meter.or_else(|| self.meter.take());
    }

    /// Tells whether some of the request's body is still to come.
    #[must_use]
    pub fn is_receiving(&self) -> bool {
        self.meter.as_ref().is_some_and(|meter| !meter.is_done())
    }

    /// Hands the rest of the exchange to a tunnel: it ends with that, not with the answer of this status that agreed to it.
    #[must_use]
    pub fn split(&mut self, status: StatusCode) -> Self {
        self.tally().tunnel_opened();
        Self {
            line: self.line.take(),
            // Until its connection tells otherwise.
            part: Part::Tunnel(status, TunnelEnd::Cut),
            meter: None,
            carried: Some(Rc::default()),
            in_flight: self.in_flight.again(),
            ..*self
        }
    }

    /// Returns where the bytes of its tunnel are counted.
    #[must_use]
    pub fn carried(&self) -> Rc<Carried> {
        self.carried.clone().unwrap_or_default()
    }

    /// Notes why its tunnel ended.
    pub const fn ended(&mut self, end: TunnelEnd) {
        if let Part::Tunnel(_, why) = &mut self.part {
            *why = end;
        }
    }

    /// Tells how it ended, as the log says it.
    fn ending(&self) -> Ended {
        match self.part {
            Part::Tunnel(_, TunnelEnd::Closed) => Ended::Complete,
            Part::Tunnel(_, TunnelEnd::Frozen) => Ended::Frozen,
            Part::Tunnel(_, TunnelEnd::Idle | TunnelEnd::Stalled) => Ended::Stalled,
            Part::Question | Part::Answer(_) if self.complete => Ended::Complete,
            Part::Question | Part::Answer(_) if self.stalled || self.in_flight.is_stalled() => Ended::Stalled,
            Part::Tunnel(_, TunnelEnd::Cut) | Part::Question | Part::Answer(_) if self.in_flight.is_drained() => {
                Ended::Drained
            }
            Part::Tunnel(_, TunnelEnd::Cut | TunnelEnd::Failed) | Part::Question | Part::Answer(_) => Ended::Aborted,
        }
    }

    fn tally(&self) -> &Tally {
        self.in_flight.tally()
    }

    fn count(&self) {
        let tally = self.tally();
        tally.carried(self.received, self.sent);
        match self.part {
            Part::Question | Part::Answer(_) => tally.exchange(self.route, self.part.status(), self.complete),
            Part::Tunnel(_, end) => tally.tunnel_ended(end),
        }
    }

    fn note(&mut self, frame: &Result<Frame<Bytes>, Cut>) {
        match frame {
            Ok(frame) => {
                if let Some(data) = frame.data_ref() {
                    self.sent += data.len() as u64;
                }
            }
            Err(cut) => {
                self.stalled |= matches!(cut, Cut::Stalled);
                tracing::warn!(id = %self.id, error = cut as &dyn std::error::Error, "answer cut off");
            }
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(meter) = &self.meter {
            self.received = meter.bytes();
        }
        if let Some(carried) = &self.carried {
            (self.received, self.sent) = (carried.up(), carried.down());
        }
        self.count();
        let ended = self.ending();
        let Some(mut line) = self.line.take() else { return };
        line.facts.duration = self.begun.elapsed();
        line.facts.status = self.part.status().map_or(0, |status| status.as_u16());
        (line.facts.received, line.facts.sent) = (self.received, self.sent);
        line.facts.ended = ended;
        line.logs.write_access(&line.facts);
    }
}

/// Tells whether a connection of this version ends by a field, rather than by a frame.
pub(super) const fn closes_by_field(version: Version) -> bool {
    matches!(version, Version::HTTP_10 | Version::HTTP_11)
}

/// Tells whether only its end will tell how long a body is.
pub(super) fn has_unknown_length(body: &Payload) -> bool {
    !http_body::Body::is_end_stream(body) && http_body::Body::size_hint(body).exact().is_none()
}
