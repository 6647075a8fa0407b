//! The metadata and keys of a provider. A task fetches them; while the provider fails, the last good ones stay in use.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode, Uri};
use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use super::metadata::{BadDocument, DiscoveryDocument, Metadata};
use crate::backoff;
use crate::config;
use crate::model::jwt::{JwtKeyError, VerificationKeys};
use crate::observe::causes;
use crate::observe::metrics::Freshness;
use crate::upstream::{FetchError, Fetcher};

/// The deadline of one request to a provider.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long a login waits for the first fetch, or for new keys.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the metadata is used before it is fetched again.
const FRESH: Duration = Duration::from_secs(3600);
/// The pause after the first failure. It doubles with each further failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause after failures in a row.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// The shortest time between two fetches because of a signature by an unknown key.
const HURRY: Duration = Duration::from_secs(30);

/// The result of the fetches so far.
#[derive(Debug, Clone)]
enum Discovery {
    /// The first fetch has not ended.
    Pending,
    /// No fetch has succeeded.
    Failed,
    /// The metadata, and when it was fetched.
    Known(Arc<Metadata>, Instant),
}

/// What one fetch brought.
#[derive(Debug)]
pub(crate) struct Discovered {
    pub(crate) metadata: Metadata,
    /// The fields of the answer with the discovery document.
    pub(crate) headers: HeaderMap,
}

/// One provider. All workers share it.
#[derive(Debug)]
pub(crate) struct Provider {
    issuer: String,
    trust: config::Trust,
    fetcher: Fetcher,
    discovery: watch::Sender<Discovery>,
    hurry: Notify,
    freshness: Arc<Freshness>,
}

impl Provider {
    /// Prepares to fetch from a provider.
    ///
    /// # Errors
    /// When a certificate of `ca` cannot be a trust root.
    pub(crate) fn new(settings: &config::OidcConfig) -> Result<Self, rustls::Error> {
        Ok(Self {
            issuer: settings.issuer.clone(),
            trust: settings.trust.clone(),
            fetcher: Fetcher::new(&settings.trust, DEADLINE, settings.outbound_proxy.clone())?,
            discovery: watch::Sender::new(Discovery::Pending),
            hurry: Notify::new(),
            freshness: Arc::default(),
        })
    }

    /// Tells whether another has the same issuer and the same trust.
    #[must_use]
    pub(crate) fn is_as(&self, other: &Self) -> bool {
        self.issuer == other.issuer && self.trust == other.trust
    }

    /// Returns what is known of its fetches.
    #[must_use]
    pub(in crate::auth) fn freshness(&self) -> Arc<Freshness> {
        Arc::clone(&self.freshness)
    }

    /// Fetches the metadata whenever it is due. Never returns.
    pub(in crate::auth) async fn keep_fresh(self: Arc<Self>) {
        let mut failures = 0_u32;
        loop {
            let found = self.discover().await;
            self.freshness.note(found.as_ref().err().map(|error| causes(error)), Timestamp::now());
            let wait = match found {
                Ok(found) => {
                    self.discovery.send_replace(Discovery::Known(Arc::new(found.metadata), Instant::now()));
                    failures = 0;
                    FRESH
                }
                Err(error) => {
                    self.miss(&error);
                    failures = failures.saturating_add(1);
                    backoff::after(failures, FIRST_PAUSE, MAX_PAUSE)
                }
            };
            tokio::select! {
                () = sleep(backoff::jittered(wait)) => {}
                () = self.hurry.notified() => {}
            }
        }
    }

    /// Fetches the metadata and the keys.
    async fn discover(&self) -> Result<Discovered, DiscoveryError> {
        let address = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
        let address = address.parse().map_err(|_| FetchError::Url("it is not an address"))?;
        let answer = self.get(address, "discovery document").await?;
        let document = DiscoveryDocument::read(answer.body(), &self.issuer)?;
        let keys = self.get(document.jwks_uri().clone(), "key set").await?;
        let (keys, skipped) = VerificationKeys::of_set(keys.body())?;
        tracing::debug!(issuer = self.issuer, keys = keys.count(), skipped, "asked the identity provider");
        Ok(Discovered { metadata: Metadata { document, keys }, headers: answer.into_parts().0.headers })
    }

    async fn get(&self, address: Uri, what: &'static str) -> Result<Response<Bytes>, DiscoveryError> {
        let mut request = Request::new(Bytes::new());
        *request.uri_mut() = address;
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let answer = self.fetch(request).await?;
        match answer.status() {
            StatusCode::OK => Ok(answer),
            status => Err(DiscoveryError::Status(what, status)),
        }
    }

    /// Fetches the metadata once, for `callgate check`.
    ///
    /// # Errors
    /// When the provider cannot be used for logins.
    pub(crate) async fn try_once(&self) -> Result<Discovered, DiscoveryError> {
        self.discover().await
    }

    fn miss(&self, reason: &(dyn Error + 'static)) {
        tracing::warn!(issuer = self.issuer, error = reason, "the identity provider cannot be asked");
        self.discovery.send_if_modified(|found| {
            let is_first = matches!(found, Discovery::Pending);
            if is_first {
                *found = Discovery::Failed;
            }
            is_first
        });
    }

    /// Returns the metadata. Waits for the first fetch, at most [`PATIENCE`].
    pub(super) async fn known(&self) -> Option<Arc<Metadata>> {
        let mut found = self.discovery.subscribe();
        let settled = timeout(PATIENCE, found.wait_for(|found| !matches!(found, Discovery::Pending))).await;
        match &*settled.ok()?.ok()? {
            Discovery::Known(metadata, _) => Some(Arc::clone(metadata)),
            Discovery::Pending | Discovery::Failed => None,
        }
    }

    /// Fetches the metadata early and returns it. `None`: it is younger than [`HURRY`], or the fetch fails.
    pub(super) async fn renewed(&self) -> Option<Arc<Metadata>> {
        let mut found = self.discovery.subscribe();
        let before = match &*found.borrow_and_update() {
            Discovery::Known(_, at) if at.elapsed() >= HURRY => *at,
            _ => return None,
        };
        self.hurry.notify_one();
        let is_newer = |found: &Discovery| matches!(found, Discovery::Known(_, at) if *at > before);
        match &*timeout(PATIENCE, found.wait_for(is_newer)).await.ok()?.ok()? {
            Discovery::Known(metadata, _) => Some(Arc::clone(metadata)),
            Discovery::Pending | Discovery::Failed => None,
        }
    }

    /// Sends a request to one of the provider's endpoints.
    pub(super) async fn fetch(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, FetchError> {
        let agent = HeaderValue::from_static(concat!("callgate/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().insert(header::USER_AGENT, agent);
        self.fetcher.fetch(request).await
    }
}

/// An error of one fetch. It never contains a text of the provider.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiscoveryError {
    /// The provider gave no answer.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The status of an answer is not 200.
    #[error("its {0} is answered with {1}")]
    Status(&'static str, StatusCode),
    /// The document cannot be used.
    #[error(transparent)]
    Document(#[from] BadDocument),
    /// The keys cannot be used.
    #[error("its key set {0}")]
    Keys(#[from] JwtKeyError),
}
