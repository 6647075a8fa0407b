//! The credential: asked about, judged, counted where it is bad.

use super::attempt::Attempt;
use super::audit::Facts;
use super::{Gate, ask_of};
use crate::auth::{AuthRequest, BadCredential, Proof, Suspicion, Verdict};
use crate::limit::{LimitKey, Limited};
use crate::model::principal::Principal;
use crate::proxy::browser::cors::Initiator;
use crate::proxy::context::LoginRequest;
use crate::proxy::error::Error;

/// The reason of a refusal: a page of another origin asked.
pub(super) const ELSEWHERE: &str = "the request came from a page of another origin";
/// The reason of a refusal: the app does not know the credential.
const STRANGER: &str = "the app knows no such user";

impl Gate {
    /// Asks the auth methods who is calling.
    ///
    /// # Errors
    /// When an app or an identity provider that must be asked gives no answer.
    pub(in crate::proxy) async fn ask(
        &self,
        request: LoginRequest<'_>,
        attempt: &Attempt<'_>,
    ) -> Result<Verdict, Error> {
        let ask =
            AuthRequest { rehearsal: attempt.effects.are_dry(), ..ask_of(attempt.kind, request, attempt.context) };
        Ok(self.chain.ask(&ask).await?)
    }

    /// Takes what proves the caller, and counts the caller. A bad credential is counted and audited.
    ///
    /// # Errors
    /// When the caller is not proven, a page of another origin asks with an ambient credential, or a limit is used up.
    pub(in crate::proxy) async fn prove(
        &self,
        verdict: Verdict,
        initiator: &Initiator,
        attempt: &Attempt<'_>,
    ) -> Result<Proof, Error> {
        let limits = &self.state.limits;
        let proof = match proof_of(verdict, initiator) {
            Ok(proof) => proof,
            Err(unproven) => {
                attempt.check_failures(limits).await?;
                return Err(self.refuse_unproven(&unproven, attempt).await);
            }
        };
        let principal = proof.principal();
        attempt.effects.note_principal(principal);
        if proof.is_key() {
            attempt.check_failures(limits).await?;
        } else {
            let is_sent = [u8::from(attempt.is_sent())];
            let caller = LimitKey::of(&[principal.method.as_bytes(), principal.subject.as_bytes(), &is_sent]);
            attempt.count_caller(limits, caller).await?;
        }
        Ok(proof)
    }

    async fn refuse_unproven(&self, unproven: &Unproven, attempt: &Attempt<'_>) -> Error {
        if let Err(limited) = self.count_fault(unproven, attempt).await {
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
    async fn count_fault(&self, unproven: &Unproven, attempt: &Attempt<'_>) -> Result<(), Limited> {
        match unproven {
            Unproven::BadCredential(BadCredential { suspicion: Suspicion::Guess, .. }) => {
                attempt.count_guess(&self.state.limits).await
            }
            Unproven::BadCredential(BadCredential { suspicion: Suspicion::Stale, .. }) | Unproven::Stranger => {
                attempt.count_stale(&self.state.limits).await
            }
            Unproven::BadCredential(BadCredential { suspicion: Suspicion::None, .. })
            | Unproven::Foreign(_)
            | Unproven::NoCredential => Ok(()),
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
