//! What is known of a provider: where its endpoints are, and which keys it signs with. It is fetched apart from any
//! request; through an outage the last that was good is kept.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use openidconnect::core::{
    CoreAuthDisplay, CoreClaimName, CoreClaimType, CoreClientAuthMethod, CoreGrantType, CoreJsonWebKey,
    CoreJweContentEncryptionAlgorithm, CoreJweKeyManagementAlgorithm, CoreResponseMode, CoreResponseType,
    CoreSubjectIdentifierType,
};
use openidconnect::{
    AdditionalProviderMetadata, DiscoveryError, HttpRequest, HttpResponse, IssuerUrl, ProviderMetadata,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::auth::pause;
use crate::config;
use crate::upstream::{FetchError, Fetcher};

/// The deadline of one question to a provider.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long a login waits for what is not known yet.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long what is known is taken for true.
const FRESH: Duration = Duration::from_secs(3600);
/// The longest pause after failures in a row.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// How often a signature by an unknown key is a reason to ask for new ones.
const HURRY: Duration = Duration::from_secs(30);

/// What a provider tells of itself (OpenID Connect Discovery 1.0 §3).
pub(super) type Metadata = ProviderMetadata<
    Extra,
    CoreAuthDisplay,
    CoreClientAuthMethod,
    CoreClaimName,
    CoreClaimType,
    CoreGrantType,
    CoreJweContentEncryptionAlgorithm,
    CoreJweKeyManagementAlgorithm,
    CoreJsonWebKey,
    CoreResponseMode,
    CoreResponseType,
    CoreSubjectIdentifierType,
>;

/// What other specifications let it tell.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Extra {
    /// Whether its answers name it (RFC 9207 §3).
    #[serde(default)]
    pub(super) authorization_response_iss_parameter_supported: bool,
    /// Where one logs out of it (OpenID Connect RP-Initiated Logout 1.0 §2.1).
    #[serde(default)]
    pub(super) end_session_endpoint: Option<String>,
}

impl AdditionalProviderMetadata for Extra {}

/// What was found when it was asked last.
#[derive(Debug, Clone)]
enum Found {
    /// It was not asked yet.
    Nothing,
    /// It was asked in vain, and never otherwise.
    Silence,
    /// What it told, and when.
    Told(Arc<Metadata>, Instant),
}

/// One provider, for all workers.
#[derive(Debug)]
pub struct Provider {
    issuer: IssuerUrl,
    trust: config::Trust,
    fetcher: Fetcher,
    found: watch::Sender<Found>,
    hurry: Notify,
}

impl Provider {
    /// Prepares to ask a provider.
    ///
    /// # Errors
    /// When a certificate of `ca` cannot be a trust root.
    pub fn new(settings: &config::Oidc) -> Result<Self, rustls::Error> {
        Ok(Self {
            issuer: settings.issuer.clone(),
            trust: settings.trust.clone(),
            fetcher: Fetcher::new(&settings.trust, DEADLINE)?,
            found: watch::Sender::new(Found::Nothing),
            hurry: Notify::new(),
        })
    }

    /// Tells whether another is asked at the same place and trusted by the same rules.
    #[must_use]
    pub fn is_as(&self, other: &Self) -> bool {
        self.issuer == other.issuer && self.trust == other.trust
    }

    /// Keeps what is known of the provider up to date, for ever.
    pub async fn keep_up(self: Arc<Self>) {
        let mut failures = 0_u32;
        loop {
            let wait = match self.discover().await {
                Ok(metadata) => {
                    self.found.send_replace(Found::Told(Arc::new(metadata), Instant::now()));
                    failures = 0;
                    FRESH
                }
                Err(error) => {
                    self.miss(&*reason(error));
                    failures = failures.saturating_add(1);
                    pause::after(failures, MAX_PAUSE)
                }
            };
            tokio::select! {
                () = sleep(pause::spread(wait)) => {}
                () = self.hurry.notified() => {}
            }
        }
    }

    /// Asks the provider for its metadata and its keys.
    async fn discover(&self) -> Result<Metadata, DiscoveryError<FetchError>> {
        Metadata::discover_async(self.issuer.clone(), &self.client()).await
    }

    /// Asks the provider once, apart from any gate.
    ///
    /// # Errors
    /// Why nobody could log in there.
    pub async fn try_once(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.discover().await.map(drop).map_err(reason)
    }

    fn miss(&self, reason: &(dyn Error + 'static)) {
        tracing::warn!(issuer = self.issuer.as_str(), error = reason, "the identity provider cannot be asked");
        self.found.send_if_modified(|found| {
            let is_first = matches!(found, Found::Nothing);
            if is_first {
                *found = Found::Silence;
            }
            is_first
        });
    }

    /// Returns what is known of the provider; waits a moment if it was not asked yet.
    pub(super) async fn known(&self) -> Option<Arc<Metadata>> {
        let mut found = self.found.subscribe();
        let settled = timeout(PATIENCE, found.wait_for(|found| !matches!(found, Found::Nothing))).await;
        match &*settled.ok()?.ok()? {
            Found::Told(metadata, _) => Some(Arc::clone(metadata)),
            Found::Nothing | Found::Silence => None,
        }
    }

    /// Returns what the provider tells now, if what is known is old enough to ask again.
    pub(super) async fn renewed(&self) -> Option<Arc<Metadata>> {
        let mut found = self.found.subscribe();
        let before = match &*found.borrow_and_update() {
            Found::Told(_, at) if at.elapsed() >= HURRY => *at,
            _ => return None,
        };
        self.hurry.notify_one();
        let is_newer = |found: &Found| matches!(found, Found::Told(_, at) if *at > before);
        match &*timeout(PATIENCE, found.wait_for(is_newer)).await.ok()?.ok()? {
            Found::Told(metadata, _) => Some(Arc::clone(metadata)),
            Found::Nothing | Found::Silence => None,
        }
    }

    /// Asks one of its endpoints.
    pub(super) async fn fetch(&self, request: Request<Bytes>) -> Result<Response<Bytes>, FetchError> {
        self.fetcher.fetch(request).await
    }

    /// Returns how openidconnect asks: with a connection for each question.
    pub(super) fn client(&self) -> impl Fn(HttpRequest) -> Asked + use<> {
        let fetcher = self.fetcher.clone();
        move |request| {
            let fetcher = fetcher.clone();
            Box::pin(async move {
                let answer = fetcher.fetch(request.map(Bytes::from)).await?;
                Ok(answer.map(Vec::from))
            })
        }
    }
}

/// An answer that is awaited.
type Asked = BoxFuture<'static, Result<HttpResponse, FetchError>>;

/// What a provider tells that cannot be used. Never the text itself.
#[derive(Debug, thiserror::Error)]
enum Unexpected {
    #[error("it answers with status {0}, or with something that is not JSON")]
    Status(u16),
    #[error("it says that it is another issuer than the configured one")]
    Issuer,
    #[error("its discovery document or its keys cannot be read")]
    Document,
}

/// Tells why a provider cannot be asked.
fn reason(error: DiscoveryError<FetchError>) -> Box<dyn Error + Send + Sync> {
    match error {
        DiscoveryError::Request(error) => error.into(),
        // Only these two are told: others quote what was sent.
        DiscoveryError::Response(status, ..) => Unexpected::Status(status.as_u16()).into(),
        DiscoveryError::Validation(_) => Unexpected::Issuer.into(),
        _ => Unexpected::Document.into(),
    }
}
