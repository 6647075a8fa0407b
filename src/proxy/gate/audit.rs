//! The audit line of every login, granted or refused.

use std::collections::BTreeSet;

use super::Gate;
use super::attempt::Attempt;
use super::caller::Caller;
use super::effects::Effects;
use crate::config::NodeIndex;
use crate::model::account::AdminLevel;
use crate::model::grant::{PbxGrant, VoximplantGrant};
use crate::model::login::{LoginKind, LoginOutcome, LogoutKind, LogoutOutcome};
use crate::model::principal::Principal;
use crate::observe::access::AccessCaller;
use crate::observe::audit::{AuditedAct, LoginRecord};
use crate::proxy::context::RequestContext;
use crate::proxy::error::Error;

/// The facts of one login for the audit log, beside the client.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Facts<'a> {
    /// The method that refused, where there is no proven caller.
    pub(in crate::proxy) method: Option<&'a str>,
    /// The method and the subject of the proven caller.
    pub(in crate::proxy) proven: Option<(&'a str, &'a str)>,
    /// The person that a provider names, where there is no proven caller.
    pub(in crate::proxy) subject: Option<&'a str>,
    pub(in crate::proxy) rule: Option<&'a str>,
    pub(in crate::proxy) account: Option<String>,
    /// The rights of the PBX session.
    pub(in crate::proxy) level: Option<AdminLevel>,
    /// The PBX node, where there are several.
    pub(in crate::proxy) pbx: Option<&'a str>,
    /// The caller of a login that may have begun with another request.
    pub(in crate::proxy) caller: Option<&'a Caller>,
}

impl<'a> Facts<'a> {
    /// States the method that refused.
    pub(in crate::proxy) fn of_method(method: Option<&'a str>) -> Self {
        Self { method, ..Self::default() }
    }

    /// States the caller.
    pub(in crate::proxy) fn of(principal: &'a Principal) -> Self {
        Self { proven: Some((&principal.method, &principal.subject)), ..Self::default() }
    }

    /// States the caller of a login whose credential is spent.
    pub(in crate::proxy) fn of_caller(caller: &'a Caller) -> Self {
        Self { proven: Some((&caller.method, &caller.subject)), caller: Some(caller), ..Self::default() }
    }

    /// States a grant of an account of the PBX.
    pub(in crate::proxy) fn of_pbx_grant(self, grant: &'a PbxGrant) -> Self {
        let role = grant.role();
        Self { rule: Some(grant.rule()), account: Some(role.to_string()), level: Some(role.level()), ..self }
    }

    /// States the PBX node, where there are several.
    pub(in crate::proxy) fn at_node(self, pbx: Option<&'a str>) -> Self {
        Self { pbx, ..self }
    }

    /// States a grant of a Voximplant user.
    pub(in crate::proxy) fn of_voximplant_grant(self, grant: &'a VoximplantGrant) -> Self {
        Self { rule: Some(grant.rule()), account: Some(grant.user().to_string()), ..self }
    }
}

impl Gate {
    /// Audits a login that is granted, before its caller is given anything: without the line there is no login.
    ///
    /// # Errors
    /// When the line cannot be written.
    pub(in crate::proxy) async fn audit_grant(&self, attempt: &Attempt<'_>, facts: &Facts<'_>) -> Result<(), Error> {
        self.audit_success(LoginOutcome::Granted, attempt, facts).await
    }

    /// Audits a ticket, before the browser gets it: its session is opened and audited later, by another request.
    ///
    /// # Errors
    /// When the line cannot be written.
    pub(in crate::proxy) async fn audit_ticket(&self, attempt: &Attempt<'_>, facts: &Facts<'_>) -> Result<(), Error> {
        self.audit_success(LoginOutcome::Ticket, attempt, facts).await
    }

    async fn audit_success(
        &self,
        outcome: LoginOutcome,
        attempt: &Attempt<'_>,
        facts: &Facts<'_>,
    ) -> Result<(), Error> {
        let entry = self.entry(AuditedAct::Login(attempt.kind), outcome, attempt.context, facts, None);
        if let Err(unaudited) = self.logs.write_grant(&entry).await {
            self.audit_refusal(attempt, facts, &unaudited.to_string());
            return Err(Error::NotAudited(unaudited));
        }
        // A ticket is no credential of its caller's.
        if entry.begun.is_none() {
            attempt.remember_own(&self.state.limits);
        }
        self.tally.login(attempt.kind, outcome);
        Ok(())
    }

    /// Audits a login that is refused. The limits have counted it before.
    pub(in crate::proxy) fn audit_refusal(&self, attempt: &Attempt<'_>, facts: &Facts<'_>, reason: &str) {
        match attempt.effects {
            Effects::Live => {
                self.tally.login(attempt.kind, LoginOutcome::Refused);
                let entry = self.entry(
                    AuditedAct::Login(attempt.kind),
                    LoginOutcome::Refused,
                    attempt.context,
                    facts,
                    Some(reason),
                );
                self.tally.refused(&entry);
                self.logs.write_refusal(&entry);
            }
            Effects::Dry(_) => attempt.effects.note_refusal(facts.method, reason),
        }
    }

    /// Audits a request to the PBX that the shield refuses.
    pub(in crate::proxy) fn audit_bypass(&self, context: &RequestContext, node: NodeIndex, reason: &str) {
        let facts = Facts::default().at_node(self.config().pbx.label(node));
        let entry = self.entry(AuditedAct::PbxBypass, LoginOutcome::Refused, context, &facts, Some(reason));
        self.tally.refused(&entry);
        self.logs.write_refusal(&entry);
    }

    /// Audits a logout. None waits for its line: nothing is given to anybody.
    pub(in crate::proxy) fn audit_logout(
        &self,
        kind: LogoutKind,
        outcome: LogoutOutcome,
        context: &RequestContext,
        facts: &Facts<'_>,
        reason: Option<&str>,
    ) {
        self.tally.logout(kind, outcome);
        let has_ended = match outcome {
            LogoutOutcome::Done | LogoutOutcome::Unconfirmed => LoginOutcome::Granted,
            LogoutOutcome::Refused => LoginOutcome::Refused,
        };
        let entry = self.entry(AuditedAct::Logout(kind), has_ended, context, facts, reason);
        if outcome == LogoutOutcome::Refused {
            self.tally.refused(&entry);
        }
        self.logs.write_refusal(&entry);
    }

    /// Watches over a login until the PBX answers: if the caller leaves before that, the audit log says so.
    pub(in crate::proxy) const fn watch<'a>(
        &'a self,
        attempt: &'a Attempt<'a>,
        facts: &'a Facts<'a>,
    ) -> PendingLogin<'a> {
        PendingLogin { gate: self, attempt, facts, is_settled: false }
    }

    fn entry(
        &self,
        act: AuditedAct,
        outcome: LoginOutcome,
        context: &RequestContext,
        facts: &Facts<'_>,
        reason: Option<&str>,
    ) -> LoginRecord {
        let before = facts.caller.filter(|caller| caller.request != context.id);
        let client = before.map_or_else(|| context.client(), |caller| caller.client);
        let subject = facts.proven.map(|(_, subject)| subject).or(facts.subject).map(str::to_owned);
        let account = facts.account.clone();
        // The access line says it too.
        context.caller.get_or_init(|| AccessCaller {
            subject: subject.clone(),
            account: account.clone(),
            pbx: facts.pbx.map(str::to_owned),
        });
        LoginRecord {
            id: context.id,
            client,
            begun: before.map(|caller| caller.request),
            redeemed_from: Some(context.client()).filter(|from| *from != client),
            act,
            is_guess: outcome == LoginOutcome::Refused && context.findings.has_guessed.get(),
            outcome,
            method: facts.proven.map(|(method, _)| method).or(facts.method).map(str::to_owned),
            subject,
            rule: facts.rule.map(str::to_owned),
            account,
            level: facts.level,
            pbx: facts.pbx.map(str::to_owned),
            reason: reason.map(str::to_owned),
            claims: self.claims_used(act, facts.rule),
        }
    }

    /// Names the claims by which a rule decided.
    fn claims_used(&self, act: AuditedAct, rule: Option<&str>) -> Vec<String> {
        let rule = self.config().rules.iter().find(|one| Some(one.name.as_str()) == rule);
        let claims = rule.map(|rule| match act {
            AuditedAct::Login(LoginKind::Pbx) => rule.pbx_claims(),
            AuditedAct::Login(LoginKind::Ott) => rule.voximplant_claims(),
            AuditedAct::Logout(_) | AuditedAct::PbxBypass => BTreeSet::new(),
        });
        claims.into_iter().flatten().map(str::to_owned).collect()
    }
}

/// A login that waits for the PBX.
pub(in crate::proxy) struct PendingLogin<'a> {
    gate: &'a Gate,
    attempt: &'a Attempt<'a>,
    facts: &'a Facts<'a>,
    is_settled: bool,
}

impl PendingLogin<'_> {
    /// Notes that the outcome is known.
    pub(in crate::proxy) fn settle(mut self) {
        self.is_settled = true;
    }
}

impl Drop for PendingLogin<'_> {
    fn drop(&mut self) {
        if !self.is_settled {
            self.gate.audit_refusal(self.attempt, self.facts, "the caller left before the PBX answered");
        }
    }
}
