//! Opens connections to one upstream: at the first of its places that is well, at another one if that fails.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::time::{Instant, sleep, timeout};

use super::Error;
use super::endpoint::Endpoint;
use super::io::{Transport, UpstreamIo};
use super::permits::{ConnectionPermits, CountGuard, Requester};
use crate::config::{self, Pin};
use crate::descriptors::{self, DescriptorPermit};
use crate::model::upstream_name::UpstreamName;

/// How much longer than a connection may take, a worker that tries a place again is waited for before another one does.
const GRACE: Duration = Duration::from_secs(1);
/// How soon it is looked again whether there is a file descriptor.
const AGAIN: Duration = Duration::from_millis(20);

/// Where one upstream is, and what all workers know of it: how its places are, and how many connections it may have.
///
/// Cheap to copy to every worker.
#[derive(Debug, Clone)]
pub struct Connector(Arc<SharedUpstream>);

#[derive(Debug)]
struct SharedUpstream {
    /// In the order of preference, never empty.
    endpoints: Vec<Endpoint>,
    slots: Arc<ConnectionPermits>,
    deadline: Duration,
    /// The beginning of time, as the health of places counts it.
    begun: Instant,
}

/// Which of an upstream's places a connection leads to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct EndpointIndex(usize);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name is not known, nobody listens there, or TLS failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Not in time.
    #[error("no connection in time")]
    Timeout,
}

/// What is seen of one place.
#[derive(Debug)]
pub struct EndpointProbe {
    /// Where it is.
    pub address: Arc<str>,
    /// Whether it can be connected to, as configured.
    pub connected: Result<(), ConnectError>,
    /// The pin of the certificate it shows, whatever that is worth.
    pub pin: Option<Pin>,
}

impl Connector {
    /// Prepares for one upstream.
    ///
    /// # Errors
    /// When its trust roots cannot be used, or its name is none that TLS can check.
    pub fn new(upstream: &config::UpstreamConfig, side: UpstreamName) -> Result<Self, rustls::Error> {
        let endpoints =
            upstream.urls.iter().map(|url| Endpoint::new(url, &upstream.trust)).collect::<Result<_, _>>()?;
        let slots = ConnectionPermits::new(upstream.max_connections, index(side));
        Ok(Self(Arc::new(SharedUpstream {
            endpoints,
            slots,
            deadline: upstream.timeouts.connect,
            begun: Instant::now(),
        })))
    }

    /// Opens a connection, under one deadline for waiting until there may be one and for all places together.
    ///
    /// Places that are well come first, in their order; those that are not come last, so that nobody is turned away
    /// before all have been tried. Each may take its share of the time that is left.
    pub(super) async fn connect(&self, tenant: &Requester) -> Result<(UpstreamIo, EndpointIndex, CountGuard), Error> {
        let due = Instant::now() + self.0.deadline;
        let (slot, tenancy) = self.0.slots.take(tenant, due).await.ok_or(Error::Full)?;
        let descriptor = descriptor(due).await.ok_or(Error::Full)?;
        let order = self.order();
        let mut failure = None;
        for (at, shares) in order.iter().copied().zip((1..=order.len() as u32).rev()) {
            let share = due.saturating_duration_since(Instant::now()) / shares;
            match self.reach(at, share).await {
                Ok(io) => return Ok((UpstreamIo::new(io, slot, descriptor), at, tenancy)),
                Err(source) => failure = Some(Error::Connect { to: Arc::clone(&self.at(at).address), source }),
            }
        }
        Err(failure.expect("an upstream has at least one place"))
    }

    /// Returns how long a connection may take.
    pub(super) fn deadline(&self) -> Duration {
        self.0.deadline
    }

    /// Tells whether a connection to this place is as good as a new one: there is no place before it that is well.
    pub(super) fn is_best(&self, at: EndpointIndex) -> bool {
        !self.has_choice()
            || self.0.endpoints.iter().position(|endpoint| endpoint.health.is_well()).is_none_or(|best| best == at.0)
    }

    /// Tells whether a connection that ends now lets one begin that somebody waits for.
    pub(super) fn is_crowded(&self) -> bool {
        self.0.slots.is_lacking()
    }

    /// Tells whether somebody waits while there are as many connections as may be.
    pub(super) fn is_full(&self) -> bool {
        self.0.slots.is_full()
    }

    /// Returns who may have how many connections.
    pub(super) fn slots(&self) -> &Arc<ConnectionPermits> {
        &self.0.slots
    }

    /// Returns what `Host` calls a place.
    pub(super) fn host(&self, at: EndpointIndex) -> HeaderValue {
        self.at(at).host.clone()
    }

    // === How the places are ===

    /// Notes that a connection gave a valid answer.
    pub(super) fn answered(&self, at: EndpointIndex) {
        if self.has_choice() {
            self.at(at).health.answered();
        }
    }

    /// Notes that a connection gave none.
    pub(super) fn broke(&self, at: EndpointIndex, error: &Error) {
        if self.has_choice() && self.at(at).health.broke(self.now()) {
            self.tell_fallen(at, error);
        }
    }

    /// Notes that a new connection was closed at once. Tells whether there is another place to try.
    pub(super) fn slammed(&self, at: EndpointIndex) -> bool {
        let reason = Error::Nonsense(super::SLAMMED);
        if self.has_choice() && self.at(at).health.unreachable(self.now()) {
            self.tell_fallen(at, &reason);
        }
        !self.is_best(at)
    }

    /// Returns a place that has been passed over for long enough, for the caller to try.
    pub(super) fn claim(&self) -> Option<EndpointIndex> {
        let lease = self.0.deadline + GRACE;
        let due = |endpoint: &Endpoint| endpoint.health.claim(self.now(), lease);
        self.0.endpoints.iter().position(due).map(EndpointIndex)
    }

    /// Tries to connect to a place that was claimed. No request is sent.
    pub(super) async fn try_again(self, at: EndpointIndex) {
        if self.reach(at, self.0.deadline).await.is_err() {
            self.at(at).health.still_unreachable(self.now());
        }
    }

    /// Tells whether some place can be reached, as far as is known. A place that could not is tried again meanwhile.
    ///
    /// # Errors
    /// The places, when none can.
    pub fn check(&self) -> Result<(), String> {
        if self.0.endpoints.iter().any(|endpoint| endpoint.health.is_well()) {
            return Ok(());
        }
        let addresses: Vec<_> = self.0.endpoints.iter().map(|endpoint| &*endpoint.address).collect();
        Err(format!("cannot reach {}", addresses.join(", ")))
    }

    /// Looks at every place, however it is.
    pub async fn probe_all(&self) -> Vec<EndpointProbe> {
        let mut sights = Vec::new();
        for endpoint in &self.0.endpoints {
            let connected = open(endpoint, self.0.deadline).await.map(drop);
            let pin = timeout(self.0.deadline, endpoint.pin()).await.ok().flatten().and_then(Result::ok);
            sights.push(EndpointProbe { address: Arc::clone(&endpoint.address), connected, pin });
        }
        sights
    }

    /// Finds the places with an `http://` address where TLS is spoken.
    pub async fn plain_urls_that_speak_tls(&self) -> Vec<Arc<str>> {
        let mut found = Vec::new();
        for endpoint in &self.0.endpoints {
            if timeout(self.0.deadline, endpoint.speaks_tls()).await == Ok(true) {
                found.push(Arc::clone(&endpoint.address));
            }
        }
        found
    }

    async fn reach(&self, at: EndpointIndex, deadline: Duration) -> Result<Transport, ConnectError> {
        let (endpoint, has_choice) = (self.at(at), self.has_choice());
        let opened = open(endpoint, deadline).await;
        match &opened {
            Ok(_) if endpoint.health.reached() && has_choice => {
                tracing::info!(to = %endpoint.address, "an upstream can be reached again")
            }
            Err(error) if endpoint.health.unreachable(self.now()) && has_choice => self.tell_fallen(at, error),
            Ok(_) | Err(_) => {}
        }
        opened
    }

    fn tell_fallen(&self, at: EndpointIndex, error: &(dyn std::error::Error + 'static)) {
        tracing::warn!(to = %self.at(at).address, error, "an upstream is passed over until it can be reached again");
    }

    fn order(&self) -> Vec<EndpointIndex> {
        let mut order: Vec<_> = (0..self.0.endpoints.len()).map(EndpointIndex).collect();
        order.sort_by_key(|at| !self.at(*at).health.is_well());
        order
    }

    fn at(&self, at: EndpointIndex) -> &Endpoint {
        &self.0.endpoints[at.0]
    }

    /// Tells whether there is more than one place. Of a single one it does not matter how it is.
    fn has_choice(&self) -> bool {
        self.0.endpoints.len() > 1
    }

    fn now(&self) -> Duration {
        self.0.begun.elapsed()
    }
}

/// Waits for a file descriptor. That there is none is rare, so nobody is woken when there is.
async fn descriptor(due: Instant) -> Option<DescriptorPermit> {
    loop {
        match descriptors::acquire_for_upstream() {
            Some(descriptor) => return Some(descriptor),
            None if Instant::now() >= due => return None,
            None => sleep(AGAIN).await,
        }
    }
}

/// Which of a client's counts is an upstream's.
const fn index(side: UpstreamName) -> usize {
    match side {
        UpstreamName::App => 0,
        UpstreamName::Pbx => 1,
    }
}

async fn open(endpoint: &Endpoint, deadline: Duration) -> Result<Transport, ConnectError> {
    Ok(timeout(deadline, endpoint.open()).await.map_err(|_| ConnectError::Timeout)??)
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn a_refused_connection_is_told_once() {
        let error = ConnectError::from(io::Error::from(io::ErrorKind::ConnectionRefused));
        assert_eq!((error.to_string().as_str(), error.source().is_none()), ("connection refused", true));
    }
}
