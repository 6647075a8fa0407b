//! One order: the account, the challenge, the certificate.

use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AccountCredentials, AuthorizationHandle, AuthorizationState, AuthorizationStatus, CertificateIdentifier,
    ChallengeType, Error, Identifier, NewAccount, NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use jiff::Timestamp;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::http_client::AcmeHttp;
use super::members::AcmeMembers;
use super::names::RenewalWindow;
use crate::config::AcmeConfig;
use crate::members::EngineDown;
use crate::state::{KeepError, Store};
use crate::tls::issued::{IssuedCertificate, IssuedCertificates, IssuedError, OfferedChallenge};
use crate::upstream::FetchError;

/// How long the server may take to check a name, and then to issue the certificate.
const PATIENCE: Duration = Duration::from_secs(90);
/// The pause before the server is asked again about an order; it grows by a half each time.
const POLL: Duration = Duration::from_millis(500);

/// How often a question about an order is asked whose nonces the server refuses. Each time, several nonces were tried.
const NONCE_TRIES: usize = 3;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum AcmeError {
    /// The server refused, or gave no valid answer.
    #[error(transparent)]
    Server(#[from] Error),
    /// The server could not check the name.
    #[error("the server could not check the name: {0}")]
    Unchecked(String),
    /// The server offers no challenge that can be answered.
    #[error("the server offers none of the challenges http-01 and tls-alpn-01")]
    NoChallenge,
    /// A key or a request cannot be made.
    #[error("cannot make a request for a certificate")]
    Request(#[from] rcgen::Error),
    /// The answer to a challenge cannot be made.
    #[error("cannot answer a challenge")]
    Challenge(#[from] rustls::Error),
    /// The certificate cannot be used.
    #[error(transparent)]
    Certificate(#[from] IssuedError),
    /// The members that share certificates cannot answer.
    #[error(transparent)]
    Engine(#[from] EngineDown),
    /// It took too long.
    #[error("the order took too long")]
    Overdue,
    /// The account or the certificate cannot be kept.
    #[error("cannot keep it in the state file")]
    State(#[from] KeepError),
}

impl AcmeError {
    /// Tells whether the server did nothing: it was not reached, or refused its own nonces again and again (RFC 8555 §6.5).
    pub(super) fn is_unreached(&self) -> bool {
        let is_lost = matches!(self, Self::Server(Error::Other(error)) if error.downcast_ref::<FetchError>().is_some());
        is_lost || matches!(self, Self::Server(error) if is_bad_nonce(error))
    }

    fn is_unknown_account(&self) -> bool {
        matches!(self, Self::Server(error) if is_problem(error, ":accountDoesNotExist"))
    }
}

/// Tells whether the server refused its own nonces again and again (RFC 8555 §6.5). It says nothing about the order.
fn is_bad_nonce(error: &Error) -> bool {
    is_problem(error, ":badNonce")
}

fn is_problem(error: &Error, end: &str) -> bool {
    let of = |problem: &Problem| problem.r#type.as_deref().is_some_and(|kind| kind.ends_with(end));
    matches!(error, Error::Api(problem) if of(problem))
}

/// An account at an ACME server.
pub(super) struct AcmeClient<'c> {
    account: Account,
    config: &'c AcmeConfig,
    store: &'c Store,
    members: Option<&'c AcmeMembers>,
}

impl<'c> AcmeClient<'c> {
    /// Returns the account that the state file has, or makes one.
    pub(super) async fn connect(config: &'c AcmeConfig, http: &AcmeHttp, store: &'c Store) -> Result<Self, AcmeError> {
        let builder = Account::builder_with_http(Box::new(http.clone()));
        let kept = store.record(&account_record(config));
        let kept = kept.and_then(|kept| serde_json::from_slice::<AccountCredentials>(&kept).ok());
        if let Some(credentials) = kept {
            return Ok(Self { account: builder.from_credentials(credentials).await?, config, store, members: None });
        }
        let contact = config.email.as_ref().map(|email| format!("mailto:{email}"));
        let contact: Vec<_> = contact.iter().map(String::as_str).collect();
        let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let (account, credentials) = builder.create(&new, config.directory.clone(), None).await?;
        let credentials = serde_json::to_vec(&credentials).map_err(Error::from)?;
        store.keep_record(&account_record(config), Zeroizing::new(credentials)).await?;
        tracing::info!(directory = config.directory, "made an account at the ACME server");
        Ok(Self { account, config, store, members: None })
    }

    /// Lets other members answer challenges, too.
    pub(super) fn among(self, members: Option<&'c AcmeMembers>) -> Self {
        Self { members, ..self }
    }

    /// Orders a certificate, and returns its chain and its key in PEM. `replaced`: the certificate before. `attempt`: how
    /// many orders have failed before.
    pub(super) async fn order(
        &self,
        issued: &Arc<IssuedCertificates>,
        name: &str,
        replaced: Option<&CertificateDer<'static>>,
        attempt: u32,
    ) -> Result<(String, String), AcmeError> {
        let mut offered = Vec::new();
        let ordered = self.run(issued, &mut offered, name, replaced, attempt).await;
        if let Some(members) = self.members {
            for challenge in &offered {
                members.withdraw(name, challenge.token()).await;
            }
        }
        if ordered.as_ref().is_err_and(AcmeError::is_unknown_account) {
            // The next order makes a new one.
            self.store.remove_record(&account_record(self.config)).await?;
        }
        ordered
    }

    async fn run(
        &self,
        issued: &Arc<IssuedCertificates>,
        offered: &mut Vec<OfferedChallenge>,
        name: &str,
        replaced: Option<&CertificateDer<'static>>,
        attempt: u32,
    ) -> Result<(String, String), AcmeError> {
        let names = [Identifier::Dns(name.to_owned())];
        let mut order = self.new_order(&names, replaced).await?;
        self.answer_challenges(&mut order, issued, offered, name, attempt).await?;
        let policy = RetryPolicy::new().initial_delay(POLL).backoff(1.5).timeout(PATIENCE);
        match checked(&mut order, &policy).await {
            Ok(OrderStatus::Ready) => {}
            Err(error) if is_bad_nonce(&error) => return Err(error.into()),
            Ok(_) | Err(Error::Api(_)) => return Err(AcmeError::Unchecked(reasons(&mut order).await)),
            Err(error) => return Err(error.into()),
        }
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.distinguished_name = DistinguishedName::new();
        order.finalize_csr(params.serialize_request(&key)?.der()).await?;
        let chain = order.poll_certificate(&policy).await?;
        Ok((chain, key.serialize_pem()))
    }

    /// Makes the order. A server that knows renewals learns which certificate the new one replaces (RFC 9773 §5).
    async fn new_order(
        &self,
        names: &[Identifier],
        replaced: Option<&CertificateDer<'static>>,
    ) -> Result<Order, AcmeError> {
        let replaced = replaced.and_then(|own| CertificateIdentifier::try_from(own).ok());
        let order = NewOrder::new(names);
        let order = match replaced {
            Some(replaced) => self.account.new_order(&order.replaces(replaced)).await,
            None => return Ok(self.account.new_order(&order).await?),
        };
        match order {
            Err(Error::Unsupported(_)) => Ok(self.account.new_order(&NewOrder::new(names)).await?),
            order => Ok(order?),
        }
    }

    /// Answers the challenges of an order for as long as `offered` has them.
    async fn answer_challenges(
        &self,
        order: &mut Order,
        issued: &Arc<IssuedCertificates>,
        offered: &mut Vec<OfferedChallenge>,
        name: &str,
        attempt: u32,
    ) -> Result<(), AcmeError> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let kind = self.chosen(&authorization, attempt).ok_or(AcmeError::NoChallenge)?;
            let mut challenge = authorization.challenge(kind).ok_or(AcmeError::NoChallenge)?;
            let authorized = challenge.key_authorization();
            offered.push(issued.offer(name, &challenge.token, authorized.as_str(), authorized.digest().as_ref())?);
            if let Some(members) = self.members {
                members.offer(name, &challenge.token, authorized.as_str()).await?;
            }
            challenge.set_ready().await.map_err(unchecked)?;
        }
        Ok(())
    }

    /// Chooses a challenge. Where both can be answered, each try after a failure takes the other one.
    fn chosen(&self, authorization: &AuthorizationHandle<'_>, attempt: u32) -> Option<ChallengeType> {
        let is_offered = |kind: &ChallengeType| authorization.challenges.iter().any(|one| one.r#type == *kind);
        let first = if self.config.has_http { ChallengeType::Http01 } else { ChallengeType::TlsAlpn01 };
        let second = self.config.has_http.then_some(ChallengeType::TlsAlpn01);
        let mut kinds: Vec<_> = [Some(first), second].into_iter().flatten().filter(is_offered).collect();
        if attempt % 2 == 1 {
            kinds.reverse();
        }
        kinds.into_iter().next()
    }

    /// Asks when the server wants a certificate to be renewed; `None`: it does not say.
    pub(super) async fn renewal(&self, certificate: &IssuedCertificate) -> Result<Option<RenewalWindow>, AcmeError> {
        let Some(id) = certificate.own().and_then(|own| CertificateIdentifier::try_from(own).ok()) else {
            return Ok(None);
        };
        let (told, again) = match self.account.renewal_info(&id).await {
            Ok(told) => told,
            Err(Error::Unsupported(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let time = |at: i64| Timestamp::from_second(at).unwrap_or(Timestamp::MAX);
        let window = told.suggested_window;
        let (start, end) = (time(window.start.unix_timestamp()), time(window.end.unix_timestamp()));
        Ok(Some(RenewalWindow { start, end, again }))
    }
}

/// Returns the name under which the account is kept.
fn account_record(config: &AcmeConfig) -> String {
    format!("acme account {}", config.directory)
}

/// Returns the error of a challenge that was to be checked. A server may have found a fault before it answers.
fn unchecked(error: Error) -> AcmeError {
    if is_bad_nonce(&error) {
        return error.into();
    }
    match error {
        Error::Api(problem) => AcmeError::Unchecked(Error::Api(problem).to_string()),
        error => error.into(),
    }
}

/// Waits until the server has checked the name.
async fn checked(order: &mut Order, policy: &RetryPolicy) -> Result<OrderStatus, Error> {
    let mut checked = order.poll_ready(policy).await;
    for _ in 1..NONCE_TRIES {
        match &checked {
            Err(error) if is_bad_nonce(error) => checked = order.poll_ready(policy).await,
            _ => break,
        }
    }
    checked
}

/// Returns what the server says about the challenges of an order that has failed.
async fn reasons(order: &mut Order) -> String {
    let mut reasons = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        match authorization {
            Ok(mut authorization) => reasons.extend(flaws(&mut authorization).await),
            Err(error) => reasons.push(format!("it does not say why: {error}")),
        }
    }
    if reasons.is_empty() { "it gives no reason".to_owned() } else { reasons.join("; ") }
}

/// Returns what the server found at the challenges of one name.
async fn flaws(authorization: &mut AuthorizationHandle<'_>) -> Vec<String> {
    for _ in 1..NONCE_TRIES {
        if let Ok(state) = authorization.refresh().await {
            return found(state);
        }
    }
    match authorization.refresh().await {
        Ok(state) => found(state),
        Err(error) => vec![format!("it does not say why: {error}")],
    }
}

fn found(state: &AuthorizationState) -> Vec<String> {
    let errors = state.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
    errors.map(ToString::to_string).collect()
}
