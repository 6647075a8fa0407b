//! What is known of a provider: where its endpoints are, and which keys it signs with. It is fetched apart from any
//! request; through an outage the last that was good is kept.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode, Uri};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use super::metadata::{BadDocument, DiscoveryDocument, Metadata};
use crate::backoff;
use crate::config;
use crate::model::jwt::{JwtKeyError, VerificationKeys};
use crate::upstream::{FetchError, Fetcher};

/// The deadline of one question to a provider.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long a login waits for what is not known yet.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long what is known is taken for true.
const FRESH: Duration = Duration::from_secs(3600);
/// The first pause after a failure. It doubles with each more.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause after failures in a row.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// How often a signature by an unknown key is a reason to ask for new ones.
const HURRY: Duration = Duration::from_secs(30);

/// What was found when it was asked last.
#[derive(Debug, Clone)]
enum Discovery {
    /// It was not asked yet.
    Pending,
    /// It was asked in vain, and never otherwise.
    Failed,
    /// What it told, and when.
    Known(Arc<Metadata>, Instant),
}

/// One provider, for all workers.
#[derive(Debug)]
pub struct Provider {
    issuer: String,
    trust: config::Trust,
    fetcher: Fetcher,
    discovery: watch::Sender<Discovery>,
    hurry: Notify,
}

impl Provider {
    /// Prepares to ask a provider.
    ///
    /// # Errors
    /// When a certificate of `ca` cannot be a trust root.
    pub fn new(settings: &config::OidcConfig) -> Result<Self, rustls::Error> {
        Ok(Self {
            issuer: settings.issuer.clone(),
            trust: settings.trust.clone(),
            fetcher: Fetcher::new(&settings.trust, DEADLINE)?,
            discovery: watch::Sender::new(Discovery::Pending),
            hurry: Notify::new(),
        })
    }

    /// Tells whether another is asked at the same place and trusted by the same rules.
    #[must_use]
    pub fn is_as(&self, other: &Self) -> bool {
        self.issuer == other.issuer && self.trust == other.trust
    }

    /// Keeps what is known of the provider up to date, for ever.
    pub(in crate::auth) async fn keep_fresh(self: Arc<Self>) {
        let mut failures = 0_u32;
        loop {
            let wait = match self.discover().await {
                Ok(metadata) => {
                    self.discovery.send_replace(Discovery::Known(Arc::new(metadata), Instant::now()));
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

    /// Asks the provider for its metadata and its keys.
    async fn discover(&self) -> Result<Metadata, DiscoveryError> {
        let address = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
        let address = address.parse().map_err(|_| FetchError::Url("it is no address"))?;
        let document = DiscoveryDocument::read(&self.get(address, "discovery document").await?, &self.issuer)?;
        let (keys, skipped) = VerificationKeys::of_set(&self.get(document.jwks_uri().clone(), "key set").await?)?;
        tracing::debug!(issuer = self.issuer, keys = keys.count(), skipped, "asked the identity provider");
        Ok(Metadata { document, keys })
    }

    async fn get(&self, address: Uri, what: &'static str) -> Result<Bytes, DiscoveryError> {
        let mut request = Request::new(Bytes::new());
        *request.uri_mut() = address;
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let answer = self.fetch(request).await?;
        match answer.status() {
            StatusCode::OK => Ok(answer.into_body()),
            status => Err(DiscoveryError::Status(what, status)),
        }
    }

    /// Asks the provider once, apart from any gate.
    ///
    /// # Errors
    /// OidcCause nobody could log in there.
    pub async fn try_once(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(self.discover().await.map(drop)?)
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

    /// Returns what is known of the provider; waits a moment if it was not asked yet.
    pub(super) async fn known(&self) -> Option<Arc<Metadata>> {
        let mut found = self.discovery.subscribe();
        let settled = timeout(PATIENCE, found.wait_for(|found| !matches!(found, Discovery::Pending))).await;
        match &*settled.ok()?.ok()? {
            Discovery::Known(metadata, _) => Some(Arc::clone(metadata)),
            Discovery::Pending | Discovery::Failed => None,
        }
    }

    /// Returns what the provider tells now, if what is known is old enough to ask again.
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

    /// Asks one of its endpoints.
    pub(super) async fn fetch(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, FetchError> {
        let agent = HeaderValue::from_static(concat!("callgate/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().insert(header::USER_AGENT, agent);
        self.fetcher.fetch(request).await
    }
}

/// OidcCause nothing is known of a provider. Never the text that it sent.
#[derive(Debug, thiserror::Error)]
enum DiscoveryError {
    /// No answer.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// An answer of another kind.
    #[error("its {0} is answered with {1}")]
    Status(&'static str, StatusCode),
    /// A document that cannot be used.
    #[error(transparent)]
    Document(#[from] BadDocument),
    /// Keys that cannot be used.
    #[error("its key set {0}")]
    Keys(#[from] JwtKeyError),
}
