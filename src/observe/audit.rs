//! Audit lines: one for each granted or refused login, and one for each event that changes who may log in.

use std::net::IpAddr;

use jiff::Timestamp;

use super::line::{self, FieldValue, LineStyle};
use super::request_id::RequestId;
use crate::model::account::AdminLevel;
use crate::model::freeze_target::FreezeTarget;
use crate::model::login::{LoginKind, LoginOutcome, LogoutKind};
use crate::model::redact;

/// One login or logout, as the audit log shows it. Never its secret.
#[derive(Debug, Clone)]
pub struct LoginRecord {
    /// The id of the exchange.
    pub id: RequestId,
    /// The address of the client.
    pub client: IpAddr,
    /// The id of the exchange that began the login, if it was another.
    pub begun: Option<RequestId>,
    /// The address that redeemed the ticket of the login, if it is another than the client's.
    pub redeemed_from: Option<IpAddr>,
    /// What the client attempted.
    pub act: AuditedAct,
    /// Whether its credential is a wrong guess, as the limit `failures` counts them.
    pub is_guess: bool,
    /// How it ended.
    pub outcome: LoginOutcome,
    /// The auth method that proved or refused the caller.
    pub method: Option<String>,
    /// The subject of the caller.
    pub subject: Option<String>,
    /// The rule that mapped the caller.
    pub rule: Option<String>,
    /// The PBX account (`40@acme.test`) or the Voximplant user.
    pub account: Option<String>,
    /// The level of the PBX session.
    pub level: Option<AdminLevel>,
    /// The PBX node, where there are several.
    pub pbx: Option<String>,
    /// Why the login was refused.
    pub reason: Option<String>,
    /// The names of the claims by which the rule decided. Never their values.
    pub claims: Vec<String>,
}

/// An event other than a login, as the audit log shows it.
#[derive(Debug, Clone)]
pub struct EventRecord {
    /// The kind of event.
    pub event: AuditEvent,
    /// Its target: an account, a Voximplant user or a domain.
    pub account: String,
    /// The number of the session that it is about.
    pub session: Option<u64>,
    /// The subject of the caller that it is about.
    pub subject: Option<String>,
    /// The user of this machine who caused it.
    pub by: Option<String>,
    /// When it ends; nothing: when it is undone.
    pub until: Option<Timestamp>,
    /// The reason, in the operator's words.
    pub reason: Option<String>,
}

/// Events other than logins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditEvent {
    /// Logins of the target are refused from now on, and its sessions and tunnels end.
    Freeze,
    /// Logins of the target are possible again.
    Thaw,
    /// Two clients log in as one Voximplant user at the same time.
    Race,
    /// A user was added at Voximplant.
    Create,
    /// A user was deactivated at Voximplant.
    Deactivate,
    /// A user was activated at Voximplant.
    Activate,
    /// A user got another password at Voximplant.
    Rotate,
    /// A session of the PBX was ended before its time.
    SessionEnd,
}

/// What a client attempted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditedAct {
    /// A login.
    Login(LoginKind),
    /// A logout.
    Logout(LogoutKind),
    /// An attempt to pass callgate on the way to the PBX, which the shield refused.
    PbxBypass,
}

impl LoginRecord {
    /// Returns the audit line, without its newline.
    pub(super) fn line(&self, style: &LineStyle, now: Timestamp) -> String {
        let mut fields = vec![
            ("id", FieldValue::word(self.id.as_str())),
            ("client", FieldValue::word(self.client.to_string())),
            ("act", FieldValue::word(self.act.as_str())),
        ];
        // Before all that a client can choose: programs that ban addresses look here.
        fields.extend(self.is_guess.then(|| ("suspicion", FieldValue::word("guess"))));
        fields.extend(self.begun.as_ref().map(|id| ("begun", FieldValue::word(id.as_str()))));
        fields.extend(self.redeemed_from.map(|from| ("redeemed_from", FieldValue::word(from.to_string()))));
        let level = self.level.map(|level| level.as_str().to_owned());
        let known = [
            ("method", &self.method),
            ("subject", &self.subject),
            ("rule", &self.rule),
            ("account", &self.account),
            ("level", &level),
            ("pbx", &self.pbx),
            ("reason", &self.reason),
        ];
        for (key, text) in known {
            fields.extend(text.as_deref().map(|text| (key, FieldValue::word(redact::text(text)))));
        }
        if !self.claims.is_empty() {
            fields.push(("claims", FieldValue::words(self.claims.iter().map(String::as_str))));
        }
        line::render(style, now, self.kind(), &fields)
    }

    const fn kind(&self) -> &'static str {
        match (self.outcome, self.act) {
            (LoginOutcome::Refused, _) => "audit refusal",
            (LoginOutcome::Ticket, _) => "audit ticket",
            (LoginOutcome::Granted, AuditedAct::Logout(_)) => "audit logout",
            (LoginOutcome::Granted, AuditedAct::Login(_) | AuditedAct::PbxBypass) => "audit grant",
        }
    }
}

impl EventRecord {
    /// Describes an order of the operator. An empty reason is left out.
    #[must_use]
    pub fn of(event: AuditEvent, whom: &FreezeTarget, by: String, until: Option<Timestamp>, why: &str) -> Self {
        let (_, account) = whom.parts();
        let reason = (!why.is_empty()).then(|| why.to_owned());
        Self { event, account, session: None, subject: None, by: Some(by), until, reason }
    }

    /// Returns the audit line, without its newline.
    pub(super) fn line(&self, style: &LineStyle, now: Timestamp) -> String {
        let mut fields = vec![("account", FieldValue::word(redact::text(&self.account)))];
        fields.extend(self.session.map(|number| ("number", FieldValue::Count(number))));
        for (key, text) in [("subject", &self.subject), ("by", &self.by), ("reason", &self.reason)] {
            fields.extend(text.as_deref().map(|text| (key, FieldValue::word(redact::text(text)))));
        }
        fields.extend(self.until.map(|until| ("until", FieldValue::word(format!("{until:.0}")))));
        line::render(style, now, self.event.kind(), &fields)
    }
}

impl AuditEvent {
    const fn kind(self) -> &'static str {
        match self {
            Self::Freeze => "audit freeze",
            Self::Thaw => "audit thaw",
            Self::Race => "audit race",
            Self::Create => "audit create",
            Self::Deactivate => "audit deactivate",
            Self::Activate => "audit activate",
            Self::Rotate => "audit rotate",
            Self::SessionEnd => "audit session_end",
        }
    }
}

impl AuditedAct {
    /// Returns the word that the audit log uses.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Login(kind) => kind.as_str(),
            Self::Logout(kind) => kind.as_str(),
            Self::PbxBypass => "pbx_bypass",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogFormat;

    fn granted() -> LoginRecord {
        LoginRecord {
            id: RequestId::next(),
            client: "2001:db8::1".parse().unwrap(),
            begun: None,
            redeemed_from: None,
            act: AuditedAct::Login(LoginKind::Pbx),
            is_guess: false,
            outcome: LoginOutcome::Granted,
            method: Some("app".to_owned()),
            subject: Some("Ann Lee".to_owned()),
            rule: Some("staff".to_owned()),
            account: Some("40@acme.test".to_owned()),
            level: Some(AdminLevel::User),
            pbx: None,
            reason: None,
            claims: vec!["ext".to_owned(), "tenant".to_owned()],
        }
    }

    fn refused() -> LoginRecord {
        LoginRecord {
            act: AuditedAct::Login(LoginKind::Ott),
            outcome: LoginOutcome::Refused,
            method: None,
            subject: None,
            rule: None,
            account: None,
            level: None,
            reason: Some("bad sessId=g7lsrphhrkim1jkvbt88".to_owned()),
            claims: Vec::new(),
            ..granted()
        }
    }

    #[track_caller]
    fn check(entry: &LoginRecord, format: LogFormat, expected: &str) {
        let line = entry.line(&format.into(), "2026-11-22T21:00:00.123Z".parse().unwrap());
        assert_eq!(line.replace(entry.id.as_str(), "ID"), expected);
    }

    #[test]
    fn a_grant_tells_who_became_whom_by_which_rule() {
        check(
            &granted(),
            LogFormat::Text,
            "2026-11-22T21:00:00.123Z audit grant id=ID client=2001:db8::1 act=pbx_session method=app \
             subject=\"Ann Lee\" rule=staff account=40@acme.test level=user claims=ext,tenant",
        );
    }

    #[test]
    fn the_redemption_of_a_ticket_names_the_request_that_began() {
        let begun = RequestId::next();
        let entry = LoginRecord { begun: Some(begun), redeemed_from: Some("192.0.2.7".parse().unwrap()), ..granted() };
        let line = entry.line(&LogFormat::Text.into(), Timestamp::UNIX_EPOCH);
        let told = format!("act=pbx_session begun={begun} redeemed_from=192.0.2.7 method=app");
        assert!(line.contains(&told) && line.contains("audit grant"), "{line}");
        let issued = LoginRecord { outcome: LoginOutcome::Ticket, ..granted() };
        assert!(issued.line(&LogFormat::Text.into(), Timestamp::UNIX_EPOCH).contains(" audit ticket id="));
    }

    #[test]
    fn a_refusal_tells_what_is_known_and_no_secret() {
        check(
            &refused(),
            LogFormat::Text,
            "2026-11-22T21:00:00.123Z audit refusal id=ID client=2001:db8::1 act=voximplant_token \
             reason=\"bad sessId=***\"",
        );
    }

    #[test]
    fn a_guess_is_told_before_what_the_client_chose() {
        let entry = LoginRecord { is_guess: true, method: Some("key".to_owned()), ..refused() };
        let line = entry.line(&LogFormat::Text.into(), Timestamp::UNIX_EPOCH);
        assert!(line.contains(" client=2001:db8::1 act=voximplant_token suspicion=guess method=key "), "{line}");
    }

    #[test]
    fn a_logout_is_no_grant() {
        let act = AuditedAct::Logout(LogoutKind::Provider);
        let entry = LoginRecord { act, rule: None, account: None, level: None, claims: Vec::new(), ..granted() };
        check(
            &entry,
            LogFormat::Text,
            "2026-11-22T21:00:00.123Z audit logout id=ID client=2001:db8::1 act=provider_logout method=app \
             subject=\"Ann Lee\"",
        );
    }

    #[test]
    fn claims_are_a_list_of_names() {
        let line = granted().line(&LogFormat::Json.into(), Timestamp::UNIX_EPOCH);
        assert!(line.ends_with(r#","account":"40@acme.test","level":"user","claims":["ext","tenant"]}"#), "{line}");
    }

    #[test]
    fn a_note_tells_who_did_what_to_whom() {
        let note = EventRecord {
            event: AuditEvent::Freeze,
            account: "40@acme.test".to_owned(),
            session: None,
            subject: None,
            by: Some("uid 0".to_owned()),
            until: Some("2026-11-22T23:00:00Z".parse().unwrap()),
            reason: Some("calls to Cuba".to_owned()),
        };
        let line = |note: &EventRecord| note.line(&LogFormat::Text.into(), "2026-11-22T21:00:00.123Z".parse().unwrap());
        assert_eq!(
            line(&note),
            "2026-11-22T21:00:00.123Z audit freeze account=40@acme.test by=\"uid 0\" reason=\"calls to Cuba\" \
             until=2026-11-22T23:00:00Z"
        );
        let thaw = EventRecord { event: AuditEvent::Thaw, by: None, until: None, reason: None, ..note };
        assert_eq!(line(&thaw), "2026-11-22T21:00:00.123Z audit thaw account=40@acme.test");
    }

    #[test]
    fn json_tells_the_same() {
        check(
            &refused(),
            LogFormat::Json,
            r#"{"time":"2026-11-22T21:00:00.123Z","kind":"audit refusal","id":"ID","client":"2001:db8::1","act":"voximplant_token","reason":"bad sessId=***"}"#,
        );
    }
}
