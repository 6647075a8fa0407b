//! Floor 5: one client connection and its exchanges, as the server and the proxy both see them.

mod activity;
mod body;
mod connection;
mod interim;

use std::net::IpAddr;
use std::rc::Rc;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::Frame;
use hyper::body::Incoming;
use tokio::time::Instant;

pub use self::activity::{InFlight, Vitals};
pub use self::body::{Body, closes_by_field, has_unknown_length, keep_length, silence};
pub use self::connection::{FarEnd, Peer, Tunnel};
pub use self::interim::Interims;
use crate::model::upstream_name::UpstreamName;
use crate::observe::access::{self, Ended};
use crate::observe::metrics::{Route, Tally, TunnelEnd};
use crate::observe::{Logs, RequestId};
use crate::upstream::{BodyError, Meter, TunnelBytes};

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
    carried: Option<Rc<TunnelBytes>>,
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
    pub fn goes_to(&mut self, side: UpstreamName) {
        self.route = match side {
            UpstreamName::App => Route::App,
            UpstreamName::Pbx => Route::Pbx,
        };
        if let Some(line) = &mut self.line {
            line.facts.upstream = side.as_str();
        }
    }

    /// Notes who answers it, where that is no upstream alone.
    pub const fn is_answered_by(&mut self, route: Route) {
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
    pub fn carried(&self) -> Rc<TunnelBytes> {
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

    fn note(&mut self, frame: &Result<Frame<Bytes>, BodyError>) {
        match frame {
            Ok(frame) => {
                if let Some(data) = frame.data_ref() {
                    self.sent += data.len() as u64;
                }
            }
            Err(cut) => {
                self.stalled |= matches!(cut, BodyError::Stalled);
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
