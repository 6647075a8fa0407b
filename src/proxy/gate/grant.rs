//! What a proven caller is granted: the rules, freezes, the limit of the account, and the mark on its credential.

use jiff::Timestamp;

use super::Gate;
use super::attempt::{self, Attempt};
use super::audit::Facts;
use super::node::WantedNode;
use crate::auth::{Proof, SingleUse};
use crate::config::NodeIndex;
use crate::limit::{LimitKey, LimitQuery, Limited};
use crate::model::account::{AdminLevel, Role};
use crate::model::grant::{self, Decision, GrantError, PbxGrant, Requested, VoximplantGrant};
use crate::model::ott::VoximplantUser;
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
    /// When a key names an account outside its lists.
    pub(in crate::proxy) fn choose(
        &self,
        proof: Proof,
        requested: &Requested,
        attempt: &Attempt<'_>,
    ) -> Result<Principal, Error> {
        let shown = proof.principal().clone();
        let Some(principal) = proof.choose(requested) else {
            return Err(self.forbid(attempt, &shown, FOREIGN));
        };
        attempt.effects.note_principal(&principal);
        Ok(principal)
    }

    /// Grants a proven caller an account of the PBX, at one of its nodes. A grant that ends with a refusal uses nothing of the
    /// account's limit.
    ///
    /// # Errors
    /// When no rule grants one, it is frozen, its node opens no session for this login, or a limit is used up.
    pub(in crate::proxy) async fn grant_pbx(
        &self,
        principal: &Principal,
        requested: &Requested,
        choices: impl FnOnce(Vec<Requested>) -> AccountChoices,
        wanted: WantedNode,
        attempt: &Attempt<'_>,
    ) -> Result<(PbxGrant, NodeIndex), Error> {
        let decision = self.decide_pbx(principal, requested, wanted, attempt);
        let is_frozen = |grant: &PbxGrant| self.state.freezes.covers_role(grant.role());
        let judge_node = |grant: &PbxGrant| self.judge_node(grant.role(), wanted, attempt);
        let count = |grant: &PbxGrant| Some(self.count_role(grant.role(), judge_node(grant).ok()?, attempt));
        self.count_decision(&decision, (principal, requested), is_frozen, count, attempt).await?;
        let grant = self.apply_rules(decision, principal, choices, attempt)?;
        self.refuse_frozen(is_frozen(&grant), &Facts::of(principal).of_pbx_grant(&grant), attempt)?;
        let node = judge_node(&grant);
        let node = node.map_err(|refusal| self.refuse_node(refusal, (principal, &grant), wanted, attempt))?;
        Ok((grant, node))
    }

    /// Decides by the rules. Of several accounts, a caller chooses among those whose nodes open a session for this login: a
    /// page does not learn of accounts at other nodes.
    fn decide_pbx(
        &self,
        principal: &Principal,
        requested: &Requested,
        wanted: WantedNode,
        attempt: &Attempt<'_>,
    ) -> Decision<'_, PbxGrant> {
        let now = Timestamp::now();
        let decide = |requested: &Requested| grant::pbx(&self.config().rules, principal, requested, now);
        let mut decision = decide(requested);
        if !self.config().pbx.are_several() {
            // Its one node opens sessions of all of them, or of none.
            return decision;
        }
        let Err(GrantError::Choose { among, .. }) = &mut decision.outcome else { return decision };
        let has_node = |grant: &PbxGrant| self.judge_node(grant.role(), wanted, attempt).is_ok();
        let first = among.first().cloned();
        among.retain(|one| decide(one).outcome.as_ref().is_ok_and(has_node));
        match (&among[..], first) {
            ([only], _) => decide(only),
            // It ends with the refusal of its node.
            ([], Some(first)) => decide(&first),
            _ => decision,
        }
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
        let decision = grant::voximplant(&self.config().rules, principal, requested, Timestamp::now());
        let is_frozen = |grant: &VoximplantGrant| self.state.freezes.covers_user(grant.user(), application);
        let count = |grant: &VoximplantGrant| Some(self.count_user(grant.user()));
        self.count_decision(&decision, (principal, requested), is_frozen, count, attempt).await?;
        let grant = self.apply_rules(decision, principal, AccountChoices::Voximplant, attempt)?;
        self.refuse_frozen(is_frozen(&grant), &Facts::of(principal).of_voximplant_grant(&grant), attempt)?;
        Ok(grant)
    }

    // === The limits of a decision ===

    /// Asks all limits of a decision at once, before the caller learns of it: those of what it asks for; then that of a
    /// granted account that is not frozen (`count`), or those of an account that it may not have.
    ///
    /// # Errors
    /// When a limit is used up.
    async fn count_decision<'l, G>(
        &'l self,
        decision: &Decision<'_, G>,
        (principal, requested): (&Principal, &Requested),
        is_frozen: impl FnOnce(&G) -> bool,
        count: impl FnOnce(&G) -> Option<LimitQuery<'l>>,
        attempt: &Attempt<'_>,
    ) -> Result<(), Limited> {
        let limits = &self.state.limits;
        let is_key = self.is_key(&principal.method);
        let mut queries = match is_key {
            // A server asks for all callers behind it: for each account that it names it is another caller.
            true => vec![LimitQuery::count(&limits.caller, key_for(&principal.method, requested))],
            false => attempt::requested(limits, principal, requested),
        };
        match &decision.outcome {
            Ok(grant) if is_frozen(grant) => {}
            Ok(grant) => queries.extend(count(grant)),
            Err(GrantError::Foreign { .. }) if !is_key => queries.extend(attempt.foreign_account(limits, principal)),
            Err(
                GrantError::NoRule
                | GrantError::Invalid { .. }
                | GrantError::Foreign { .. }
                | GrantError::Choose { .. },
            ) => {}
        }
        attempt.ask(limits, queries).await
    }

    fn count_role(&self, role: &Role, node: NodeIndex, attempt: &Attempt<'_>) -> LimitQuery<'_> {
        let is_sent = attempt.is_sent() && role.level() == AdminLevel::User;
        let parts = [role.level().as_str(), &role.limit_key()];
        let account = LimitKey::of(&[parts[0].as_bytes(), parts[1].as_bytes(), &[u8::from(is_sent)]]);
        LimitQuery::count(self.state.limits.sessions(role.level(), node), account)
    }

    fn count_user(&self, user: &VoximplantUser) -> LimitQuery<'_> {
        let account = LimitKey::of(&[b"voximplant", user.as_str().as_bytes()]);
        LimitQuery::count(&self.state.limits.account, account)
    }

    /// Turns what the rules say into a grant or an error. Several accounts are no refusal: the caller may have any.
    fn apply_rules<G>(
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
                Err(Error::Choose(choices(among)))
            }
            GrantError::NoRule | GrantError::Invalid { .. } | GrantError::Foreign { .. } => {
                Err(self.forbid(attempt, principal, &reason))
            }
        }
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
