//! The gate before every login. A login's steps are, in this order:
//!
//! 1. [`Gate::admit`]: no page of another origin, an audit log that takes lines, failures, the limit of the client
//! 2. [`Gate::ask`] and [`Gate::prove`]: the credential, failures again, the limit of the caller
//! 3. [`Gate::choose`]: the account that a key names
//! 4. [`Gate::grant_pbx`] or [`Gate::grant_voximplant`]: the rules, freezes, the limit of the account
//! 5. what the login itself needs: a language, a host for the browser, an entry of the users file
//! 6. [`Gate::spend`]: a credential that works once is marked as used
//! 7. [`Gate::audit_grant`], before the caller is given anything
//!
//! `callgate explain` takes the same steps with [`effects::Effects::Dry`].

pub(super) mod attempt;
pub(super) mod audit;
pub(super) mod effects;

use std::rc::Rc;
use std::sync::Arc;

use http::HeaderMap;
use jiff::Timestamp;

use self::attempt::Attempt;
use self::audit::Facts;
use self::effects::Effects;
use super::browser::cors::Initiator;
use super::browser::trigger::{self, Trigger};
use super::context::{LoginRequest, RequestContext};
use super::error::AccountChoices;
use super::error::Error;
use super::hosts::Hosts;
use super::shared::LoginState;
use crate::auth::{AuthRequest, BadCredential, Chain, CredentialDigest, Proof, SingleUse, Suspicion, Verdict};
use crate::config::{Config, Handoff, MethodKind};
use crate::limit::Limited;
use crate::message::forwarded_chain::{Contradiction, ForwardedChain};
use crate::model::account::AdminLevel;
use crate::model::digest::Digest;
use crate::model::grant::{self, GrantError, PbxGrant, Requested, Trace, VoximplantGrant};
use crate::model::login::LoginKind;
use crate::model::path::LOGIN_PATH;
use crate::model::principal::Principal;
use crate::observe::Logs;
use crate::observe::metrics::Tally;
use crate::state::MarkError;

/// The reason of a refusal: a page of another origin asked.
const ELSEWHERE: &str = "the request came from a page of another origin";
/// The reason of a refusal: the app does not know the credential.
const STRANGER: &str = "the app knows no such user";
/// The reason of a refusal: a key named an account outside its lists.
const FOREIGN: &str = "the key may not name this account";
/// The reason of a refusal: the operator froze the account.
const FROZEN: &str = "the account is frozen";
/// The reason of a refusal: the credential works once.
const USED: &str = "the credential was used before";

/// What every login of one worker passes.
pub(super) struct Gate {
    pub(super) hosts: Rc<Hosts>,
    /// Limits, marks and freezes, which all workers share.
    pub(super) state: Arc<LoginState>,
    pub(super) chain: Chain,
    pub(super) logs: Rc<Logs>,
    pub(super) tally: Tally,
}

impl Gate {
    /// Returns the configuration.
    pub(super) fn config(&self) -> &Config {
        &self.hosts.config
    }

    /// Finds the client of a request. Only believed peers may name another than themselves.
    ///
    /// # Errors
    /// When a believed peer names two clients.
    pub(super) fn identify(
        &self,
        headers: &HeaderMap,
        peer: &Rc<ForwardedChain>,
    ) -> Result<Rc<ForwardedChain>, Contradiction> {
        let (client, server) = (peer.client, &self.config().server);
        if !server.believes(client) {
            return Ok(Rc::clone(peer));
        }
        ForwardedChain::from_headers(client, headers, |hop| server.believes(hop)).map(Rc::new)
    }

    // === Before the credential is judged ===

    /// Refuses what a page of another origin does unseen, then counts the request: before anything else is done for it.
    ///
    /// # Errors
    /// When a page of another origin asks unseen, no audit line can be written, or a limit is used up.
    pub(super) fn admit<'a>(
        &self,
        kind: LoginKind,
        request: LoginRequest<'_>,
        context: &'a RequestContext,
        effects: Effects<'a>,
    ) -> Result<Attempt<'a>, Error> {
        let credential = self.chain.credential(&ask_of(kind, request, context));
        let attempt = self.begin((kind, credential), request, context, effects)?;
        self.check_audit()?;
        attempt.check_failures(&self.state.limits)?;
        attempt.count_request(&self.state.limits)?;
        Ok(attempt)
    }

    /// As [`Gate::admit`], for a request that shows no credential.
    ///
    /// # Errors
    /// As [`Gate::admit`].
    pub(super) fn admit_visit<'a>(
        &self,
        request: LoginRequest<'_>,
        context: &'a RequestContext,
    ) -> Result<Attempt<'a>, Error> {
        let attempt = self.begin((LoginKind::Pbx, None), request, context, Effects::Live)?;
        self.check_audit()?;
        attempt.count_request(&self.state.limits)?;
        Ok(attempt)
    }

    /// As [`Gate::admit`], for a credential that no auth method knows. The request is not counted.
    ///
    /// # Errors
    /// When a page of another origin asks unseen, or the client has guessed too often.
    pub(super) fn admit_credential<'a>(
        &self,
        request: LoginRequest<'_>,
        digest: Digest,
        context: &'a RequestContext,
    ) -> Result<Attempt<'a>, Error> {
        let credential = CredentialDigest { digest, is_cookie: false };
        let attempt = self.begin((LoginKind::Pbx, Some(credential)), request, context, Effects::Live)?;
        attempt.check_failures(&self.state.limits)?;
        Ok(attempt)
    }

    fn begin<'a>(
        &self,
        (kind, credential): (LoginKind, Option<CredentialDigest>),
        request: LoginRequest<'_>,
        context: &'a RequestContext,
        effects: Effects<'a>,
    ) -> Result<Attempt<'a>, Error> {
        let trigger = match trigger::of(request.method, request.headers, &context.authority, self.hosts.origins()) {
            _ if self.chain.shows_deliberate_field(request.headers) => Trigger::Own,
            Trigger::ForeignPage => {
                effects.note_refusal(None, ELSEWHERE);
                return Err(Error::CrossSite);
            }
            trigger => trigger,
        };
        Ok(Attempt::new((kind, trigger, credential), request, &self.state.limits, context, effects))
    }

    /// Refuses logins while no audit line could tell of them.
    fn check_audit(&self) -> Result<(), Error> {
        self.logs.check_audit().map_err(Error::NotAudited)
    }

    // === Proving ===

    /// Asks the auth methods who is calling.
    ///
    /// # Errors
    /// When an app or an identity provider that must be asked gives no answer.
    pub(super) async fn ask(&self, request: LoginRequest<'_>, attempt: &Attempt<'_>) -> Result<Verdict, Error> {
        let ask =
            AuthRequest { rehearsal: attempt.effects.are_dry(), ..ask_of(attempt.kind, request, attempt.context) };
        Ok(self.chain.ask(&ask).await?)
    }

    /// Takes what proves the caller, and counts the caller. A bad credential is counted and audited.
    ///
    /// # Errors
    /// When the caller is not proven, a page of another origin asks with an ambient credential, or a limit is used up.
    pub(super) fn prove(&self, verdict: Verdict, initiator: &Initiator, attempt: &Attempt<'_>) -> Result<Proof, Error> {
        let limits = &self.state.limits;
        attempt.check_failures(limits)?;
        let proof = proof_of(verdict, initiator).map_err(|unproven| self.refuse_unproven(&unproven, attempt))?;
        let principal = proof.principal();
        attempt.effects.note_principal(principal);
        if !proof.is_key() {
            attempt.effects.count(&limits.caller, &(&principal.method, &principal.subject, attempt.is_sent()))?;
        }
        Ok(proof)
    }

    fn refuse_unproven(&self, unproven: &Unproven, attempt: &Attempt<'_>) -> Error {
        if let Err(limited) = self.count_fault(unproven, attempt) {
            return limited.into();
        }
        match unproven {
            Unproven::Foreign(Some(principal)) => {
                attempt.effects.note_principal(principal);
                self.audit_refusal(attempt, &Facts::of(principal), ELSEWHERE);
            }
            Unproven::Foreign(None) => attempt.effects.note_refusal(None, ELSEWHERE),
            Unproven::Stranger => self.audit_refusal(attempt, &Facts::default(), STRANGER),
            Unproven::BadCredential(refused) => {
                self.audit_refusal(attempt, &Facts::of_method(refused.method.as_deref()), &refused.reason);
            }
            Unproven::NoCredential => {}
        }
        match unproven {
            Unproven::Foreign(_) => Error::CrossSite,
            Unproven::Stranger | Unproven::BadCredential(_) | Unproven::NoCredential => {
                self.unauthenticated(attempt.context)
            }
        }
    }

    /// Counts a guess, or a cookie that is left over. What a page of another origin does is not counted.
    fn count_fault(&self, unproven: &Unproven, attempt: &Attempt<'_>) -> Result<(), Limited> {
        match unproven {
            Unproven::BadCredential(BadCredential { suspicion: Suspicion::Guess, .. }) => {
                attempt.count_guess(&self.state.limits)
            }
            Unproven::BadCredential(BadCredential { suspicion: Suspicion::Stale, .. }) | Unproven::Stranger => {
                attempt.count_stale(&self.state.limits)
            }
            Unproven::BadCredential(BadCredential { suspicion: Suspicion::None, .. })
            | Unproven::Foreign(_)
            | Unproven::NoCredential => Ok(()),
        }
    }

    /// Lets the caller choose within what its credential allows.
    ///
    /// # Errors
    /// When a key names an account outside its lists, or asks for it too often.
    pub(super) fn choose(
        &self,
        proof: Proof,
        requested: &Requested,
        attempt: &Attempt<'_>,
    ) -> Result<Principal, Error> {
        let (shown, is_key) = (proof.principal().clone(), proof.is_key());
        let Some(principal) = proof.choose(requested) else {
            return Err(self.forbid(attempt, &shown, FOREIGN));
        };
        attempt.effects.note_principal(&principal);
        if is_key {
            // A server asks for all callers behind it: for each account that it names it is another caller.
            attempt.effects.count(&self.state.limits.caller, &(&shown.method, requested))?;
        }
        Ok(principal)
    }

    // === Granting ===

    /// Grants a proven caller an account of the PBX.
    ///
    /// # Errors
    /// When no rule grants one, it is frozen, or a limit is used up.
    pub(super) fn grant_pbx(
        &self,
        principal: &Principal,
        requested: &Requested,
        choices: impl FnOnce(Vec<Requested>) -> AccountChoices,
        attempt: &Attempt<'_>,
    ) -> Result<PbxGrant, Error> {
        attempt.check_requested(&self.state.limits, principal, requested)?;
        let trace = grant::explain_pbx(&self.config().rules, principal, requested, Timestamp::now());
        let grant = self.apply_rules(trace, principal, choices, attempt)?;
        let role = grant.role();
        self.refuse_frozen(self.state.freezes.covers_role(role), &Facts::of(principal).of_pbx_grant(&grant), attempt)?;
        let is_sent = attempt.is_sent() && role.level() == AdminLevel::User;
        let sessions = self.state.limits.sessions(role.level());
        attempt.effects.count(sessions, &(role.level().as_str(), role.limit_key(), is_sent))?;
        Ok(grant)
    }

    /// Grants a proven caller a Voximplant user.
    ///
    /// # Errors
    /// As [`Gate::grant_pbx`].
    pub(super) fn grant_voximplant(
        &self,
        principal: &Principal,
        requested: &Requested,
        application: Option<&str>,
        attempt: &Attempt<'_>,
    ) -> Result<VoximplantGrant, Error> {
        attempt.check_requested(&self.state.limits, principal, requested)?;
        let trace = grant::explain_voximplant(&self.config().rules, principal, requested, Timestamp::now());
        let grant = self.apply_rules(trace, principal, AccountChoices::Voximplant, attempt)?;
        let user = grant.user();
        let is_frozen = self.state.freezes.covers_user(user, application);
        self.refuse_frozen(is_frozen, &Facts::of(principal).of_voximplant_grant(&grant), attempt)?;
        attempt.effects.count(&self.state.limits.account, &("voximplant", user.as_str()))?;
        Ok(grant)
    }

    /// Turns what the rules say into a grant or an error. Several accounts are no refusal: the caller may have any.
    fn apply_rules<G>(
        &self,
        trace: Trace<'_, G>,
        principal: &Principal,
        choices: impl FnOnce(Vec<Requested>) -> AccountChoices,
        attempt: &Attempt<'_>,
    ) -> Result<G, Error> {
        attempt.effects.note_skipped(&trace.skipped);
        let refusal = match trace.outcome {
            Ok(grant) => return Ok(grant),
            Err(refusal) => refusal,
        };
        let reason = refusal.to_string();
        match refusal {
            GrantError::Choose { among, .. } => {
                attempt.effects.note_refusal(None, &reason);
                return Err(Error::Choose(choices(among)));
            }
            GrantError::Foreign { .. } if !self.is_key(&principal.method) => {
                attempt.count_foreign_account(&self.state.limits, principal)?;
            }
            GrantError::NoRule | GrantError::Invalid { .. } | GrantError::Foreign { .. } => {}
        }
        Err(self.forbid(attempt, principal, &reason))
    }

    /// Refuses a login that a rule grants, to an account that the operator has frozen. The caller cannot tell this refusal
    /// from others, and no address is charged with a failure for it.
    ///
    /// # Errors
    /// When the account is frozen.
    pub(super) fn refuse_frozen(&self, is_frozen: bool, facts: &Facts<'_>, attempt: &Attempt<'_>) -> Result<(), Error> {
        if !is_frozen {
            return Ok(());
        }
        self.audit_refusal(attempt, facts, FROZEN);
        Err(Error::Forbidden)
    }

    /// Marks the caller's credential as used, if it works once: the last step before what it is used for.
    ///
    /// # Errors
    /// When it was used before, or the mark cannot be kept.
    pub(super) async fn spend(
        &self,
        once: Option<&SingleUse>,
        facts: &Facts<'_>,
        attempt: &Attempt<'_>,
    ) -> Result<(), Error> {
        let Some(once) = once else { return Ok(()) };
        let Err(error) = attempt.effects.mark(&self.state.store, once).await else { return Ok(()) };
        match error {
            MarkError::AlreadyUsed => {
                self.audit_refusal(attempt, facts, USED);
                Err(self.unauthenticated(attempt.context))
            }
            MarkError::Unkept(error) => {
                let reason = format!("the credential cannot be marked as used: {error}");
                self.audit_refusal(attempt, facts, &reason);
                Err(Error::NotStored(error))
            }
        }
    }

    fn forbid(&self, attempt: &Attempt<'_>, principal: &Principal, reason: &str) -> Error {
        self.audit_refusal(attempt, &Facts::of(principal), reason);
        Error::Forbidden
    }

    // === What the configuration says ===

    /// Tells whether a method is a server's key: an account that it names outside its lists is no guess.
    pub(super) fn is_key(&self, method: &str) -> bool {
        self.config().methods.iter().any(|one| one.name == method && matches!(one.kind, MethodKind::Key(_)))
    }

    /// Tells whether people can log in at an identity provider: then their browsers keep cookies of ours.
    pub(super) fn has_providers(&self) -> bool {
        !self.chain.providers().is_empty()
    }

    /// Tells whether browsers keep cookies of ours, which no upstream shall see.
    pub(super) fn keeps_cookies(&self) -> bool {
        self.has_providers() || self.config().pbx.as_ref().is_some_and(|pbx| pbx.handoff == Handoff::Cookie)
    }

    // === Where to log in ===

    /// Returns the error of a caller that is not proven, with the place to log in.
    pub(super) fn unauthenticated(&self, context: &RequestContext) -> Error {
        Error::Unauthenticated { login: self.login_location(context) }
    }

    /// Returns where a person logs in at an identity provider, if there is one.
    pub(super) fn provider_login(&self, context: &RequestContext) -> Option<String> {
        self.has_providers().then(|| format!("{}{LOGIN_PATH}", context.authority.origin()))
    }

    /// Returns where a person logs in.
    fn login_location(&self, context: &RequestContext) -> Option<String> {
        match self.config().app.as_ref().filter(|app| app.login.is_some()) {
            Some(_) => self.hosts.app_login(&context.authority),
            None => self.provider_login(context),
        }
    }
}

/// The reasons why a caller is not proven.
enum Unproven {
    /// A page of another origin asks, with a credential that its visitor's browser sends by itself.
    Foreign(Option<Principal>),
    /// The app does not know the credential.
    Stranger,
    /// The credential is bad.
    BadCredential(BadCredential),
    /// The request shows no credential.
    NoCredential,
}

/// Prepares the question to the auth methods.
pub(super) fn ask_of<'a>(kind: LoginKind, request: LoginRequest<'a>, context: &'a RequestContext) -> AuthRequest<'a> {
    AuthRequest {
        login: kind,
        headers: request.headers,
        query: request.query,
        host: &context.authority.raw,
        origin: &context.origin,
        peer: context.end.address,
        certificate: context.end.certificate.as_ref(),
        client_ca: context.end.client_ca.as_ref(),
        id: context.id.header_value(),
        rehearsal: false,
    }
}

/// Takes what proves a caller. A page of another origin is refused before anything counts against its visitor: it acts
/// with a cookie that the browser sends by itself.
fn proof_of(verdict: Verdict, initiator: &Initiator) -> Result<Proof, Unproven> {
    let is_foreign = *initiator == Initiator::Foreign;
    match verdict {
        Verdict::Admit(proof) if is_foreign && proof.is_ambient() => {
            Err(Unproven::Foreign(Some(proof.principal().clone())))
        }
        Verdict::Stranger if is_foreign => Err(Unproven::Foreign(None)),
        Verdict::Admit(proof) => Ok(proof),
        Verdict::Stranger => Err(Unproven::Stranger),
        Verdict::Refuse(refused) => Err(Unproven::BadCredential(refused)),
        Verdict::Abstain => Err(Unproven::NoCredential),
    }
}
