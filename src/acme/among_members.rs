//! What members that share an engine do together: one of them orders a certificate, and all use it and answer its challenges.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rustls::ServerConfig;
use tokio::time::{Instant, sleep};

use super::Acme;
use super::http_client::AcmeHttp;
use super::kept_certificate::KeptCertificate;
use super::members::{AcmeMembers, OrderTurn, SharedCertificate};
use super::names::NextStep;
use super::order::AcmeError;
use crate::backoff;
use crate::config::AcmeConfig;
use crate::members::{EngineDown, SharedEngine};
use crate::model::digest::sha256;
use crate::model::rate::Rate;
use crate::observe::metrics::DemandResult;
use crate::tls::issued::{IssuedCertificate, challenge_config};

/// How long to wait before the next look at the order of another member, at most.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How long a name waits while the engine cannot be used.
const NO_ENGINE: Duration = Duration::from_secs(5);
/// The interval at which the certificates in use are compared with those in the engine.
const INTERVAL: Duration = Duration::from_secs(60 * 60);
/// How long to wait after the engine did not answer.
const PAUSE: Duration = Duration::from_secs(10);

impl Acme {
    /// Shares certificates with the members at an engine from now on, or with none.
    pub(crate) fn share(&self, engine: Option<&Arc<SharedEngine>>) {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = match (&*members, engine) {
            (Some(members), Some(engine)) => members.is_at(engine),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !is_same {
            *members = engine.map(|engine| AcmeMembers::new(Arc::clone(engine)));
        }
    }

    pub(super) fn members(&self) -> Option<Arc<AcmeMembers>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    // === Challenges of other members ===

    /// Returns the answer to a challenge over HTTP for which another member has asked. `host`: in lower case. `client`: as
    /// limits count it.
    pub(crate) async fn member_answer(
        &self,
        config: &AcmeConfig,
        client: IpAddr,
        host: &str,
        token: &str,
    ) -> Option<String> {
        let members = self.members().filter(|_| config.covers(host))?;
        members.of_token(client, host, token).await
    }

    /// Returns the handshake that answers a challenge for which another member has asked. `name`: in lower case. `client`: as limits
    /// count it.
    pub(crate) async fn member_handshake(
        &self,
        config: &AcmeConfig,
        client: IpAddr,
        name: &str,
    ) -> Option<Arc<ServerConfig>> {
        let members = self.members().filter(|_| config.covers(name))?;
        let key_authorization = members.of_name(client, name).await?;
        challenge_config(name, &sha256(key_authorization.as_bytes())).ok().map(Arc::new)
    }

    // === Orders ===

    /// Gets a certificate: that of another member, or by an order if it is this one's turn.
    pub(super) async fn certify_among(&self, members: &AcmeMembers, config: &AcmeConfig, http: &AcmeHttp, name: &str) {
        let turn = match self.turn_to_order(members, config, name).await {
            Ok(turn) => turn,
            Err(error) => return self.cannot_certify(name, &error, http),
        };
        match turn {
            None => self.settle(name, true),
            Some(OrderTurn::Own) => self.order_among(members, config, http, name).await,
            Some(OrderTurn::Other) => self.wait_for_member(name),
            Some(OrderTurn::Failed { failures, pause }) => {
                if let Some(state) = self.names().get_mut(name) {
                    state.follow_failure(failures, pause, Instant::now());
                }
                self.settle(name, false);
            }
        }
    }

    /// Tells whose turn it is to order a certificate; nothing: none is needed, because another member had one.
    async fn turn_to_order(
        &self,
        members: &AcmeMembers,
        config: &AcmeConfig,
        name: &str,
    ) -> Result<Option<OrderTurn>, AcmeError> {
        let turn = members.take_turn(&config.directory, name);
        let turn = self.turn_unless_issued(members, config, name, turn).await?;
        // The order of another member may have ended after the first look.
        if turn == Some(OrderTurn::Own) && self.take_over(members, config, name).await? {
            members.end_turn(&config.directory, name).await;
            return Ok(None);
        }
        Ok(turn)
    }

    /// Asks for the `turn` to order a certificate, unless that of another member can be used.
    async fn turn_unless_issued(
        &self,
        members: &AcmeMembers,
        config: &AcmeConfig,
        name: &str,
        turn: impl Future<Output = Result<OrderTurn, EngineDown>>,
    ) -> Result<Option<OrderTurn>, AcmeError> {
        if self.take_over(members, config, name).await? {
            return Ok(None);
        }
        Ok(Some(turn.await?))
    }

    async fn order_among(&self, members: &AcmeMembers, config: &AcmeConfig, http: &AcmeHttp, name: &str) {
        match self.order(config, http, name, Some(members)).await {
            Ok(()) => {
                if self.tell(members, config, name).await.is_ok() {
                    members.end_turn(&config.directory, name).await;
                } else {
                    // The turn ends by itself, later: another member would order a second one.
                    self.untold.notify_one();
                }
                self.settle(name, true);
            }
            Err(error @ AcmeError::Engine(_)) => self.cannot_certify(name, &error, http),
            Err(error) => {
                let pause = self.failed(name, &error, http);
                let failures = self.names().get(name).map_or(1, |state| state.failures());
                members.pause_turn(&config.directory, name, failures, pause).await;
                self.settle(name, false);
            }
        }
    }

    /// Notes why this member can neither take a certificate over nor order one.
    fn cannot_certify(&self, name: &str, error: &AcmeError, http: &AcmeHttp) {
        match error {
            AcmeError::Engine(EngineDown) => self.wait_for_engine(name),
            error => drop(self.failed(name, error, http)),
        }
        self.settle(name, false);
    }

    fn wait_for_engine(&self, name: &str) {
        self.hold(name, "no certificate is ordered while the shared engine cannot be used", NO_ENGINE);
        if self.notices.engine.is_due() {
            tracing::warn!(name, "a certificate is due, and none is ordered while the shared engine cannot be used");
        }
    }

    fn wait_for_member(&self, name: &str) {
        let is_new = self
            .names()
            .get_mut(name)
            .is_some_and(|state| state.wait_for_member(backoff::jittered(LOOK_AGAIN), Instant::now()));
        if is_new {
            tracing::info!(name, "another member orders the certificate");
        }
    }

    /// Counts an order on demand against the quota of all members. Returns whether there is room.
    ///
    /// # Errors
    /// When no order is needed or possible now.
    pub(super) async fn count_among(
        &self,
        members: &AcmeMembers,
        config: &AcmeConfig,
        quota: Rate,
        name: &str,
    ) -> Result<bool, DemandResult> {
        let turn = members.look_at_turn(&config.directory, name);
        match self.turn_unless_issued(members, config, name, turn).await {
            // The member that orders has counted it.
            Ok(Some(OrderTurn::Other | OrderTurn::Failed { .. })) => return Ok(true),
            Ok(Some(OrderTurn::Own)) => {}
            Ok(None) => return Err(DemandResult::Issued),
            Err(AcmeError::Engine(EngineDown)) => {
                self.wait_for_engine(name);
                return Err(DemandResult::Failed);
            }
            Err(_) => return Err(DemandResult::Failed),
        }
        members.count_order(&config.directory, quota).await.map_err(|EngineDown| {
            self.wait_for_engine(name);
            DemandResult::Failed
        })
    }

    // === Certificates of other members ===

    /// Takes the certificate of another member over if it is newer than the own one. Returns whether the name then needs no order.
    async fn take_over(&self, members: &AcmeMembers, config: &AcmeConfig, name: &str) -> Result<bool, AcmeError> {
        let found = members.certificate(&config.directory, name).await?;
        self.adopt_found(config, name, found).await
    }

    async fn adopt_found(
        &self,
        config: &AcmeConfig,
        name: &str,
        found: Option<SharedCertificate>,
    ) -> Result<bool, AcmeError> {
        let Some(found) = found.filter(|found| self.is_newer(config, name, &found.certificate)) else {
            return Ok(false);
        };
        let until = found.certificate.not_after;
        self.put_into_use(name, &found.kept, found.certificate).await?;
        tracing::info!(name, %until, "the certificate that another member got is used");
        Ok(self.step(name) == NextStep::AskForRenewal)
    }

    fn is_newer(&self, config: &AcmeConfig, name: &str, found: &IssuedCertificate) -> bool {
        let is_of_this_server =
            || KeptCertificate::of(&self.store, name).is_some_and(|kept| kept.directory == config.directory);
        let own = self.issued.get(name).filter(|_| is_of_this_server());
        found.not_after > Timestamp::now() && own.is_none_or(|own| own.not_before < found.not_before)
    }

    /// Puts the certificate of a name into the engine.
    async fn tell(&self, members: &AcmeMembers, config: &AcmeConfig, name: &str) -> Result<(), EngineDown> {
        let kept = KeptCertificate::of(&self.store, name).filter(|kept| kept.directory == config.directory);
        let Some((own, kept)) = self.issued.get(name).zip(kept) else { return Ok(()) };
        members.put_certificate(name, &kept, own.not_after).await
    }

    /// Compares the certificates in use with those in the engine, for as long as the configuration is in use: an engine may have
    /// forgotten them, or have them under a key that will be dropped.
    pub(crate) async fn follow_members(self: Arc<Self>, config: AcmeConfig) {
        let Some(members) = self.members() else { return };
        let mut reached = members.reached();
        loop {
            let pause = if self.synchronize(&members, &config).await.is_ok() { INTERVAL } else { PAUSE };
            self.report.show(self.rows());
            tokio::select! {
                Ok(()) = reached.changed() => {}
                () = self.untold.notified() => {}
                () = sleep(backoff::jittered(pause)) => {}
            }
        }
    }

    async fn synchronize(&self, members: &AcmeMembers, config: &AcmeConfig) -> Result<(), AcmeError> {
        let names: Vec<_> = self.names().keys().filter(|name| self.issued.get(name).is_some()).cloned().collect();
        for name in names {
            let found = members.certificate(&config.directory, &name).await?;
            let known =
                found.as_ref().filter(|found| found.is_under_first_key).map(|found| found.certificate.not_before);
            self.adopt_found(config, &name, found).await?;
            let own = self.issued.get(&name).map(|own| own.not_before);
            if known < own {
                self.tell(members, config, &name).await?;
            }
        }
        Ok(())
    }
}
