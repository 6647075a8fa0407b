//! The gate before every login: prove, map, limit; and the audit line of whatever comes of it. What is counted before that
//! is in `attempt.rs`.

pub(super) mod attempt;

use http::HeaderMap;
use jiff::Timestamp;

use super::browser::cors::Initiator;
use super::error::AccountChoices;
use super::error::Error;
use super::login::pbx::Selectors;
use super::{Caller, Proxy};
use crate::auth::{Ask, Fault, Once, Proof, Refused, Verdict};
use crate::config::MethodKind;
use crate::limit::Limited;
use crate::model::account::AdminLevel;
use crate::model::grant::{self, GrantError, PbxGrant, Requested, VoximplantGrant};
use crate::model::login::{LoginKind, LoginOutcome};
use crate::model::principal::Principal;
use crate::model::upstream_name::UpstreamName;
use crate::observe::audit::{AuditedAct, Entry};
use crate::state::MarkError;

/// What the audit log learns of one login, beside who asked from where.
#[derive(Debug, Default)]
pub(super) struct Facts<'a> {
    /// The method that refused, where there is no principal.
    pub(super) method: Option<&'a str>,
    pub(super) principal: Option<&'a Principal>,
    pub(super) rule: Option<&'a str>,
    pub(super) account: Option<String>,
    /// How much the PBX session may do.
    pub(super) level: Option<AdminLevel>,
}

impl Proxy {
    /// Turns what a limit says into an answer, and counts who is beyond it.
    pub(super) fn within<T>(&self, asked: Result<T, Limited>) -> Result<T, Error> {
        asked.map_err(|limited| {
            self.tally.limited(limited.name);
            Error::Limited(limited)
        })
    }

    /// Asks who is calling. No limit counts it.
    pub(super) async fn ask(
        &self,
        act: LoginKind,
        headers: &HeaderMap,
        query: Option<&str>,
        caller: &Caller,
    ) -> Result<Verdict, Error> {
        Ok(self.chain.ask(&asking(act, headers, query, caller)).await?)
    }

    /// Judges what is known of a caller, and counts it.
    pub(super) fn judge(
        &self,
        verdict: Verdict,
        initiator: &Initiator,
        act: LoginKind,
        caller: &Caller,
    ) -> Result<Proof, Error> {
        self.look_at_failures(caller)?;
        let proof = prove(verdict, initiator).map_err(|unproven| self.unproven(&unproven, act, caller))?;
        if !proof.is_key() {
            let principal = proof.principal();
            self.within(self.shared.limits.caller.admit(&(&principal.method, &principal.subject, caller.is_sent())))?;
        }
        Ok(proof)
    }

    /// Counts and audits a credential that proves nobody.
    fn unproven(&self, unproven: &Unproven, act: LoginKind, caller: &Caller) -> Error {
        if let Err(limited) = self.count_fault(unproven, caller) {
            return limited;
        }
        match unproven {
            Unproven::Elsewhere(Some(principal)) => {
                let facts = Facts { principal: Some(principal), ..Facts::default() };
                self.failed(act, caller, &facts, ELSEWHERE);
            }
            Unproven::Stranger => self.failed(act, caller, &Facts::default(), STRANGER),
            Unproven::Refused(refused) => {
                let facts = Facts { method: refused.method.as_deref(), ..Facts::default() };
                self.failed(act, caller, &facts, &refused.reason);
            }
            Unproven::Elsewhere(None) | Unproven::Nobody => {}
        }
        match unproven {
            Unproven::Elsewhere(_) => Error::CrossSite,
            Unproven::Stranger | Unproven::Refused(_) | Unproven::Nobody => self.nobody(caller),
        }
    }

    /// Counts a guess, or a cookie that is left over. What a page of another origin does counts against nobody.
    fn count_fault(&self, unproven: &Unproven, caller: &Caller) -> Result<(), Error> {
        match unproven {
            Unproven::Refused(Refused { fault: Fault::Guess, .. }) => self.count_guess(caller),
            Unproven::Refused(Refused { fault: Fault::Stale, .. }) | Unproven::Stranger => self.count_stale(caller),
            Unproven::Refused(Refused { fault: Fault::NoGuess, .. }) | Unproven::Elsewhere(_) | Unproven::Nobody => {
                Ok(())
            }
        }
    }

    /// Maps a proven caller to whom it may become on the PBX now.
    pub(super) fn grant_pbx(
        &self,
        principal: &Principal,
        selectors: &Selectors,
        caller: &Caller,
    ) -> Result<PbxGrant, Error> {
        self.look_at_wishes(principal, &selectors.wish)?;
        let grant =
            grant::pbx(&self.config.rules, principal, &selectors.wish, Timestamp::now()).map_err(|refusal| {
                let choices = |among| AccountChoices::PbxByLink { among, language: selectors.language.clone() };
                self.not_granted(LoginKind::Pbx, caller, principal, refusal, choices)
            })?;
        let role = grant.role();
        if self.shared.frozen.has(role) {
            let facts = Facts {
                principal: Some(principal),
                rule: Some(grant.rule()),
                account: Some(role.to_string()),
                level: Some(role.level()),
                ..Facts::default()
            };
            return Err(self.frozen(LoginKind::Pbx, caller, &facts));
        }
        let sessions = self.shared.limits.sessions(role.level());
        let sent = caller.is_sent() && role.level() == AdminLevel::User;
        self.within(sessions.admit(&(role.level().as_str(), role.limit_key(), sent)))?;
        Ok(grant)
    }

    /// Maps a proven caller to the Voximplant user it may become now.
    pub(super) fn grant_voximplant(
        &self,
        principal: &Principal,
        wish: &Requested,
        caller: &Caller,
    ) -> Result<VoximplantGrant, Error> {
        self.look_at_wishes(principal, wish)?;
        let grant = grant::voximplant(&self.config.rules, principal, wish, Timestamp::now()).map_err(|refusal| {
            self.not_granted(LoginKind::Ott, caller, principal, refusal, AccountChoices::Voximplant)
        })?;
        let voximplant = self.config.voximplant.as_ref();
        if self.shared.frozen.has_user(grant.user(), voximplant.and_then(|all| all.application.as_deref())) {
            let account = Some(grant.user().to_string());
            let facts = Facts { principal: Some(principal), rule: Some(grant.rule()), account, ..Facts::default() };
            return Err(self.frozen(LoginKind::Ott, caller, &facts));
        }
        self.within(self.shared.limits.account.admit(&("voximplant", grant.user().as_str())))?;
        Ok(grant)
    }

    /// Turns what the rules say into an answer. Several accounts are no refusal: the caller may have any of them.
    fn not_granted(
        &self,
        act: LoginKind,
        caller: &Caller,
        principal: &Principal,
        refusal: GrantError,
        choices: impl FnOnce(Vec<Requested>) -> AccountChoices,
    ) -> Error {
        match refusal {
            GrantError::Choose { among, .. } => Error::Choose(choices(among)),
            refusal @ GrantError::Foreign { .. } if !self.is_key(&principal.method) => {
                match self.count_wish(principal, caller) {
                    Ok(()) => self.forbid(act, caller, principal, &refusal),
                    Err(limited) => limited,
                }
            }
            refusal => self.forbid(act, caller, principal, &refusal),
        }
    }

    /// Lets the caller choose within what its credential allows.
    pub(super) fn choose(
        &self,
        act: LoginKind,
        proof: Proof,
        wish: &Requested,
        caller: &Caller,
    ) -> Result<Principal, Error> {
        let (shown, is_key) = (proof.principal().clone(), proof.is_key());
        let principal = proof.choose(wish).ok_or_else(|| self.forbid(act, caller, &shown, &FOREIGN))?;
        if is_key {
            // A server may ask for everybody behind it: it is another caller for each.
            self.within(self.shared.limits.caller.admit(&(&shown.method, wish)))?;
        }
        Ok(principal)
    }

    /// Tells whether a method is a server's key: what that names outside its lists is no guess.
    pub(super) fn is_key(&self, method: &str) -> bool {
        self.config.methods.iter().any(|one| one.name == method && matches!(one.kind, MethodKind::Key(_)))
    }

    /// Marks the caller's credential as used, if it works once. To be called last, before what it is used for.
    pub(super) async fn spend(
        &self,
        act: LoginKind,
        once: Option<&Once>,
        caller: &Caller,
        facts: &Facts<'_>,
    ) -> Result<(), Error> {
        let Some(once) = once else { return Ok(()) };
        let Err(error) = self.shared.store.mark(&once.scope, &once.id, once.until).await else { return Ok(()) };
        match error {
            MarkError::AlreadyUsed => {
                self.failed(act, caller, facts, USED);
                Err(self.nobody(caller))
            }
            MarkError::Unkept(error) => {
                self.failed(act, caller, facts, &format!("the credential cannot be marked as used: {error}"));
                Err(Error::NotStored(error))
            }
        }
    }

    /// Refuses a login that a rule grants and the operator does not. To the caller it is like any other that is refused;
    /// it is no failure of an address that others may share.
    pub(super) fn frozen(&self, act: LoginKind, caller: &Caller, facts: &Facts<'_>) -> Error {
        self.failed(act, caller, facts, FROZEN);
        Error::Forbidden
    }

    fn forbid(&self, act: LoginKind, caller: &Caller, principal: &Principal, reason: &dyn std::fmt::Display) -> Error {
        self.failed(act, caller, &Facts { principal: Some(principal), ..Facts::default() }, &reason.to_string());
        Error::Forbidden
    }

    /// Audits a login that is granted. To be called before its caller is given anything: without the line there is no
    /// login.
    pub(super) async fn granted(&self, act: LoginKind, caller: &Caller, facts: &Facts<'_>) -> Result<(), Error> {
        let entry = self.entry(AuditedAct::Login(act), LoginOutcome::Granted, caller, facts, None);
        let written = self.logs.write_grant(&entry).await;
        if let Err(unaudited) = written {
            self.failed(act, caller, facts, &unaudited.to_string());
            return Err(Error::NotAudited(unaudited));
        }
        self.note_let_in(caller);
        self.tally.login(act, LoginOutcome::Granted);
        Ok(())
    }

    /// Audits a login that came to nothing. What of it is a guess was counted before.
    pub(super) fn failed(&self, act: LoginKind, caller: &Caller, facts: &Facts<'_>, reason: &str) {
        self.tally.login(act, LoginOutcome::Refused);
        self.logs.write_refusal(&self.entry(
            AuditedAct::Login(act),
            LoginOutcome::Refused,
            caller,
            facts,
            Some(reason),
        ));
    }

    /// Watches over a login that others decide on: if the caller leaves before they do, the audit log says so.
    pub(super) const fn pending<'a>(&'a self, act: LoginKind, caller: &'a Caller, facts: &'a Facts<'a>) -> Pending<'a> {
        Pending { proxy: self, act, caller, facts, settled: false }
    }

    /// Audits what the shield kept out.
    pub(super) fn kept_out(&self, caller: &Caller, reason: &str) {
        let entry = self.entry(AuditedAct::PbxBypass, LoginOutcome::Refused, caller, &Facts::default(), Some(reason));
        self.logs.write_refusal(&entry);
    }

    fn entry(
        &self,
        act: AuditedAct,
        outcome: LoginOutcome,
        caller: &Caller,
        facts: &Facts<'_>,
        reason: Option<&str>,
    ) -> Entry {
        let claims = self.claims_used(act, facts.rule);
        let principal = facts.principal;
        Entry {
            id: caller.id,
            client: caller.origin.client,
            act,
            outcome,
            method: principal.map(|principal| principal.method.as_str()).or(facts.method).map(str::to_owned),
            subject: principal.map(|principal| principal.subject.clone()),
            rule: facts.rule.map(str::to_owned),
            account: facts.account.clone(),
            level: facts.level,
            reason: reason.map(str::to_owned),
            claims,
        }
    }

    /// Names the claims by which a rule decided.
    fn claims_used(&self, act: AuditedAct, rule: Option<&str>) -> Vec<String> {
        let rule = self.config.rules.iter().find(|one| Some(one.name.as_str()) == rule);
        let claims = rule.map(|rule| match act {
            AuditedAct::Login(LoginKind::Pbx) => rule.pbx_claims(),
            AuditedAct::Login(LoginKind::Ott) => rule.voximplant_claims(),
            AuditedAct::PbxBypass => std::collections::BTreeSet::new(),
        });
        claims.into_iter().flatten().map(str::to_owned).collect()
    }

    /// Says that nobody is proven, and where a person could change that.
    pub(super) fn nobody(&self, caller: &Caller) -> Error {
        Error::Unauthenticated { login: self.login(caller) }
    }

    /// Returns where one logs in: a path of the app is led to the app's host.
    fn login(&self, caller: &Caller) -> Option<String> {
        let Some(app) = self.config.app.as_ref().filter(|app| app.login.is_some()) else {
            return self.provider_login(caller);
        };
        let login = app.login.as_ref()?;
        let is_path = login.starts_with('/');
        if !is_path || matches!(self.route(&caller.authority, login), Ok((UpstreamName::App, _))) {
            return Some(login.clone());
        }
        let host = app.upstream.hosts.iter().find_map(crate::config::HostPattern::exact)?;
        Some(format!("https://{}{login}", caller.authority.with_host(host)))
    }
}

// === What is asked and what is proven, apart from what is counted ===

/// Why a page is kept out.
pub(super) const ELSEWHERE: &str = "the request came from a page of another origin";
/// Why a credential for the app is none.
pub(super) const STRANGER: &str = "the app knows no such user";
/// Why a key may not choose.
pub(super) const FOREIGN: &str = "the key may not name this account";
/// Why whoever is frozen gets no login.
pub(super) const FROZEN: &str = "the account is frozen";

/// Why a credential that works once does not.
pub(super) const USED: &str = "the credential was used before";

/// Why nobody is proven.
pub(super) enum Unproven {
    /// A page of another origin asks, with what its visitor's browser sends along by itself.
    Elsewhere(Option<Principal>),
    /// The app does not know the credential.
    Stranger,
    /// The credential is bad.
    Refused(Refused),
    /// There is no credential.
    Nobody,
}

/// Writes the question who a request is from.
pub(super) fn asking<'a>(
    act: LoginKind,
    headers: &'a HeaderMap,
    query: Option<&'a str>,
    caller: &'a Caller,
) -> Ask<'a> {
    Ask {
        act,
        headers,
        query,
        host: &caller.authority.raw,
        origin: &caller.origin,
        peer: caller.end.address,
        certificate: caller.end.certificate.as_ref(),
        client_ca: caller.end.client_ca.as_ref(),
        id: caller.id.header_value(),
        rehearsal: false,
    }
}

/// Takes what proves a caller. A page of another origin is kept out before anything is counted against its visitor: it
/// acts with a cookie that travels by itself.
pub(super) fn prove(verdict: Verdict, initiator: &Initiator) -> Result<Proof, Unproven> {
    let elsewhere = *initiator == Initiator::Foreign;
    match verdict {
        Verdict::Admit(proof) if elsewhere && proof.is_ambient() => {
            Err(Unproven::Elsewhere(Some(proof.principal().clone())))
        }
        Verdict::Stranger if elsewhere => Err(Unproven::Elsewhere(None)),
        Verdict::Admit(proof) => Ok(proof),
        Verdict::Stranger => Err(Unproven::Stranger),
        Verdict::Refuse(refused) => Err(Unproven::Refused(refused)),
        Verdict::Abstain => Err(Unproven::Nobody),
    }
}

/// A login whose outcome nobody knows yet.
pub(super) struct Pending<'a> {
    proxy: &'a Proxy,
    act: LoginKind,
    caller: &'a Caller,
    facts: &'a Facts<'a>,
    settled: bool,
}

impl Pending<'_> {
    /// Notes that the outcome is known.
    pub(super) fn settle(mut self) {
        self.settled = true;
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if !self.settled {
            self.proxy.failed(self.act, self.caller, self.facts, "the caller left before the PBX answered");
        }
    }
}
