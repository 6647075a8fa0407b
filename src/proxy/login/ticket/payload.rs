//! The meaning of a ticket, as the store keeps it: the login that it stands for, and the step of its hand-over.

use serde::{Deserialize, Serialize};

use crate::model::grant::{Rule, StoredGrant};
use crate::model::secret::Secret;
use crate::proxy::gate::caller::Caller;
use crate::proxy::login::accepted::AcceptedLogin;

/// The meaning of a ticket.
pub(super) struct TicketPayload {
    /// The login whose session is opened at the end.
    pub(super) login: AcceptedLogin,
    /// The host that the ticket is for, without port.
    pub(super) host: String,
    pub(super) step: HandOverStep,
    /// Where a person logs in again: host, port and path; empty where no person began.
    pub(super) again: String,
}

/// The steps of a hand-over. A browser is named by the SHA-256 of its cookie, in hexadecimal.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum HandOverStep {
    /// A server with a key sends a browser, and vouches for it.
    Sent,
    /// A browser began at the host `at`, where it has a cookie.
    Begun { browser: String, at: String },
    /// The browser has a cookie of the PBX's host `to` too, and goes back.
    Back { browser: String, there: String, to: String },
    /// The browser has shown the cookie of its beginning.
    Known { there: String },
}

/// A payload in the store. A text that another version wrote has other members, and is not read.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredPayload {
    caller: Caller,
    grant: StoredGrant,
    language: Option<String>,
    page: Option<String>,
    host: StoredHost,
    step: HandOverStep,
    again: String,
}

/// The host that a ticket is for, and the PBX node that opens the session, where there are several.
#[derive(Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum StoredHost {
    Host(String),
    WithNode { host: String, node: String },
}

impl TicketPayload {
    /// Writes the payload as JSON.
    pub(super) fn text(&self) -> Secret {
        let AcceptedLogin { caller, grant, language, page, node, meets_at: _ } = &self.login;
        let stored = StoredPayload {
            caller: caller.clone(),
            grant: StoredGrant::of(grant),
            language: language.as_ref().map(|language| language.as_str().to_owned()),
            page: page.clone(),
            host: match node.clone() {
                Some(node) => StoredHost::WithNode { host: self.host.clone(), node },
                None => StoredHost::Host(self.host.clone()),
            },
            step: self.step.clone(),
            again: self.again.clone(),
        };
        Secret::new(serde_json::to_string(&stored).expect("texts and numbers are JSON"))
    }

    /// Reads a payload; nothing if another version wrote it, or its rule is gone.
    pub(super) fn read(text: &Secret, rules: &[Rule]) -> Option<Self> {
        let StoredPayload { caller, grant, language, page, host, step, again } =
            serde_json::from_str(text.expose()).ok()?;
        let (host, node) = match host {
            StoredHost::Host(host) => (host, None),
            StoredHost::WithNode { host, node } => (host, Some(node)),
        };
        let language = language.map(|language| language.parse()).transpose().ok()?;
        let login = AcceptedLogin { caller, grant: grant.restore(rules)?, language, meets_at: None, page, node };
        Some(Self { login, host, step, again })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::condition::When;
    use crate::model::credential_mark::CredentialMark;
    use crate::model::grant::{self, PbxTemplate, Requested};
    use crate::model::principal::{Claims, Principal};
    use crate::observe::RequestId;
    use crate::pbx::MARKS;

    const HOST: usize = 253;

    fn rule(name: &str, pbx: PbxTemplate) -> Rule {
        let (when, methods) = (When::default(), Some(vec!["app".to_owned()]));
        let name = name.to_owned();
        Rule { name, methods, when, table: None, pbx: Some(pbx), voximplant: None, choose: None, languages: None }
    }

    fn user() -> PbxTemplate {
        PbxTemplate::User { domain: "acme.test".parse().unwrap(), account: "40".parse().unwrap() }
    }

    fn administrator() -> PbxTemplate {
        PbxTemplate::TenantAdmin { domain: "acme.test".parse().unwrap() }
    }

    fn payload(rules: &[Rule], subject: &str, long: &str) -> TicketPayload {
        let principal = Principal { method: "app".to_owned(), subject: subject.to_owned(), claims: Claims::new() };
        let granted = grant::pbx(rules, &principal, &Requested::default(), jiff::Timestamp::UNIX_EPOCH).outcome;
        let caller = Caller {
            method: principal.method,
            subject: principal.subject,
            client: "2001:db8::1".parse().unwrap(),
            request: RequestId::next(),
            sid: Some("s".repeat(64)),
            issued: Some(1_700_000_000),
            began: jiff::Timestamp::UNIX_EPOCH,
            marks: (0..MARKS as u64).map(|number| CredentialMark::whole([&number.to_be_bytes()[..]])).collect(),
        };
        let login = AcceptedLogin {
            node: Some("north".to_owned()),
            caller,
            grant: granted.unwrap(),
            language: Some("fr".parse().unwrap()),
            meets_at: None,
            page: Some(format!("/auth/callgate/page?state={}", "A".repeat(1700))),
        };
        let step = HandOverStep::Back { browser: "0".repeat(64), there: "1".repeat(64), to: long.to_owned() };
        TicketPayload { login, host: long.to_owned(), step, again: format!("{long}/auth/pbx") }
    }

    #[test]
    fn a_payload_comes_back_as_it_was() {
        for pbx in [user(), administrator()] {
            let rules = [rule("staff", pbx)];
            let before = payload(&rules, "Ann \"Lee\" – \u{1}\n", "app.test:8443");
            let text = before.text();
            let after = TicketPayload::read(&text, &rules).unwrap();
            assert_eq!(after.text().expose(), text.expose());
            assert_eq!(after.login.grant.role(), before.login.grant.role());
            assert_eq!(after.login.caller, before.login.caller);
        }
    }

    #[test]
    fn a_payload_needs_its_rule_with_the_same_level() {
        let text = payload(&[rule("staff", user())], "ann", "app.test").text();
        for other in [vec![], vec![rule("others", user())], vec![rule("staff", administrator())]] {
            assert!(TicketPayload::read(&text, &other).is_none());
        }
    }

    #[test]
    fn texts_of_other_versions_are_not_read() {
        let rules = [rule("staff", user())];
        let text = payload(&rules, "ann", "app.test").text().expose().to_owned();
        for other in [
            "g7lsrphhrkim1jkvbt88 - pbx.test begun|00|app.test account 40@acme.test",
            "",
            "{}",
            "null",
            &text.replacen('{', "{\"more\":1,", 1),
            &text.replace("\"level\":\"user\"", "\"level\":\"root\""),
            &text.replace("\"level\":\"user\"", "\"level\":\"domain\""),
            &text.replace("\"user\":\"40\"", "\"user\":null"),
            &text.replace("\"user\":\"40\"", "\"user\":\"admin\""),
            &text[..text.len() - 1],
        ] {
            assert_ne!(other, text);
            assert!(TicketPayload::read(&Secret::new(other.to_owned()), &rules).is_none(), "{other}");
        }
    }

    /// The store keeps up to 10 000 of them.
    #[test]
    fn a_payload_is_small_whatever_its_caller_is_called() {
        let rules = [rule("staff", user())];
        let longest = payload(&rules, &"\u{1}".repeat(1024), &"a".repeat(HOST + ":65535".len()));
        assert!(longest.text().expose().len() < 11 << 10, "{}", longest.text().expose().len());
    }
}
