//! Floor 4: certificates from an ACME server (RFC 8555), each for one name: ordered, renewed, kept in the state file.
//!
//! One task on the control thread does all orders, one after the other. After a failure it pauses, longer each time;
//! the pauses outlive a reload, so no loop of reloads becomes a loop of orders. Another task looks up names that a client asks
//! for, and leaves those of tenants to the first. Members that share an engine also share what they get: one of them orders.

mod among_members;
mod challenge_looks;
mod demand;
mod http_client;
mod kept_certificate;
mod members;
mod names;
mod order;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use zeroize::Zeroizing;

use self::demand::Demand;
use self::http_client::AcmeHttp;
use self::kept_certificate::{KeptCertificate, record};
use self::members::{AcmeMembers, TURN_LIFE};
use self::names::{NameState, NextStep};
use self::order::{AcmeClient, AcmeError};
use crate::config::{AcmeConfig, Config};
use crate::model::rate::Rate;
use crate::model::tenant_answer::TenantAnswer;
use crate::observe::causes;
use crate::observe::metrics::{DemandResult, IssuedName, IssuedReport};
use crate::observe::notice::Notice;
use crate::state::Store;
use crate::tls::issued::{IssuedCertificate, IssuedCertificates};

/// How long an order may take, with the making of an account. The turn of a member to order lasts longer.
const LONGEST_ORDER: Duration = Duration::from_secs(4 * 60);
const _: () = assert!(LONGEST_ORDER.as_secs() < TURN_LIFE.as_secs());
/// The longest time between two looks at the clock: it may be set.
const LONGEST_SLEEP: Duration = Duration::from_secs(60 * 60);
/// The most names that have a certificate on demand, or had a failed order a short time ago.
const MAX_ON_DEMAND: usize = 1000;
/// How long the renewal of a name waits that is no tenant's any more, or while the PBX does not say.
const NO_TENANT: Duration = Duration::from_secs(60 * 60);
/// How long a name waits after the quota was found used up.
const NO_QUOTA: Duration = Duration::from_secs(60);
/// The name under which the use of the quota is kept.
const QUOTA_RECORD: &str = "acme on-demand quota";

/// The certificates that this process gets by itself. It outlives each configuration.
pub(crate) struct Acme {
    store: Arc<Store>,
    issued: Arc<IssuedCertificates>,
    names: Mutex<BTreeMap<String, NameState>>,
    demand: Demand,
    report: Arc<IssuedReport>,
    /// The members that share certificates with this one.
    members: Mutex<Option<Arc<AcmeMembers>>>,
    /// Wakes the task that tells members of certificates: there is one that the engine does not have.
    untold: Notify,
    notices: AcmeNotices,
}

/// Warnings that clients can cause again and again.
#[derive(Debug, Default)]
struct AcmeNotices {
    /// The quota is used up.
    quota: Notice,
    /// There are as many names on demand as may be.
    full: Notice,
    /// The shared engine cannot be used.
    engine: Notice,
}

/// Asks the PBX whether a name is a tenant's.
pub(crate) type AskTenant = Arc<dyn Fn(String) -> BoxFuture<'static, TenantAnswer> + Send + Sync>;

impl Acme {
    /// Begins with what the state file has.
    pub(crate) fn new(config: &Config, store: Arc<Store>) -> Arc<Self> {
        let report = Arc::default();
        let this = Arc::new(Self {
            store,
            issued: Arc::default(),
            names: Mutex::default(),
            demand: Demand::default(),
            report,
            members: Mutex::default(),
            untold: Notify::new(),
            notices: AcmeNotices::default(),
        });
        this.adopt(config);
        this
    }

    /// Takes over the names of another configuration.
    pub(crate) fn adopt(&self, config: &Config) {
        let is_on_demand = |name: &str| config.acme.as_ref().is_some_and(|acme| acme.is_on_demand(name));
        let is_configured = |name: &String| config.acme.iter().any(|acme| acme.names.contains(name));
        self.names().retain(|name, state| match state.is_on_demand() {
            true => is_on_demand(name),
            false => is_configured(name),
        });
        for name in self.demand.accepted().iter().filter(|name| !is_on_demand(name)) {
            self.demand.settle(name);
        }
        if let Some(acme) = &config.acme {
            self.adopt_names(acme);
        }
        self.report.show(self.rows());
    }

    fn adopt_names(&self, acme: &AcmeConfig) {
        for name in &acme.names {
            self.names().entry(name.clone()).or_default();
            self.load(acme, name);
        }
        let kept = self.store.record_names(&record(""));
        let kept = kept.iter().filter_map(|kept| kept.strip_prefix(&record(""))).filter(|name| acme.is_on_demand(name));
        for name in kept.take(MAX_ON_DEMAND) {
            self.names().entry(name.to_owned()).or_insert_with(NameState::on_demand);
            self.load(acme, name);
        }
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
        let failing = names.iter().filter_map(|(name, state)| Some(format!("{name}: {}", self.problem(name, state)?)));
        let failing: Vec<_> = failing.collect();
        if failing.is_empty() { Ok(()) } else { Err(failing.join("; ")) }
    }

    /// Returns the problem of a name that should have a certificate. A name on demand without one should not: perhaps no client asks
    /// for it again.
    fn problem<'s>(&self, name: &str, state: &'s NameState) -> Option<&'s str> {
        state.problem().filter(|_| !state.is_unwanted() || self.issued.get(name).is_some())
    }

    // === On demand ===

    /// Waits until there is a certificate for a name that a client asks for, or it is known that it gets none now. The caller has
    /// found that it may be a tenant's, and has a deadline.
    pub(crate) async fn obtain(&self, name: &str) {
        let is_paused = self.names().get(name).is_some_and(|state| state.is_paused(Instant::now()));
        if is_paused {
            return self.report.count_demand(DemandResult::Failed);
        }
        if self.demand.wait(name).await.is_err() {
            self.report.count_demand(DemandResult::Full);
        }
    }

    /// Answers the demand of clients, for as long as a configuration is in use.
    pub(crate) async fn answer_demand(self: Arc<Self>, config: AcmeConfig, ask: AskTenant) {
        let Some(on_demand) = &config.on_demand else { return };
        loop {
            let name = self.demand.next().await;
            if self.issued.get(&name).is_some() {
                self.demand.settle(&name);
                continue;
            }
            let result = match ask(name.clone()).await {
                TenantAnswer::Known => self.want(&config, on_demand.quota, &name).await,
                TenantAnswer::Unknown => Err(DemandResult::Unknown),
                TenantAnswer::NoAnswer | TenantAnswer::Unasked => Err(DemandResult::NoAnswer),
            };
            match result {
                Ok(()) => self.demand.accept(&name),
                Err(result) => {
                    self.report.count_demand(result);
                    self.demand.settle(&name);
                }
            }
        }
    }

    /// Leaves a tenant's name to the task that orders, within the quota.
    ///
    /// # Errors
    /// Says why it gets no order. It may have the certificate of another member.
    async fn want(&self, config: &AcmeConfig, quota: Rate, name: &str) -> Result<(), DemandResult> {
        self.make_room(name)?;
        self.names().entry(name.to_owned()).or_insert_with(NameState::on_demand);
        let has_room = match self.members() {
            Some(members) => self.count_among(&members, config, quota, name).await?,
            None => self.count_here(quota).await?,
        };
        if !has_room {
            if self.notices.quota.is_due() {
                tracing::warn!(name, %quota, "no certificate is ordered: `quota` of `on_demand` is used up");
            }
            // Until then, further handshakes are refused at once.
            self.hold(name, "`quota` of `on_demand` is used up", NO_QUOTA);
            return Err(DemandResult::Quota);
        }
        self.names().entry(name.to_owned()).or_insert_with(NameState::on_demand).want(true);
        Ok(())
    }

    /// Counts an order against the quota of this member. It is kept before the order, so that no restart gives it back.
    async fn count_here(&self, quota: Rate) -> Result<bool, DemandResult> {
        let before = self.store.record(QUOTA_RECORD);
        let before = before.and_then(|text| std::str::from_utf8(&text).ok()?.parse().ok());
        let Some(next) = demand::admit(before, quota, Timestamp::now()) else { return Ok(false) };
        let kept = self.store.keep_record(QUOTA_RECORD, Zeroizing::new(next.to_string().into_bytes())).await;
        kept.map(|()| true).map_err(|_| DemandResult::Failed)
    }

    /// Notes why a name gets no order for a while.
    fn hold(&self, name: &str, problem: &str, pause: Duration) {
        if let Some(state) = self.names().get_mut(name) {
            state.hold(problem, pause, Instant::now());
        }
    }

    /// Makes room for one more name, in the place of those whose orders failed and that no client waits for.
    fn make_room(&self, name: &str) -> Result<(), DemandResult> {
        let mut names = self.names();
        let count = |names: &BTreeMap<String, NameState>| names.values().filter(|state| state.is_on_demand()).count();
        if names.contains_key(name) || count(&names) < MAX_ON_DEMAND {
            return Ok(());
        }
        let now = Instant::now();
        names.retain(|name, state| !state.is_unwanted() || state.is_paused(now) || self.issued.get(name).is_some());
        if count(&names) < MAX_ON_DEMAND {
            return Ok(());
        }
        if self.notices.full.is_due() {
            tracing::warn!(name, "no certificate is ordered: there are {MAX_ON_DEMAND} for names on demand");
        }
        Err(DemandResult::Full)
    }

    /// Tells whether the renewal of a name may go on: it is in the configuration, or still a tenant's. That of a tenant that is gone
    /// waits, and ends with the certificate.
    async fn may_renew(&self, name: &str, ask: &AskTenant) -> bool {
        let is_renewal =
            self.names().get(name).is_some_and(|state| state.is_on_demand()) && self.issued.get(name).is_some();
        if !is_renewal {
            return true;
        }
        let answer = ask(name.to_owned()).await;
        if answer == TenantAnswer::Known {
            return true;
        }
        let is_over = self.issued.get(name).is_none_or(|one| one.not_after <= Timestamp::now());
        if answer == TenantAnswer::Unknown && is_over {
            tracing::info!(name, "the PBX has no such tenant any more: its certificate has ended and is forgotten");
            self.names().remove(name);
            self.issued.remove(name);
            if let Err(error) = self.store.remove_record(&record(name)).await {
                tracing::warn!(name, %error, "a certificate cannot be removed");
            }
        } else if let Some(state) = self.names().get_mut(name) {
            tracing::warn!(
                name,
                ?answer,
                "a certificate is not renewed: the PBX does not say that the name is a tenant's"
            );
            state.postpone(NO_TENANT, Instant::now());
        }
        false
    }

    // === Orders ===

    /// Orders and renews the certificates of a configuration, for as long as it is in use.
    pub(crate) async fn keep_valid(self: Arc<Self>, config: AcmeConfig, ask: AskTenant) {
        let http = match AcmeHttp::new(&config) {
            Ok(http) => http,
            Err(error) => {
                return tracing::error!(%error, "no certificates can be ordered: `ca` of `acme` cannot be used");
            }
        };
        if let Some(members) = self.members() {
            members.wait_for_engine().await;
        }
        loop {
            let (name, wait) = self.next().unwrap_or((String::new(), LONGEST_SLEEP));
            if !wait.is_zero() {
                tokio::select! {
                    () = sleep(wait.min(LONGEST_SLEEP)) => {}
                    () = self.demand.ordered.notified() => {}
                }
                continue;
            }
            match self.step(&name) {
                NextStep::Order if self.may_renew(&name, &ask).await => self.certify(&config, &http, &name).await,
                NextStep::Order => {}
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

    /// Gets a certificate: that of another member, or by an order.
    async fn certify(&self, config: &AcmeConfig, http: &AcmeHttp, name: &str) {
        if let Some(members) = self.members() {
            return self.certify_among(&members, config, http, name).await;
        }
        let ordered = self.order(config, http, name, None).await;
        if let Err(error) = &ordered {
            self.failed(name, error, http);
        }
        self.settle(name, ordered.is_ok());
    }

    /// Tells those who wait for a name how its order ended.
    fn settle(&self, name: &str, is_issued: bool) {
        let mut names = self.names();
        let Some(state) = names.get_mut(name).filter(|state| state.is_on_demand()) else { return };
        state.want(false);
        drop(names);
        self.report.count_demand(if is_issued { DemandResult::Issued } else { DemandResult::Failed });
        self.demand.settle(name);
    }

    /// Returns the name that needs something next, and how long until then.
    fn next(&self) -> Option<(String, Duration)> {
        let (now, instant, names) = (Timestamp::now(), Instant::now(), self.names());
        let due = names.iter().filter_map(|(name, state)| {
            let certificate = self.issued.get(name);
            // A name without a certificate is ordered when a client asks for it.
            let is_idle = certificate.is_none() && state.is_unwanted();
            (!is_idle).then(|| (name.clone(), state.due(certificate.as_deref(), now, instant)))
        });
        due.min_by_key(|(_, wait)| *wait)
    }

    fn step(&self, name: &str) -> NextStep {
        let certificate = self.issued.get(name);
        self.names().get(name).map_or(NextStep::Order, |state| state.step(certificate.as_deref(), Timestamp::now()))
    }

    /// Orders a certificate, keeps it, and puts it into use. `members`: those that answer challenges, too.
    async fn order(
        &self,
        config: &AcmeConfig,
        http: &AcmeHttp,
        name: &str,
        members: Option<&AcmeMembers>,
    ) -> Result<(), AcmeError> {
        let before = self.issued.get(name);
        // Set before the order: if a reload drops it, the next one waits all the same.
        let attempt = self.names().entry(name.to_owned()).or_default().begin(Instant::now());
        let own = before.as_ref().and_then(|one| one.own()).filter(|_| attempt == 0);
        let ordered = async {
            let client = AcmeClient::connect(config, http, &self.store).await?.among(members);
            client.order(&self.issued, name, own, attempt).await
        };
        let (chain, key) = timeout(LONGEST_ORDER, ordered).await.map_err(|_| AcmeError::Overdue)??;
        let kept = KeptCertificate { directory: config.directory.clone(), chain, key };
        let certificate = kept.read(name)?;
        let until = certificate.not_after;
        self.put_into_use(name, &kept, certificate).await?;
        tracing::info!(name, %until, "a certificate was issued");
        self.report.count(true);
        Ok(())
    }

    /// Keeps a certificate, and puts it into use.
    async fn put_into_use(
        &self,
        name: &str,
        kept: &KeptCertificate,
        certificate: IssuedCertificate,
    ) -> Result<(), AcmeError> {
        self.store.keep_record(&record(name), kept.text()).await?;
        self.names().entry(name.to_owned()).or_default().succeeded(&certificate);
        self.issued.put(name, certificate);
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

    /// Notes and logs a failure, and returns the pause after it.
    fn failed(&self, name: &str, error: &AcmeError, http: &AcmeHttp) -> Duration {
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
        pause
    }

    /// Puts the certificate of a name into use that the state file has.
    fn load(&self, config: &AcmeConfig, name: &str) {
        let is_known = self.names().get(name).is_some_and(NameState::is_loaded);
        if is_known && self.issued.get(name).is_some() {
            return;
        }
        let Some(kept) = KeptCertificate::of(&self.store, name) else { return };
        match kept.read(name) {
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
            is_failing: self.problem(name, state).is_some(),
        };
        names.iter().map(row).collect()
    }

    /// Locks even after a panic elsewhere: states are replaced whole.
    fn names(&self) -> MutexGuard<'_, BTreeMap<String, NameState>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the names of a configuration with the ends of their certificates, as a store has them; without an end, there is no
/// certificate.
pub(crate) fn kept_ends(config: &AcmeConfig, store: &Store) -> BTreeMap<String, Option<Timestamp>> {
    let kept = store.record_names(&record(""));
    let kept = kept.iter().filter_map(|kept| kept.strip_prefix(&record(""))).filter(|name| config.is_on_demand(name));
    let end = |name: &str| KeptCertificate::of(store, name)?.read(name).ok().map(|one| one.not_after);
    config.names.iter().map(String::as_str).chain(kept).map(|name| (name.to_owned(), end(name))).collect()
}

/// The longest words of a server that are shown, in characters.
const MAX_PROBLEM: usize = 500;
