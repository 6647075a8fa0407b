//! The latest refused logins, for the operator's page: what their audit lines show, in memory of bounded size.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use serde::Serialize;

use super::audit::LoginRecord;
use crate::model::redact;

/// How many are remembered.
pub const MOST_REFUSALS: usize = 50;

/// One refusal, with the fields of its audit line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// When it was refused.
    pub time: Timestamp,
    /// The id of the exchange.
    pub id: String,
    /// The address of the client.
    pub client: String,
    /// What the client attempted.
    pub act: &'static str,
    /// The auth method that proved or refused the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The subject of the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The rule that mapped the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The PBX account or the Voximplant user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The PBX node, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pbx: Option<String>,
    /// Why the login was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The latest refusals of all workers: [`MOST_REFUSALS`] at most, of less than 2 KiB each.
#[derive(Debug, Default)]
pub struct RecentRefusals(Mutex<VecDeque<Refusal>>);

impl RecentRefusals {
    /// Remembers a refused login. The oldest one makes room.
    pub fn note(&self, record: &LoginRecord) {
        let refusal = Refusal::of(record, Timestamp::now());
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() == MOST_REFUSALS {
            known.pop_front();
        }
        known.push_back(refusal);
    }

    /// Returns them, the latest first.
    #[must_use]
    pub fn list(&self) -> Vec<Refusal> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().rev().cloned().collect()
    }
}

impl Refusal {
    fn of(record: &LoginRecord, time: Timestamp) -> Self {
        Self {
            time,
            id: record.id.to_string(),
            client: record.client.to_string(),
            act: record.act.as_str(),
            method: shown(record.method.as_deref()),
            subject: shown(record.subject.as_deref()),
            rule: shown(record.rule.as_deref()),
            account: shown(record.account.as_deref()),
            pbx: shown(record.pbx.as_deref()),
            reason: shown(record.reason.as_deref()),
        }
    }
}

/// Returns a text as logs show it: without secrets, cut at 256 bytes.
fn shown(text: Option<&str>) -> Option<String> {
    text.map(|text| redact::text(text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::login::{LoginKind, LoginOutcome};
    use crate::observe::audit::AuditedAct;
    use crate::observe::request_id::RequestId;

    fn refused(reason: &str) -> LoginRecord {
        LoginRecord {
            id: RequestId::next(),
            client: "192.0.2.7".parse().unwrap(),
            begun: None,
            redeemed_from: None,
            act: AuditedAct::Login(LoginKind::Pbx),
            is_guess: false,
            outcome: LoginOutcome::Refused,
            method: Some("app".to_owned()),
            subject: None,
            rule: None,
            account: None,
            level: None,
            pbx: None,
            reason: Some(reason.to_owned()),
            claims: Vec::new(),
        }
    }

    #[test]
    fn the_latest_are_kept_without_secrets_and_no_more_than_the_bound() {
        let refusals = RecentRefusals::default();
        for number in 0..=MOST_REFUSALS {
            refusals.note(&refused(&format!("number {number}")));
        }
        refusals.note(&refused("bad sessId=g7lsrphhrkim1jkvbt88"));
        let known = refusals.list();
        let reasons: Vec<_> = known.iter().filter_map(|one| one.reason.as_deref()).collect();
        assert_eq!((known.len(), reasons[0], reasons[1]), (MOST_REFUSALS, "bad sessId=***", "number 50"));
        assert_eq!(reasons[MOST_REFUSALS - 1], "number 2");
    }
}
