//! What a proven caller is granted: the rules, freezes, the limit of the account, and the mark on its credential.

use jiff::Timestamp;

use super::Gate;
use super::attempt::Attempt;
use super::audit::Facts;
use crate::auth::{Proof, SingleUse};
use crate::limit::{LimitKey, LimitQuery};
use crate::model::account::AdminLevel;
use crate::model::grant::{self, Decision, GrantError, PbxGrant, Requested, VoximplantGrant};
use crate::model::principal::Principal;
use crate::proxy::error::{AccountChoices, Error};
use crate::state::MarkError;

/// The reason of a refusal: a key named an account outside its lists.
const FOREIGN: &str = "the key may not name this account";
/// The reason of a refusal: the operator froze the account.
const FROZEN: &str = "the account is frozen";
/// The reason of a refusal: the credential works once.
const USED: &str = "the credential was used before";

impl Gate {
    /// Lets the caller choose within what its credential allows.
    ///
    /// # Errors
    /// When a key names an account outside its lists, or asks for it too often.
    pub(in crate::proxy) async fn choose(
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
            let limits = &self.state.limits;
            let caller = LimitQuery::count(&limits.caller, key_for(&shown.method, requested));
            attempt.ask(limits, vec![caller]).await?;
        }
        Ok(principal)
    }

    /// Grants a proven caller an account of the PBX.
    ///
    /// # Errors
    /// When no rule grants one, it is frozen, or a limit is used up.
    pub(in crate::proxy) async fn grant_pbx(
        &self,
        principal: &Principal,
        requested: &Requested,
        choices: impl FnOnce(Vec<Requested>) -> AccountChoices,
        attempt: &Attempt<'_>,
    ) -> Result<PbxGrant, Error> {
        attempt.check_requested(&self.state.limits, principal, requested).await?;
        let decision = grant::pbx(&self.config().rules, principal, requested, Timestamp::now());
        let grant = self.apply_rules(decision, principal, choices, attempt).await?;
        let role = grant.role();
        self.refuse_frozen(self.state.freezes.covers_role(role), &Facts::of(principal).of_pbx_grant(&grant), attempt)?;
        let is_sent = attempt.is_sent() && role.level() == AdminLevel::User;
        let limits = &self.state.limits;
        let parts = [role.level().as_str(), &role.limit_key()];
        let account = LimitKey::of(&[parts[0].as_bytes(), parts[1].as_bytes(), &[u8::from(is_sent)]]);
        let grants = LimitQuery::count(limits.sessions(role.level()), account);
        attempt.ask(limits, vec![grants]).await?;
        Ok(grant)
    }

    /// Grants a proven caller a Voximplant user.
    ///
    /// # Errors
    /// As [`Gate::grant_pbx`].
    pub(in crate::proxy) async fn grant_voximplant(
        &self,
        principal: &Principal,
        requested: &Requested,
        application: Option<&str>,
        attempt: &Attempt<'_>,
    ) -> Result<VoximplantGrant, Error> {
        attempt.check_requested(&self.state.limits, principal, requested).await?;
        let decision = grant::voximplant(&self.config().rules, principal, requested, Timestamp::now());
        let grant = self.apply_rules(decision, principal, AccountChoices::Voximplant, attempt).await?;
        let user = grant.user();
        let is_frozen = self.state.freezes.covers_user(user, application);
        self.refuse_frozen(is_frozen, &Facts::of(principal).of_voximplant_grant(&grant), attempt)?;
        let limits = &self.state.limits;
        let account = LimitKey::of(&[b"voximplant", user.as_str().as_bytes()]);
        attempt.ask(limits, vec![LimitQuery::count(&limits.account, account)]).await?;
        Ok(grant)
    }

    /// Turns what the rules say into a grant or an error. Several accounts are no refusal: the caller may have any.
    async fn apply_rules<G>(
        &self,
        decision: Decision<'_, G>,
        principal: &Principal,
        choices: impl FnOnce(Vec<Requested>) -> AccountChoices,
        attempt: &Attempt<'_>,
    ) -> Result<G, Error> {
        attempt.effects.note_skipped(&decision.skipped);
        let refusal = match decision.outcome {
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
                attempt.count_foreign_account(&self.state.limits, principal).await?;
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
    pub(in crate::proxy) fn refuse_frozen(
        &self,
        is_frozen: bool,
        facts: &Facts<'_>,
        attempt: &Attempt<'_>,
    ) -> Result<(), Error> {
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
    pub(in crate::proxy) async fn spend(
        &self,
        once: Option<&SingleUse>,
        facts: &Facts<'_>,
        attempt: &Attempt<'_>,
    ) -> Result<(), Error> {
        let Some(once) = once else { return Ok(()) };
        let Err(error) = attempt.effects.mark(&self.state.once, once).await else { return Ok(()) };
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
}

/// Returns the key under which a server's key counts, for each caller that it asks for.
fn key_for(method: &str, requested: &Requested) -> LimitKey {
    let Requested { account, domain, user } = requested;
    let named = [account, domain, user].map(|part| part.as_deref());
    // A part that is missing is not one that is empty.
    let known = named.map(|part| u8::from(part.is_some()));
    let [account, domain, user] = named.map(|part| part.unwrap_or_default().as_bytes());
    LimitKey::of(&[method.as_bytes(), &known, account, domain, user])
}
