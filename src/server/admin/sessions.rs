//! The orders about sessions of the PBX: who is in through callgate, and out again.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::model::freeze_target::FreezeTarget;
use crate::model::session::EndReason;
use crate::pbx::{EndOrder, IssuedSession, SessionEnd, SessionFilter};
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

impl SessionChoice {
    /// Reads the choice, of which there must be one.
    fn read(&self) -> Result<SessionFilter, String> {
        let target = |kind: &str, name: &str| {
            format!("{kind} {name}").parse::<FreezeTarget>().map(|whom| SessionFilter::Target { whom })
        };
        match (self.number, &self.account, &self.domain, self.all) {
            (Some(number), None, None, false) => Ok(SessionFilter::number(number)),
            (None, Some(account), None, false) => target("account", account),
            (None, None, Some(domain), false) => target("domain", domain),
            (None, None, None, true) => Ok(SessionFilter::All),
            _ => Err("choose one of number, account, domain and all".to_owned()),
        }
    }

    fn is_empty(&self) -> bool {
        self.number.is_none() && self.account.is_none() && self.domain.is_none() && !self.all
    }
}

/// Lists sessions that are not over, the oldest first; without a choice, all.
///
/// # Errors
/// When the choice is not clear, in words for the operator.
pub(super) fn list(snapshot: &Snapshot, choice: &SessionChoice) -> Result<Value, String> {
    let filter = if choice.is_empty() { SessionFilter::All } else { choice.read()? };
    let found = snapshot.sessions().list(&filter);
    Ok(found.iter().map(|session| shown(session)).collect())
}

/// Ends sessions in the name of a user of this machine. Returns those that ended here, and the orders for old processes.
///
/// # Errors
/// As [`list`]; without a choice, too.
pub(super) fn end(snapshot: &Snapshot, choice: &SessionChoice, by: &str) -> Result<(Value, Vec<EndOrder>), String> {
    let filter = choice.read()?;
    let end = SessionEnd { reason: EndReason::Operator, by: Some(by) };
    let ended = snapshot.sessions().end(&filter, end, snapshot.logs());
    snapshot.sessions().tell_end_to_members(&filter, end, &ended);
    tracing::warn!(ended = ended.len(), by, "sessions ended");
    Ok((ended.iter().map(|session| shown(session)).collect(), EndOrder::all(filter, end, &ended)))
}

/// Says whether the order to end sessions is passed on to the other members; nothing if there are none, or it is by a number,
/// which means nothing to them.
pub(super) fn told(snapshot: &Snapshot, choice: &SessionChoice) -> Option<&'static str> {
    let reaches = snapshot.sessions().reaches_members().filter(|_| choice.number.is_none())?;
    Some(if reaches { "told" } else { "unreached" })
}

/// Describes a session without its id.
pub(super) fn shown(session: &IssuedSession) -> Value {
    let login = &session.login;
    let mut shown = json!({
        "number": session.number,
        "account": session.role.to_string(),
        "level": session.role.level().as_str(),
        "since": session.opened,
        "method": login.method,
        "subject": login.subject,
        "rule": login.rule,
        "client": login.client,
        "host": login.host,
    });
    if let Some(node) = &login.node {
        shown["pbx"] = json!(node);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(order: Value, expected: Result<&str, &str>) {
        let choice: SessionChoice = serde_json::from_value(order.clone()).unwrap();
        let read = choice.read().map(|filter| match filter {
            SessionFilter::All => "all".to_owned(),
            SessionFilter::Number { number } => number.to_string(),
            SessionFilter::Target { whom } => whom.to_string(),
            other => panic!("{other:?}"),
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
