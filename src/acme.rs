//! Floor 4: certificates from an ACME server (RFC 8555), each for one name: ordered, renewed, kept in the state file.
//!
//! One task on the control thread does everything, one order after the other. After a failure it pauses, longer each time;
//! the pauses outlive a reload, so no loop of reloads becomes a loop of orders.

mod http_client;
mod names;
mod order;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use self::http_client::AcmeHttp;
use self::names::{NameState, NextStep};
use self::order::{AcmeClient, AcmeError};
use crate::config::{AcmeConfig, Config};
use crate::observe::causes;
use crate::observe::metrics::{IssuedName, IssuedReport};
use crate::state::Store;
use crate::tls::issued::{IssuedCertificate, IssuedCertificates};

/// The longest time between two looks at the clock: it may be set.
const LONGEST_SLEEP: Duration = Duration::from_secs(60 * 60);

/// The certificates that this process gets by itself. It outlives each configuration.
pub(crate) struct Acme {
    store: Arc<Store>,
    issued: Arc<IssuedCertificates>,
    names: Mutex<BTreeMap<String, NameState>>,
    report: Arc<IssuedReport>,
}

/// A certificate as it is kept in the state file.
#[derive(Serialize, Deserialize)]
struct KeptCertificate {
    /// The directory of the server that issued it.
    directory: String,
    /// The chain, in PEM.
    chain: String,
    /// The private key, in PEM.
    key: String,
}

impl Acme {
    /// Begins with what the state file has.
    pub(crate) fn new(config: &Config, store: Arc<Store>) -> Arc<Self> {
        let report = Arc::default();
        let this = Arc::new(Self { store, issued: Arc::default(), names: Mutex::default(), report });
        this.adopt(config);
        this
    }

    /// Takes over the names of another configuration.
    pub(crate) fn adopt(&self, config: &Config) {
        let names: Vec<_> =
            config.acme.iter().flat_map(|acme| acme.names.iter().map(move |name| (acme, name))).collect();
        self.names().retain(|known, _| names.iter().any(|(_, name)| *name == known));
        for (acme, name) in names {
            self.names().entry(name.clone()).or_default();
            self.load(acme, name);
        }
        self.report.show(self.rows());
    }

    /// Returns the certificates, and the answers to challenges.
    pub(crate) const fn issued(&self) -> &Arc<IssuedCertificates> {
        &self.issued
    }

    /// Returns what metrics show.
    pub(crate) const fn report(&self) -> &Arc<IssuedReport> {
        &self.report
    }

    /// Checks the certificates for `/readyz?verbose`.
    ///
    /// # Errors
    /// Names each certificate that could not be ordered, with the words of the server.
    pub(crate) fn check(&self) -> Result<(), String> {
        let names = self.names();
        let failing = names.iter().filter_map(|(name, state)| Some(format!("{name}: {}", state.problem()?)));
        let failing: Vec<_> = failing.collect();
        if failing.is_empty() { Ok(()) } else { Err(failing.join("; ")) }
    }

    /// Orders and renews the certificates of a configuration, for as long as it is in use.
    pub(crate) async fn keep_valid(self: Arc<Self>, config: AcmeConfig) {
        let http = match AcmeHttp::new(&config) {
            Ok(http) => http,
            Err(error) => {
                return tracing::error!(%error, "no certificates can be ordered: `ca` of `acme` cannot be used");
            }
        };
        loop {
            let Some((name, wait)) = self.next(&config) else { return };
            if !wait.is_zero() {
                sleep(wait.min(LONGEST_SLEEP)).await;
                continue;
            }
            let step = self.step(&name);
            match step {
                NextStep::Order => {
                    if let Err(error) = self.order(&config, &http, &name).await {
                        self.failed(&name, &error, &http);
                    }
                }
                NextStep::AskForRenewal => {
                    // Advice is optional: without it the certificate is renewed by its age.
                    if let Err(error) = self.ask_for_renewal(&config, &http, &name).await {
                        tracing::debug!(name, %error, "no advice on renewal");
                    }
                }
            }
            self.report.show(self.rows());
        }
    }

    /// Returns the name that needs something next, and how long until then.
    fn next(&self, config: &AcmeConfig) -> Option<(String, Duration)> {
        let (now, instant, names) = (Timestamp::now(), Instant::now(), self.names());
        let due = config.names.iter().filter_map(|name| {
            Some((name.clone(), names.get(name)?.due(self.issued.get(name).as_deref(), now, instant)))
        });
        due.min_by_key(|(_, wait)| *wait)
    }

    fn step(&self, name: &str) -> NextStep {
        let certificate = self.issued.get(name);
        self.names().get(name).map_or(NextStep::Order, |state| state.step(certificate.as_deref(), Timestamp::now()))
    }

    /// Orders a certificate, keeps it, and puts it into use.
    async fn order(&self, config: &AcmeConfig, http: &AcmeHttp, name: &str) -> Result<(), AcmeError> {
        let before = self.issued.get(name);
        // Set before the order: if a reload drops it, the next one waits all the same.
        let attempt = self.names().entry(name.to_owned()).or_default().begin(Instant::now());
        let client = AcmeClient::connect(config, http, &self.store).await?;
        let own = before.as_ref().and_then(|one| one.own()).filter(|_| attempt == 0);
        let (chain, key) = client.order(&self.issued, name, own, attempt).await?;
        let certificate = IssuedCertificate::read(name, &chain, &key)?;
        let kept = KeptCertificate { directory: config.directory.clone(), chain, key };
        let kept = Zeroizing::new(serde_json::to_vec(&kept).expect("texts are JSON"));
        self.store.keep_record(&record(name), kept).await?;
        tracing::info!(name, until = %certificate.not_after, "a certificate was issued");
        self.names().entry(name.to_owned()).or_default().succeeded(&certificate);
        self.issued.put(name, certificate);
        self.report.count(true);
        Ok(())
    }

    /// Asks the server when it wants a certificate to be renewed (RFC 9773).
    async fn ask_for_renewal(&self, config: &AcmeConfig, http: &AcmeHttp, name: &str) -> Result<(), AcmeError> {
        let Some(certificate) = self.issued.get(name) else { return Ok(()) };
        self.names().entry(name.to_owned()).or_default().postpone_question(None, Instant::now());
        let client = AcmeClient::connect(config, http, &self.store).await?;
        if let Some(window) = client.renewal(&certificate).await? {
            self.names().entry(name.to_owned()).or_default().renew_within(&window, Instant::now());
        }
        Ok(())
    }

    /// Notes and logs a failure.
    fn failed(&self, name: &str, error: &AcmeError, http: &AcmeHttp) {
        let problem: String = causes(error).chars().filter(|c| !c.is_control()).take(MAX_PROBLEM).collect();
        let pause = {
            let mut names = self.names();
            let state = names.entry(name.to_owned()).or_default();
            state.failed(&problem, error.is_unreached(), http.take_retry_after(), Instant::now())
        };
        self.report.count(false);
        let seconds = pause.as_secs();
        let is_usable = self.issued.get(name).is_some_and(|one| one.not_after > Timestamp::now());
        if is_usable {
            tracing::warn!(name, problem, next_try_in_seconds = seconds, "a certificate could not be renewed");
        } else {
            tracing::error!(name, problem, next_try_in_seconds = seconds, "there is no certificate for this name");
        }
    }

    /// Puts the certificate of a name into use that the state file has.
    fn load(&self, config: &AcmeConfig, name: &str) {
        if self.issued.get(name).is_some() {
            return;
        }
        let Some(kept) = self.store.record(&record(name)) else { return };
        let Ok(kept) = serde_json::from_slice::<KeptCertificate>(&kept) else { return };
        match IssuedCertificate::read(name, &kept.chain, &kept.key) {
            Ok(certificate) => {
                let mut names = self.names();
                let state = names.entry(name.to_owned()).or_default();
                state.loaded(&certificate, kept.directory == config.directory);
                self.issued.put(name, certificate);
            }
            Err(error) => tracing::warn!(name, %error, "the certificate in the state file cannot be used"),
        }
    }

    /// Returns the end of each certificate, and whether it could not be ordered.
    fn rows(&self) -> Vec<IssuedName> {
        let names = self.names();
        let row = |(name, state): (&String, &NameState)| IssuedName {
            name: name.clone(),
            not_after: self.issued.get(name).map(|one| one.not_after),
            is_failing: state.problem().is_some(),
        };
        names.iter().map(row).collect()
    }

    /// Locks even after a panic elsewhere: states are replaced whole.
    fn names(&self) -> MutexGuard<'_, BTreeMap<String, NameState>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The longest words of a server that are shown, in characters.
const MAX_PROBLEM: usize = 500;

/// Returns the name under which a certificate is kept.
fn record(name: &str) -> String {
    format!("acme certificate {name}")
}
