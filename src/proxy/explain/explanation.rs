//! An explanation of one login, for people and for programs.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::login::LoginKind;
use crate::model::principal::{Claim, Principal};
use crate::model::redact;
use crate::observe::{RequestId, causes};
use crate::proxy::error::Error;
use crate::proxy::gate::effects::{Findings, RefusalReason, UsedUpLimit};

/// The way of one login, step by step.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Explanation {
    #[serde(flatten)]
    asked: AskedLogin,
    /// The kinds of credentials that the request shows.
    pub(super) shown: Vec<String>,
    /// The caller, once its credential is good.
    proven: Option<ProvenCaller>,
    /// The rules that do not apply, in their order: those before the one that decides.
    skipped: Vec<RuleNote>,
    #[serde(flatten)]
    credential: CredentialUse,
    outcome: ExplainedOutcome,
    /// Limits that are used up at this moment, and other remarks.
    notes: Vec<String>,
}

/// The login that is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct AskedLogin {
    /// The id under which the app was asked.
    id: String,
    act: LoginKind,
    host: String,
    client: IpAddr,
}

/// How the credential may be used.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct CredentialUse {
    works_once: bool,
    /// Whether a page with a button comes before the session.
    asks_first: bool,
}

/// The caller that is proven, by which method, with which claims.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct ProvenCaller {
    method: String,
    subject: String,
    claims: BTreeMap<String, Value>,
}

/// A rule that does not apply.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct RuleNote {
    rule: String,
    why: String,
}

/// How the login ends.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ExplainedOutcome {
    Granted(GrantedLogin),
    Refused(RefusedLogin),
}

/// The grant to a caller.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum GrantedLogin {
    Pbx {
        rule: String,
        account: String,
        level: String,
        language: Option<String>,
        /// The PBX node, where there are several.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pbx: Option<String>,
        host: String,
        /// The page that the caller asks for; `None`: the landing page.
        #[serde(default)]
        page: Option<String>,
    },
    Voximplant {
        rule: String,
        user: String,
        /// Whether the login adds the user at Voximplant first.
        #[serde(default)]
        is_new: bool,
    },
}

/// A refusal, with its reason.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct RefusedLogin {
    /// The method whose credential is bad.
    method: Option<String>,
    reason: String,
    /// The answer to the caller; `None` where the handshake ends the connection.
    answer: Option<ErrorAnswer>,
}

/// The status of an answer, and its error code.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct ErrorAnswer {
    status: u16,
    error: String,
}

impl Explanation {
    pub(super) fn new(act: LoginKind, host: &str, client: IpAddr, id: RequestId) -> Self {
        let refused = RefusedLogin { method: None, reason: String::new(), answer: None };
        Self {
            asked: AskedLogin { id: id.to_string(), act, host: host.to_owned(), client },
            shown: Vec::new(),
            proven: None,
            skipped: Vec::new(),
            credential: CredentialUse::default(),
            outcome: ExplainedOutcome::Refused(refused),
            notes: Vec::new(),
        }
    }

    /// Tells whether the caller would be let in.
    #[must_use]
    pub(crate) const fn is_granted(&self) -> bool {
        matches!(self.outcome, ExplainedOutcome::Granted(_))
    }

    /// Notes that only a running gate knows what was used before.
    #[must_use]
    pub(crate) fn without_running_gate(mut self) -> Self {
        if self.credential.works_once && self.is_granted() {
            self.notes.push("it may have been used before, which only the running gate knows (--running)".to_owned());
        }
        self
    }

    /// Ends with a refusal.
    pub(super) fn refused(self, refused: RefusedLogin) -> Self {
        Self { outcome: ExplainedOutcome::Refused(refused), ..self }
    }

    /// Adds the decision and the findings. `overlooked`: tells why the request shows no credential.
    pub(super) fn tell(
        self,
        decided: Result<GrantedLogin, Error>,
        findings: Findings,
        overlooked: impl FnOnce() -> String,
    ) -> Self {
        let outcome = match (decided, findings.refusal) {
            (Ok(granted), _) => ExplainedOutcome::Granted(granted),
            (Err(error), Some(refusal)) => ExplainedOutcome::Refused(RefusedLogin::for_reason(&error, refusal)),
            (Err(error @ Error::Unauthenticated { .. }), None) => {
                let refusal = RefusalReason { method: None, reason: overlooked() };
                ExplainedOutcome::Refused(RefusedLogin::for_reason(&error, refusal))
            }
            (Err(error), None) => ExplainedOutcome::Refused(RefusedLogin::by(&error)),
        };
        Self {
            proven: findings.principal.as_ref().map(ProvenCaller::of),
            skipped: findings.skipped.into_iter().map(|(rule, why)| RuleNote { rule, why }).collect(),
            credential: CredentialUse { works_once: findings.works_once, asks_first: findings.confirms },
            notes: findings.limits.iter().map(used_up).collect(),
            outcome,
            ..self
        }
    }
}

/// Words a limit that is used up.
fn used_up(UsedUpLimit { limited, is_in_shadow }: &UsedUpLimit) -> String {
    let seconds = limited.retry_after.as_secs() + 1;
    if *is_in_shadow {
        return format!("the limit `{}` is used up, but in shadow: it refuses nothing", limited.name);
    }
    format!("the limit `{}` is used up: 429 for {seconds} s more", limited.name)
}

impl RefusedLogin {
    /// Refuses for a reason that the caller is not told.
    fn for_reason(error: &Error, RefusalReason { method, reason }: RefusalReason) -> Self {
        let (status, code) = error.status();
        Self { method, reason, answer: Some(ErrorAnswer { status: status.as_u16(), error: code.to_owned() }) }
    }

    /// Refuses for a reason that the caller is told, and its causes, which the caller is not.
    fn by(error: &Error) -> Self {
        let cause = error.cause().map(|cause| format!(": {}", causes(cause)));
        let reason = format!("{error}{}", cause.unwrap_or_default());
        Self::for_reason(error, RefusalReason { method: None, reason })
    }

    /// Refuses before there is a request.
    pub(super) fn by_handshake(error: &str) -> Self {
        Self { method: None, reason: format!("the handshake ends the connection: {error}"), answer: None }
    }
}

impl ProvenCaller {
    fn of(principal: &Principal) -> Self {
        let claims = principal.claims.iter().map(|(name, claim)| (name.clone(), shown(name, claim))).collect();
        Self { method: principal.method.clone(), subject: principal.subject.clone(), claims }
    }
}

/// Shows a claim; one with the name of a secret hides it.
fn shown(name: &str, claim: &Claim) -> Value {
    let text = |text: &String| redact::value(name, text).into_owned();
    match claim {
        Claim::Text(one) => text(one).into(),
        Claim::List(all) => all.iter().map(text).collect(),
    }
}

// === For people ===

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AskedLogin { id, act, host, client } = &self.asked;
        let act = match act {
            LoginKind::Pbx => "a session of the PBX",
            LoginKind::Ott => "an answer to a Voximplant key",
        };
        writeln!(f, "Asked for: {act}, at {host}, from {client} (id {id})")?;
        let shown = if self.shown.is_empty() { "nothing".to_owned() } else { self.shown.join(", ") };
        writeln!(f, "Credential: {shown}")?;
        if let Some(proven) = &self.proven {
            proven.fmt(f)?;
        }
        for RuleNote { rule, why } in &self.skipped {
            writeln!(f, "Rule {rule:?} does not apply: {}", plain(why))?;
        }
        if self.credential.works_once {
            writeln!(f, "The credential works once")?;
        }
        if self.credential.asks_first {
            writeln!(f, "A page with a button comes first")?;
        }
        for note in &self.notes {
            writeln!(f, "But now: {note}")?;
        }
        self.outcome.fmt(f)
    }
}

impl fmt::Display for ProvenCaller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Caller: {}, proven by method {:?}", plain(&self.subject), self.method)?;
        self.claims.iter().try_for_each(|(name, value)| match value {
            Value::String(text) => writeln!(f, "    {} = {}", plain(name), plain(text)),
            list => writeln!(f, "    {} = {list}", plain(name)),
        })
    }
}

impl fmt::Display for ExplainedOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Granted(granted) => granted.fmt(f),
            Self::Refused(refused) => refused.fmt(f),
        }
    }
}

impl fmt::Display for GrantedLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pbx { rule, account, level, language, pbx, host, page } => {
                write!(f, "Granted by rule {rule:?}: account {account}, level {level}")?;
                if let Some(language) = language {
                    write!(f, ", in language {language}")?;
                }
                if let Some(pbx) = pbx {
                    write!(f, ", at the PBX {pbx}")?;
                }
                write!(f, ", at {host}")?;
                page.as_ref().map_or(Ok(()), |page| write!(f, ", on the page {}", plain(page)))
            }
            Self::Voximplant { rule, user, is_new } => {
                write!(f, "Granted by rule {rule:?}: Voximplant user {user}")?;
                if *is_new { write!(f, ", which the login adds at Voximplant first") } else { Ok(()) }
            }
        }
    }
}

impl fmt::Display for RefusedLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Refused")?;
        if let Some(method) = &self.method {
            write!(f, " by method {method:?}")?;
        }
        write!(f, ": {}", redact::text(&self.reason))?;
        match &self.answer {
            Some(answer) => write!(f, "\nThe caller is told: {} {}", answer.status, answer.error),
            None => Ok(()),
        }
    }
}

/// Shows text from outside on one line.
fn plain(text: &str) -> Cow<'_, str> {
    redact::text(text)
}
