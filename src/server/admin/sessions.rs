//! The orders about sessions of the PBX: who is in through callgate, and out again.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::model::freeze_target::FreezeTarget;
use crate::model::session::EndReason;
use crate::pbx::{IssuedSession, SessionEnd, SessionFilter};
use crate::server::snapshot::Snapshot;

/// The sessions that an order is about.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SessionChoice {
    number: Option<u64>,
    account: Option<String>,
    domain: Option<String>,
    all: bool,
}

/// A choice that is clear.
enum ClearChoice {
    All,
    Number(u64),
    Target(FreezeTarget),
}

impl SessionChoice {
    /// Reads the choice, of which there must be one.
    fn read(&self) -> Result<ClearChoice, String> {
        let target = |kind: &str, name: &str| format!("{kind} {name}").parse().map(ClearChoice::Target);
        match (self.number, &self.account, &self.domain, self.all) {
            (Some(number), None, None, false) => Ok(ClearChoice::Number(number)),
            (None, Some(account), None, false) => target("account", account),
            (None, None, Some(domain), false) => target("domain", domain),
            (None, None, None, true) => Ok(ClearChoice::All),
            _ => Err("choose one of number, account, domain and all".to_owned()),
        }
    }

    fn is_empty(&self) -> bool {
        self.number.is_none() && self.account.is_none() && self.domain.is_none() && !self.all
    }
}

impl ClearChoice {
    const fn filter(&self) -> SessionFilter<'_> {
        match self {
            Self::All => SessionFilter::All,
            Self::Number(number) => SessionFilter::Number(*number),
            Self::Target(target) => SessionFilter::Target(target),
        }
    }
}

/// Lists sessions that are not over, the oldest first; without a choice, all.
///
/// # Errors
/// When the choice is not clear, in words for the operator.
pub(super) fn list(snapshot: &Snapshot, choice: &SessionChoice) -> Result<Value, String> {
    let choice = if choice.is_empty() { ClearChoice::All } else { choice.read()? };
    let found = snapshot.sessions().list(choice.filter());
    Ok(found.iter().map(|session| shown(session)).collect())
}

/// Ends sessions in the name of a user of this machine, and lists those that ended.
///
/// # Errors
/// As [`list`]; without a choice, too.
pub(super) fn end(snapshot: &Snapshot, choice: &SessionChoice, by: &str) -> Result<Value, String> {
    let choice = choice.read()?;
    let end = SessionEnd { reason: EndReason::Operator, by: Some(by) };
    let ended = snapshot.sessions().end(choice.filter(), end, snapshot.logs());
    tracing::warn!(ended = ended.len(), by, "sessions ended");
    Ok(ended.iter().map(|session| shown(session)).collect())
}

/// Describes a session without its id.
fn shown(session: &IssuedSession) -> Value {
    let login = &session.login;
    json!({
        "number": session.number,
        "account": session.role.to_string(),
        "level": session.role.level().as_str(),
        "since": session.opened,
        "method": login.method,
        "subject": login.subject,
        "rule": login.rule,
        "client": login.client,
        "host": login.host,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(order: Value, expected: Result<&str, &str>) {
        let choice: SessionChoice = serde_json::from_value(order.clone()).unwrap();
        let read = choice.read().map(|choice| match choice {
            ClearChoice::All => "all".to_owned(),
            ClearChoice::Number(number) => number.to_string(),
            ClearChoice::Target(target) => target.to_string(),
        });
        match (read, expected) {
            (Ok(read), Ok(expected)) => assert_eq!(read, expected, "{order}"),
            (Err(problem), Err(part)) => assert!(problem.contains(part), "{order}: {problem}"),
            (read, _) => panic!("{order}: {read:?}"),
        }
    }

    #[test]
    fn one_choice_is_made() {
        check(json!({ "number": 3 }), Ok("3"));
        check(json!({ "account": "40@ACME.test" }), Ok("account 40@acme.test"));
        check(json!({ "domain": "acme.test" }), Ok("domain acme.test"));
        check(json!({ "all": true }), Ok("all"));
        check(json!({}), Err("choose one"));
        check(json!({ "all": false }), Err("choose one"));
        check(json!({ "number": 3, "all": true }), Err("choose one"));
        check(json!({ "account": "40@acme.test", "domain": "acme.test" }), Err("choose one"));
        check(json!({ "account": "40" }), Err("no @"));
    }
}
