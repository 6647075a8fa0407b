//! The outcome of the rules: the grant or the reason against it, and why rules were skipped. The reasons are for the
//! audit log and the operator, never for the client.

use super::{MAX_CHOICES, Requested};
use crate::model::account;
use crate::model::condition::Unmet;
use crate::model::ott::NotAVoximplantUser;
use crate::model::template::Unfilled;

/// The reason why a proven caller gets no grant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// No rule is for the method and finds all its claims.
    #[error("no rule applies")]
    NoRule,
    /// The result of the deciding rule cannot be granted. No later rule is tried.
    #[error("rule {rule:?}: {what}")]
    Invalid {
        /// The name of the rule.
        rule: String,
        /// The error in its result.
        what: RuleError,
    },
    /// The request selects another account than the deciding rule grants.
    #[error("rule {rule:?} grants something else than was asked for")]
    Foreign {
        /// The name of the rule.
        rule: String,
    },
    /// The rule leads to several accounts, and the request selects none.
    #[error("rule {rule:?} grants several accounts, and none was selected")]
    Choose {
        /// The name of the rule.
        rule: String,
        /// The selections to choose from; each picks one account.
        among: Vec<Requested>,
    },
}

/// The error in the result of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// The rendered account is invalid.
    #[error("{0}")]
    Account(account::AccountError),
    /// The rendered domain is invalid.
    #[error("the domain is not a host name")]
    Domain,
    /// The rendered Voximplant user is invalid.
    #[error("{0}")]
    VoximplantUser(NotAVoximplantUser),
    /// Two claims are lists, and nothing says which items belong together.
    #[error("two of the claims are lists")]
    TwoLists,
    /// The rule leads to more accounts than one person has.
    #[error("more than {MAX_CHOICES} accounts")]
    TooMany,
    /// The rule leads to several accounts and has no `choose`.
    #[error("several accounts, and no `choose`")]
    Several,
}

/// A rule that does not apply, with the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SkippedRule<'r> {
    /// The name of the rule.
    pub rule: &'r str,
    /// The reason.
    pub why: SkipReason<'r>,
}

/// The reason why a rule does not apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SkipReason<'r> {
    /// The rule is not for the method that proved the caller.
    #[error("it is not for this auth method")]
    Method,
    /// The rule grants nothing of the kind that was asked for.
    #[error("it grants nothing of the kind that is asked for")]
    Silent,
    /// The `when` of the rule does not hold.
    #[error(transparent)]
    Unmet(Unmet<'r>),
    /// A template of the rule cannot be filled in.
    #[error(transparent)]
    Unfilled(Unfilled<'r>),
    /// The list claim that the accounts come from is empty.
    #[error("the claim {0:?} is an empty list")]
    EmptyList(&'r str),
    /// The rule's table has no row for the caller.
    #[error("its table has no row for the caller")]
    NoRow,
    /// The rule is for administrators, and the credential is for one account.
    #[error("the credential names an account, and the rule is for administrators")]
    NamesAccount,
}

/// The decision about a caller, with the rules that led to it.
#[derive(Debug)]
pub struct Decision<'r, G> {
    /// The rules that do not apply, in order, up to the one that decides.
    pub skipped: Vec<SkippedRule<'r>>,
    /// The grant, or the reason against it: no rule applies, or the first rule that applies leads to an invalid
    /// identity, to another one than the request selects, or to several.
    pub outcome: Result<G, GrantError>,
}
