//! Why nobody is granted, or why a rule does not apply: for the audit log and the operator, never for the client.

use super::{MAX_CHOICES, Requested};
use crate::model::account;
use crate::model::condition::Unmet;
use crate::model::ott::NotAVoximplantUser;
use crate::model::template::Unfilled;

/// Why a proven caller is not granted what he wants. For the audit log, never for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// No rule names the method and finds all its claims.
    #[error("no rule applies")]
    NoRule,
    /// The deciding rule leads to something that cannot be granted. No later rule is asked.
    #[error("rule {rule:?}: {what}")]
    Invalid {
        /// The name of the rule.
        rule: String,
        /// What is wrong.
        what: RuleError,
    },
    /// The caller asked for somebody else than the deciding rule grants.
    #[error("rule {rule:?} grants somebody else than was asked for")]
    Foreign {
        /// The name of the rule.
        rule: String,
    },
    /// The caller may become several, and has to say which.
    #[error("rule {rule:?} grants several accounts, and none was selected")]
    Choose {
        /// The name of the rule.
        rule: String,
        /// What to ask for: each selects one of them.
        among: Vec<Requested>,
    },
}

/// What a rule led to that cannot be granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// The result of the account's template.
    #[error("{0}")]
    Account(account::AccountError),
    /// The result of the domain's template.
    #[error("the domain is not a host name")]
    Domain,
    /// The result of the Voximplant user's template.
    #[error("{0}")]
    VoximplantUser(NotAVoximplantUser),
    /// Two claims are lists: which item of the one goes with which of the other, nobody knows.
    #[error("two of the claims are lists")]
    TwoLists,
    /// More accounts than one person has.
    #[error("more than {MAX_CHOICES} accounts")]
    TooMany,
    /// Several accounts, and nothing said about choosing.
    #[error("several accounts, and no `choose`")]
    Several,
}

/// A rule that does not apply, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SkippedRule<'r> {
    /// The name of the rule.
    pub rule: &'r str,
    /// Why it does not apply.
    pub why: SkipReason<'r>,
}

/// Why a rule does not apply. For the operator, never for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SkipReason<'r> {
    /// It is not for the method that proved the caller.
    #[error("it is not for this auth method")]
    Method,
    /// It allows something else than was asked for.
    #[error("it says nothing of what is asked for")]
    Silent,
    /// Its `when` does not hold.
    #[error(transparent)]
    Unmet(Unmet<'r>),
    /// A template cannot be filled in.
    #[error(transparent)]
    Unfilled(Unfilled<'r>),
    /// The claim that it takes accounts from is a list of none.
    #[error("the claim {0:?} is an empty list")]
    EmptyList(&'r str),
    /// Its table has no row for the caller.
    #[error("its table has no such row")]
    NoRow,
    /// It is for administrators, and the credential is for one account.
    #[error("the credential names an account, and the rule is for administrators")]
    NamesAccount,
}

/// How it was decided who a caller may become.
#[derive(Debug)]
pub struct Trace<'r, G> {
    /// The rules that do not apply, in their order: those before the one that decides.
    pub passed: Vec<SkippedRule<'r>>,
    /// What is granted, or why nothing is.
    pub outcome: Result<G, GrantError>,
}
