//! What is told of a login that was rehearsed, for people and for programs.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::limit::{Limited, Limiter};
use crate::model::grant::{GrantError, Trace};
use crate::model::login::LoginKind;
use crate::model::principal::{Claim, Principal};
use crate::model::redact;
use crate::observe::{RequestId, causes};
use crate::proxy::error::AccountChoices;
use crate::proxy::error::Error;
use crate::proxy::gate::{self, Unproven};

/// Why nobody is proven where nothing was shown.
pub(super) const NOTHING: &str = "the request shows no credential that a method looks for";

/// The way of one login, step by step.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Story {
    /// The id under which the app was asked.
    id: String,
    act: LoginKind,
    host: String,
    client: IpAddr,
    /// The kinds of credentials that the request shows.
    pub(super) shown: Vec<String>,
    proven: Option<Proven>,
    /// The rules that do not apply, in their order: those before the one that decides.
    passed: Vec<Passed>,
    /// Whether the credential works once.
    pub(super) works_once: bool,
    /// Whether a page with a button comes before the session.
    pub(super) asks_first: bool,
    pub(super) outcome: Outcome,
    /// What may stand in the way at this moment.
    notes: Vec<String>,
}

/// Who was proven, by which method, with which claims.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Proven {
    method: String,
    subject: String,
    claims: BTreeMap<String, Value>,
}

/// A rule that does not apply.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Passed {
    rule: String,
    why: String,
}

/// How it ends.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Granted(Granted),
    Refused(Refused),
}

/// What the caller would be given.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Granted {
    Pbx { rule: String, account: String, level: String, language: Option<String>, host: String },
    Voximplant { rule: String, user: String },
}

/// Why the caller would be given nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Refused {
    /// The method whose credential is bad.
    method: Option<String>,
    reason: String,
    /// What the caller is told; nothing where the handshake ends the connection.
    told: Option<Told>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Told {
    status: u16,
    error: String,
}

impl Story {
    pub(super) fn new(act: LoginKind, host: &str, client: IpAddr, id: RequestId) -> Self {
        let outcome = Outcome::Refused(Refused { method: None, reason: String::new(), told: None });
        let (id, host) = (id.to_string(), host.to_owned());
        let (shown, passed, notes) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            id,
            act,
            host,
            client,
            shown,
            proven: None,
            passed,
            works_once: false,
            asks_first: false,
            outcome,
            notes,
        }
    }

    /// Tells whether the caller would be let in.
    #[must_use]
    pub const fn is_granted(&self) -> bool {
        matches!(self.outcome, Outcome::Granted(_))
    }

    /// Notes that what was used before is known to a running gate alone.
    #[must_use]
    pub fn told_alone(mut self) -> Self {
        if self.works_once && self.is_granted() {
            self.notes.push("it may have been used before, which only the running gate knows (--running)".to_owned());
        }
        self
    }

    pub(super) fn prove(&mut self, principal: &Principal) {
        let claims = principal.claims.iter().map(|(name, claim)| (name.clone(), shown(name, claim))).collect();
        let (method, subject) = (principal.method.clone(), principal.subject.clone());
        self.proven = Some(Proven { method, subject, claims });
    }

    pub(super) fn unproven(&mut self, unproven: Unproven) -> Refused {
        match unproven {
            Unproven::Elsewhere(principal) => {
                if let Some(principal) = principal {
                    self.prove(&principal);
                }
                Refused::by(&Error::CrossSite, gate::ELSEWHERE.to_owned())
            }
            Unproven::Stranger => Refused::nobody(gate::STRANGER),
            Unproven::Refused(refused) => Refused { method: refused.method, ..Refused::nobody(&refused.reason) },
            Unproven::Nobody => Refused::nobody(NOTHING),
        }
    }

    /// Notes how the rules decide.
    pub(super) fn decide<G>(&mut self, trace: Trace<'_, G>) -> Result<G, Refused> {
        let passed = trace.passed.iter();
        self.passed = passed.map(|one| Passed { rule: one.rule.to_owned(), why: one.why.to_string() }).collect();
        trace.outcome.map_err(|refusal| match &refusal {
            GrantError::Choose { .. } => {
                Refused::by(&Error::Choose(AccountChoices::Voximplant(Vec::new())), refusal.to_string())
            }
            GrantError::NoRule | GrantError::Invalid { .. } | GrantError::Foreign { .. } => {
                Refused::forbidden(&refusal)
            }
        })
    }

    /// Notes a limit that is used up, without counting.
    pub(super) fn peek<K: Hash + ?Sized>(&mut self, limiter: &Limiter, key: &K) {
        self.note_limit(limiter.peek(key));
    }

    /// Notes what a limit says, if it is used up.
    pub(super) fn note_limit(&mut self, asked: Result<(), Limited>) {
        if let Err(limited) = asked {
            let seconds = limited.retry_after.as_secs() + 1;
            self.notes.push(format!("the limit `{}` is used up: 429 for {seconds} s more", limited.name));
        }
    }
}

impl Refused {
    /// Refuses for a reason that the caller is not told.
    fn by(error: &Error, reason: String) -> Self {
        let (status, code) = error.status();
        Self { method: None, reason, told: Some(Told { status: status.as_u16(), error: code.to_owned() }) }
    }

    pub(super) fn nobody(reason: &str) -> Self {
        Self::by(&Error::Unauthenticated { login: None }, reason.to_owned())
    }

    pub(super) fn forbidden(reason: &dyn fmt::Display) -> Self {
        Self::by(&Error::Forbidden, reason.to_string())
    }

    /// Refuses before there is a request.
    pub(super) fn unheard(why: &str) -> Self {
        Self { method: None, reason: format!("the handshake ends the connection: {why}"), told: None }
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        let cause = error.cause().map(|cause| format!(": {}", causes(cause)));
        let reason = format!("{error}{}", cause.unwrap_or_default());
        Self::by(&error, reason)
    }
}

impl From<Result<Granted, Refused>> for Outcome {
    fn from(ended: Result<Granted, Refused>) -> Self {
        ended.map_or_else(Self::Refused, Self::Granted)
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

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let act = match self.act {
            LoginKind::Pbx => "a session of the PBX",
            LoginKind::Ott => "an answer to a Voximplant key",
        };
        writeln!(f, "Asked for: {act}, at {}, from {} (id {})", self.host, self.client, self.id)?;
        let shown = if self.shown.is_empty() { "nothing".to_owned() } else { self.shown.join(", ") };
        writeln!(f, "Credential: {shown}")?;
        if let Some(proven) = &self.proven {
            proven.fmt(f)?;
        }
        for Passed { rule, why } in &self.passed {
            writeln!(f, "Rule {rule:?} does not apply: {}", plain(why))?;
        }
        if self.works_once {
            writeln!(f, "The credential works once")?;
        }
        if self.asks_first {
            writeln!(f, "A page with a button comes first")?;
        }
        for note in &self.notes {
            writeln!(f, "But now: {note}")?;
        }
        self.outcome.fmt(f)
    }
}

impl fmt::Display for Proven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Caller: {}, proven by method {:?}", plain(&self.subject), self.method)?;
        self.claims.iter().try_for_each(|(name, value)| match value {
            Value::String(text) => writeln!(f, "    {} = {}", plain(name), plain(text)),
            list => writeln!(f, "    {} = {list}", plain(name)),
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Granted(granted) => granted.fmt(f),
            Self::Refused(refused) => refused.fmt(f),
        }
    }
}

impl fmt::Display for Granted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pbx { rule, account, level, language, host } => {
                write!(f, "Granted by rule {rule:?}: account {account}, level {level}")?;
                if let Some(language) = language {
                    write!(f, ", in language {language}")?;
                }
                write!(f, ", at {host}")
            }
            Self::Voximplant { rule, user } => write!(f, "Granted by rule {rule:?}: Voximplant user {user}"),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Refused")?;
        if let Some(method) = &self.method {
            write!(f, " by method {method:?}")?;
        }
        write!(f, ": {}", redact::text(&self.reason))?;
        match &self.told {
            Some(told) => write!(f, "\nThe caller is told: {} {}", told.status, told.error),
            None => Ok(()),
        }
    }
}

/// Shows text from outside on one line.
fn plain(text: &str) -> Cow<'_, str> {
    redact::text(text)
}
