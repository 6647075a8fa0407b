//! Opens connections to one upstream: at the endpoint that `policy` chooses, and at the next one if that fails.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::header::HOST;
use http::{HeaderValue, Request, Response};
use rustls::ProtocolVersion;
use tokio::time::{Instant, sleep, timeout};

use super::CLOSED_AT_ONCE;
use super::choice::{Chooser, EndpointChoice, EndpointIndex, ExchangeCounts, UnderWay, turns_until};
use super::endpoint::Endpoint;
use super::error::{ConnectError, Error};
use super::fetch::{self, FetchError};
use super::io::{Transport, UpstreamIo};
use super::permits::{ConnectionPermits, Requester};
use crate::config::{self, Pin};
use crate::descriptors::{self, DescriptorPermit};
use crate::model::upstream_name::UpstreamName;
use crate::observe::metrics::UrlExchanges;

/// A worker that tries an endpoint again has the time to connect and this much more, before another worker may try.
const GRACE: Duration = Duration::from_secs(1);
/// The pause before it is checked again whether a file descriptor is free.
const AGAIN: Duration = Duration::from_millis(20);

/// The endpoints of one upstream, their health, and the permits for connections to them, shared by all workers.
#[derive(Debug, Clone)]
pub(crate) struct Connector(Arc<SharedUpstream>);

#[derive(Debug)]
struct SharedUpstream {
    /// In the order of the configuration, never empty.
    endpoints: Vec<Endpoint>,
    /// The exchanges that were under way at URLs of earlier configurations, for the case that such a `url` returns.
    former: Vec<FormerUrl>,
    chooser: Chooser,
    permits: Arc<ConnectionPermits>,
    deadline: Duration,
    /// The health of endpoints counts time from here.
    begun: Instant,
}

/// A `url` that a reload has removed while exchanges were under way there.
#[derive(Debug, Clone)]
struct FormerUrl {
    address: Arc<str>,
    exchanges: Arc<UrlExchanges>,
}

/// What is known about one endpoint of several.
#[derive(Debug)]
pub(crate) struct EndpointReport {
    /// Whether it is chosen for exchanges.
    pub is_healthy: bool,
    /// The exchanges under way there, of all workers.
    pub exchanges: Arc<UrlExchanges>,
}

/// The result of looking at one endpoint.
#[derive(Debug)]
pub(crate) struct EndpointProbe {
    /// Whether it can be connected to, as configured; the version of TLS, where it speaks that.
    pub connected: Result<Option<ProtocolVersion>, ConnectError>,
    /// How long connecting took.
    pub took: Duration,
    /// The pin of the certificate it shows, whether that is trusted or not.
    pub pin: Option<Pin>,
}

impl Connector {
    /// Prepares to connect to one upstream.
    ///
    /// # Errors
    /// When its trust roots cannot be used, or TLS cannot check its name.
    pub(crate) fn new(upstream: &config::UpstreamConfig, name: UpstreamName) -> Result<Self, rustls::Error> {
        Self::after(None, upstream, name)
    }

    /// Prepares to connect to the same upstream with other settings. Exchanges that are under way at a `url` go on counting
    /// there, also when a later configuration brings it back.
    ///
    /// # Errors
    /// As [`Connector::new`].
    pub(crate) fn successor(
        &self,
        upstream: &config::UpstreamConfig,
        name: UpstreamName,
    ) -> Result<Self, rustls::Error> {
        Self::after(Some(self), upstream, name)
    }

    fn after(
        before: Option<&Self>,
        upstream: &config::UpstreamConfig,
        name: UpstreamName,
    ) -> Result<Self, rustls::Error> {
        let mut former = before.map(Self::urls_in_use).unwrap_or_default();
        let mut endpoint = |url: &config::UpstreamUrl| {
            let address = url.address();
            let known = former.iter().position(|former| *former.address == *address);
            let exchanges = known.map(|known| former.swap_remove(known).exchanges);
            Endpoint::new(url, &upstream.trust, exchanges.unwrap_or_default())
        };
        let endpoints = upstream.urls.iter().map(&mut endpoint).collect::<Result<_, _>>()?;
        let permits = ConnectionPermits::new(upstream.max_connections, name);
        Ok(Self(Arc::new(SharedUpstream {
            endpoints,
            former,
            chooser: Chooser::new(upstream.policy),
            permits,
            deadline: upstream.timeouts.connect,
            begun: Instant::now(),
        })))
    }

    /// Returns the URLs at which exchanges are under way, of this configuration and of earlier ones.
    fn urls_in_use(&self) -> Vec<FormerUrl> {
        let own = self.0.endpoints.iter().map(|endpoint| FormerUrl {
            address: Arc::clone(&endpoint.address),
            exchanges: Arc::clone(&endpoint.exchanges),
        });
        own.chain(self.0.former.iter().cloned()).filter(|former| former.exchanges.count() > 0).collect()
    }

    // === Which endpoint ===

    /// Chooses the endpoint of an exchange, which counts there from now on.
    pub(super) fn choose(&self) -> EndpointChoice {
        if !self.has_choice() {
            let index = EndpointIndex::default();
            return EndpointChoice { index, is_last_resort: false, under_way: self.begin_exchange(index) };
        }
        let (count, exchanges) = (self.count(), |index: usize| self.0.endpoints[index].exchanges.count());
        let healthy = self.0.chooser.choose(count, |index| self.is_healthy(index), exchanges);
        let chosen = healthy.or_else(|| self.0.chooser.choose(count, |_| true, exchanges));
        let index = EndpointIndex(chosen.expect("an upstream has at least one endpoint"));
        EndpointChoice { index, is_last_resort: healthy.is_none(), under_way: self.begin_exchange(index) }
    }

    /// Chooses the endpoint at which an exchange is tried again: the one of its last connection, if that is healthy.
    pub(super) fn choose_again(&self, last: EndpointIndex) -> EndpointChoice {
        if self.0.chooser.prefers_first() || !self.is_healthy(last.0) {
            return self.choose();
        }
        EndpointChoice { index: last, is_last_resort: false, under_way: self.begin_exchange(last) }
    }

    /// Counts an exchange at an endpoint, if the count can matter: there are others, or a reload may add them.
    pub(super) fn begin_exchange(&self, index: EndpointIndex) -> Option<UnderWay> {
        let counts = self.has_choice() || self.0.chooser.compares_exchanges();
        counts.then(|| UnderWay::begin(&self.endpoint(index).exchanges))
    }

    /// Counts an exchange at the endpoint that it has come to.
    pub(super) fn settle(&self, choice: EndpointChoice, at: EndpointIndex) -> Option<UnderWay> {
        if choice.index == at { choice.under_way } else { self.begin_exchange(at) }
    }

    /// Returns what is known about each endpoint, if there are several.
    pub(crate) fn reports(&self) -> Vec<EndpointReport> {
        let report = |endpoint: &Endpoint| EndpointReport {
            is_healthy: endpoint.health.is_healthy(),
            exchanges: Arc::clone(&endpoint.exchanges),
        };
        let endpoints = self.has_choice().then_some(&self.0.endpoints).into_iter().flatten();
        endpoints.map(report).collect()
    }

    // === Connections ===

    /// Opens a connection for an exchange. One deadline covers the wait for a permit and the attempts at all endpoints.
    ///
    /// The chosen endpoint is tried first, then the other healthy ones; the others are tried last rather than never. Each
    /// attempt may take its share of the time that is left.
    pub(super) async fn connect(
        &self,
        requester: &Requester,
        choice: EndpointChoice,
    ) -> Result<(UpstreamIo, EndpointIndex, ExchangeCounts), Error> {
        let due = Instant::now() + self.0.deadline;
        let (permit, usage) = self.0.permits.acquire(requester, due).await.ok_or(Error::Full)?;
        let descriptor = descriptor(due).await.ok_or(Error::Full)?;
        let (transport, index) = self.reach_any(choice.index, due).await?;
        let counts = ExchangeCounts { _usage: Some(usage), under_way: self.settle(choice, index) };
        Ok((UpstreamIo::new(transport, Some(permit), descriptor), index, counts))
    }

    /// Connects to the first endpoint that can be reached.
    async fn reach_any(&self, chosen: EndpointIndex, due: Instant) -> Result<(Transport, EndpointIndex), Error> {
        let order = self.order(chosen);
        let mut failure = None;
        for (index, shares) in order.iter().copied().zip((1..=order.len() as u32).rev()) {
            let share = due.saturating_duration_since(Instant::now()) / shares;
            match self.reach(index, share).await {
                Ok(transport) => return Ok((transport, index)),
                Err(source) => {
                    failure = Some(Error::Connect { to: Arc::clone(&self.endpoint(index).address), source });
                }
            }
        }
        Err(failure.expect("an upstream has at least one endpoint"))
    }

    /// Sends a request for callgate itself over a connection of its own, from any thread, and returns the whole answer. Its
    /// body may have `longest` bytes. If the request has no `Host`, it gets that of the endpoint's `url`.
    ///
    /// # Errors
    /// When there is no connection, or no whole answer.
    pub(crate) async fn send_once(
        &self,
        mut request: Request<Bytes>,
        longest: usize,
    ) -> Result<Response<Bytes>, Error> {
        let due = Instant::now() + self.0.deadline;
        let _permit = self.0.permits.acquire(&Requester::Gate, due).await.ok_or(Error::Full)?;
        let _descriptor = descriptor(due).await.ok_or(Error::Full)?;
        let choice = self.choose();
        let (transport, index) = self.reach_any(choice.index, due).await?;
        let _under_way = self.settle(choice, index);
        if !request.headers().contains_key(HOST) {
            request.headers_mut().insert(HOST, self.host(index));
        }
        let answer = match transport {
            Transport::Plain(stream) => fetch::send_once(stream, request, longest).await,
            Transport::Tls(stream) => fetch::send_once(stream, request, longest).await,
            Transport::Unix(stream) => fetch::send_once(stream, request, longest).await,
        };
        answer.map_err(|error| match error {
            FetchError::Broken(error) => Error::Broken(error.into()),
            FetchError::Url(_)
            | FetchError::Connect(_)
            | FetchError::Proxy(_)
            | FetchError::Body
            | FetchError::Timeout => Error::BadResponse("it is too long, or it broke off"),
        })
    }

    /// Returns how long connecting may take.
    pub(super) fn deadline(&self) -> Duration {
        self.0.deadline
    }

    /// Returns how many endpoints there are.
    pub(super) fn count(&self) -> usize {
        self.0.endpoints.len()
    }

    /// Tells whether a waiting request could have a connection if an idle one were closed.
    pub(super) fn lacks_idle(&self) -> bool {
        self.0.permits.lacks_idle()
    }

    /// Tells whether a request waits while all permits are in use.
    pub(super) fn is_full(&self) -> bool {
        self.0.permits.is_full()
    }

    /// Returns the permits for connections to this upstream.
    pub(super) fn permits(&self) -> &Arc<ConnectionPermits> {
        &self.0.permits
    }

    /// Returns the `Host` of an endpoint.
    pub(super) fn host(&self, index: EndpointIndex) -> HeaderValue {
        self.endpoint(index).host.clone()
    }

    // === Health ===

    /// Notes that a connection gave a valid answer.
    pub(super) fn answered(&self, index: EndpointIndex) {
        if self.has_choice() {
            self.endpoint(index).health.answered();
        }
    }

    /// Notes that a connection gave no valid answer.
    pub(super) fn broke(&self, index: EndpointIndex, error: &Error) {
        if self.has_choice() && self.endpoint(index).health.broke(self.now()) {
            self.warn_passed_over(index, error);
        }
    }

    /// Notes that a new connection was closed at once. Tells whether there is another endpoint to try.
    pub(super) fn closed_at_once(&self, index: EndpointIndex) -> bool {
        let reason = Error::BadResponse(CLOSED_AT_ONCE);
        if self.has_choice() && self.endpoint(index).health.unreachable(self.now()) {
            self.warn_passed_over(index, &reason);
        }
        (0..self.count()).any(|other| other != index.0 && self.is_healthy(other))
    }

    /// Returns an endpoint that was passed over for long enough. The caller is to try it.
    pub(super) fn claim(&self) -> Option<EndpointIndex> {
        let lease = self.0.deadline + GRACE;
        let due = |endpoint: &Endpoint| endpoint.health.claim(self.now(), lease);
        self.0.endpoints.iter().position(due).map(EndpointIndex)
    }

    /// Tries to connect to an endpoint that was claimed. No request is sent.
    pub(super) async fn try_again(self, index: EndpointIndex) {
        if self.reach(index, self.0.deadline).await.is_err() {
            self.endpoint(index).health.still_unreachable(self.now());
        }
    }

    /// Checks that some endpoint can be reached, as far as is known. Endpoints that could not be are tried again
    /// meanwhile.
    ///
    /// # Errors
    /// Names the endpoints, when none can be reached.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.0.endpoints.iter().any(|endpoint| endpoint.health.is_healthy()) {
            return Ok(());
        }
        let addresses: Vec<_> = self.0.endpoints.iter().map(|endpoint| &*endpoint.address).collect();
        Err(format!("cannot reach {}", addresses.join(", ")))
    }

    /// Connects to every endpoint, healthy or not, and looks at its certificate. Returns them in the order of `url`.
    pub(crate) async fn probe_all(&self) -> Vec<EndpointProbe> {
        join_all(self.0.endpoints.iter().map(|endpoint| probe(endpoint, self.0.deadline))).await
    }

    /// Finds the endpoints with an `http://` address that speak TLS.
    pub(crate) async fn plain_urls_that_speak_tls(&self) -> Vec<Arc<str>> {
        let mut found = Vec::new();
        for endpoint in &self.0.endpoints {
            if timeout(self.0.deadline, endpoint.speaks_tls()).await == Ok(true) {
                found.push(Arc::clone(&endpoint.address));
            }
        }
        found
    }

    async fn reach(&self, index: EndpointIndex, deadline: Duration) -> Result<Transport, ConnectError> {
        let (endpoint, has_choice) = (self.endpoint(index), self.has_choice());
        let opened = open(endpoint, deadline).await;
        match &opened {
            Ok(_) if endpoint.health.reached() && has_choice => {
                tracing::info!(to = %endpoint.address, "an upstream can be reached again")
            }
            Err(error) if endpoint.health.unreachable(self.now()) && has_choice => self.warn_passed_over(index, error),
            Ok(_) | Err(_) => {}
        }
        opened
    }

    fn warn_passed_over(&self, index: EndpointIndex, error: &(dyn std::error::Error + 'static)) {
        let address = &self.endpoint(index).address;
        tracing::warn!(to = %address, error, "an upstream is passed over until it can be reached again");
    }

    /// Returns the endpoints in the order in which a new connection tries them.
    fn order(&self, chosen: EndpointIndex) -> Vec<EndpointIndex> {
        let begin = if self.0.chooser.prefers_first() { 0 } else { chosen.0 };
        let mut order: Vec<_> = (0..self.count()).map(EndpointIndex).collect();
        order.sort_by_key(|index| (!self.is_healthy(index.0), turns_until(index.0, begin, self.count())));
        order
    }

    fn is_healthy(&self, index: usize) -> bool {
        self.0.endpoints[index].health.is_healthy()
    }

    fn endpoint(&self, index: EndpointIndex) -> &Endpoint {
        &self.0.endpoints[index.0]
    }

    /// Tells whether there is more than one endpoint. The health of a single one does not matter.
    fn has_choice(&self) -> bool {
        self.count() > 1
    }

    fn now(&self) -> Duration {
        self.0.begun.elapsed()
    }
}

/// Waits for a file descriptor. It polls, since a lack of them is rare.
pub(super) async fn descriptor(due: Instant) -> Option<DescriptorPermit> {
    loop {
        match descriptors::acquire_for_upstream() {
            Some(descriptor) => return Some(descriptor),
            None if Instant::now() >= due => return None,
            None => sleep(AGAIN).await,
        }
    }
}

async fn probe(endpoint: &Endpoint, deadline: Duration) -> EndpointProbe {
    let begun = Instant::now();
    let connected = open(endpoint, deadline).await.map(|transport| transport.tls_version());
    let took = begun.elapsed();
    let pin = timeout(deadline, endpoint.pin()).await.ok().flatten().and_then(Result::ok);
    EndpointProbe { connected, took, pin }
}

async fn open(endpoint: &Endpoint, deadline: Duration) -> Result<Transport, ConnectError> {
    timeout(deadline, endpoint.open()).await.unwrap_or(Err(ConnectError::Timeout))
}
