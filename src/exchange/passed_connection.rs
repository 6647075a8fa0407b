//! A connection of a client that is passed on before TLS: it is counted and logged when it ends.

use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::activity::{Activity, InFlight};
use super::{cut_off, tunnel_end};
use crate::budget::Ledger;
use crate::observe::access::ExchangeEnd;
use crate::observe::metrics::TunnelEnd;
use crate::observe::passed_connection::PassthroughRecord;
use crate::observe::{Logs, RequestId};
use crate::upstream::{self, TunnelBytes, TunnelTimeouts, Upgraded};

/// One connection that is passed on, from the client's first message to the end. When it is dropped, it is counted and
/// its line is written.
#[derive(Debug)]
pub(crate) struct PassedConnection {
    facts: PassthroughRecord,
    started: Instant,
    carried: TunnelBytes,
    /// How its tunnel ended; `None`: it has none.
    end: Option<TunnelEnd>,
    logs: Rc<Logs>,
    /// Held until the connection is over.
    in_flight: InFlight,
}

impl PassedConnection {
    /// Begins with the client's first message, which names this host.
    #[must_use]
    pub(crate) fn begin(client: IpAddr, name: String, to: Arc<str>, activity: &Rc<Activity>, logs: Rc<Logs>) -> Self {
        let (duration, ended) = (Duration::ZERO, ExchangeEnd::Aborted);
        let id = RequestId::next();
        Self {
            facts: PassthroughRecord { id, client, name, to, sent: 0, received: 0, duration, ended, reason: None },
            started: Instant::now(),
            carried: TunnelBytes::default(),
            end: None,
            logs,
            in_flight: activity.begin_tunnel(),
        }
    }

    /// Records why the connection has no tunnel.
    pub(crate) const fn fail(&mut self, reason: &'static str) {
        self.facts.reason = Some(reason);
    }

    /// Joins the client's end with the target's until the tunnel ends. `first` is what the client has sent so far; `ledger`
    /// counts the memory of the client's connection.
    pub(crate) async fn run<S>(
        mut self,
        client: S,
        first: Bytes,
        target: Upgraded,
        timeouts: TunnelTimeouts,
        ledger: &Ledger,
    ) where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.in_flight.tally().tunnel_opened();
        // Until the tunnel has said how it ended.
        self.end = Some(TunnelEnd::Cut);
        let never = pin!(std::future::pending());
        let joined = pin!(upstream::copy_bidirectional(client, first, target, timeouts, &self.carried, never));
        self.end = Some(ledger.unless_shed(joined).await.unwrap_or(TunnelEnd::Stalled));
    }

    fn ended(&self) -> ExchangeEnd {
        let aborted = self.in_flight.abort_reason();
        self.end.map_or_else(|| cut_off(aborted), |end| tunnel_end(end, aborted))
    }
}

impl Drop for PassedConnection {
    fn drop(&mut self) {
        let (received, sent) = (self.carried.up(), self.carried.down());
        let tally = self.in_flight.tally();
        tally.carried(received, sent);
        if let Some(end) = self.end {
            tally.tunnel_ended(end);
        }
        if !self.logs.access() {
            return;
        }
        self.facts.duration = self.started.elapsed();
        self.facts.ended = self.ended();
        if self.end == Some(TunnelEnd::Idle) {
            self.facts.reason = Some("idle");
        }
        (self.facts.received, self.facts.sent) = (received, sent);
        self.logs.write_passed_connection(&self.facts);
    }
}
