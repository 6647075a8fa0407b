//! The requests to the PBX, and the strict reading of its answers.
//!
//! The PBX answers a wrong password with status 200 and the body `false`, so success is a session in the answer, not
//! the absence of an error.

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderValue};
use serde_json::json;

use super::{Error, breaker};
use crate::config::Dialect;
use crate::model::account::{Language, Role};
use crate::model::json::Json;
use crate::model::session::{SESSION, SessionId};
use crate::model::session_state::{SessionMarkers, SessionState};

/// The request for a session: "third party login" in the vendor's documentation. For a user it is the same in all
/// dialects. The legacy dialect cannot name the system administrator: no rule grants that role there.
pub(super) fn mint_request(role: &Role, dialect: Dialect) -> Bytes {
    let domain = role.domain().as_str();
    let question = match (role, dialect) {
        (Role::User(account), _) => json!({ "name": "3rd", "username": account.user(), "domain": domain }),
        (Role::TenantAdmin(_) | Role::SystemAdmin(_), Dialect::Legacy) => {
            json!({ "name": "3rd", "username": "admin", "domain": domain })
        }
        (Role::TenantAdmin(_), Dialect::Modern) => json!({ "name": "3rd", "domain": domain }),
        (Role::SystemAdmin(_), Dialect::Modern) => json!({ "name": "3rd", "admin": true, "domain": domain }),
    };
    question.to_string().into()
}

/// The request that exchanges a temporary token for a cookie.
pub(super) fn exchange_request(token: &SessionId) -> Bytes {
    json!({ "name": SESSION, "value": token.expose() }).to_string().into()
}

/// The request by which a page of the PBX sets the language of its session.
pub(super) fn language_request(language: &Language) -> Bytes {
    json!({ "name": "lang", "value": language.as_str() }).to_string().into()
}

/// Reads the answer to [`mint_request`]: a session only from status 200 and a JSON string, a bare token, or an object
/// that holds one.
pub(super) fn read_mint(status: StatusCode, body: &[u8]) -> Result<SessionId, Error> {
    let text = std::str::from_utf8(body).unwrap_or_default().trim_ascii();
    match status {
        StatusCode::OK if matches!(text, "false" | "\"\"" | "") => Err(refused()),
        StatusCode::OK => token(text).and_then(|token| token.parse().ok()).ok_or(Error::BadResponse),
        StatusCode::UNAUTHORIZED => Err(refused()),
        StatusCode::FORBIDDEN => Err(Error::NotPermitted),
        StatusCode::NOT_FOUND => Err(Error::Unknown),
        _ => Err(Error::BadResponse),
    }
}

const fn refused() -> Error {
    Error::Refused { retry_after: breaker::OPEN }
}

/// Finds the token in the forms that versions of the PBX use.
fn token(text: &str) -> Option<String> {
    match Json::read(text.as_bytes()) {
        Ok(Json::Text(token)) => Some(token),
        Ok(object @ Json::Object(_)) => {
            let members = [SESSION, "value", "token"].map(|name| object.member(name));
            let members: Vec<_> = members.into_iter().collect::<Result<_, _>>().ok()?;
            let mut tokens = members.into_iter().flatten().filter_map(Json::text);
            // Two different tokens are ambiguous.
            tokens.next().filter(|token| tokens.all(|other| other == *token)).map(str::to_owned)
        }
        // A token of digits alone is also a JSON number.
        Ok(Json::Number(_)) | Err(_) => Some(text.to_owned()),
        Ok(Json::Null | Json::Bool(_) | Json::List(_)) => None,
    }
}

/// Reads the answer to [`exchange_request`]: the cookies, one of which must be the session's.
pub(super) fn read_exchange(status: StatusCode, body: &[u8], headers: &HeaderMap) -> Result<Vec<HeaderValue>, Error> {
    let cookies: Vec<_> = headers.get_all(header::SET_COOKIE).iter().cloned().collect();
    let has_session = cookies.iter().any(|cookie| is_session(cookie.as_bytes()));
    let accepted = status == StatusCode::OK && !matches!(body.trim_ascii(), b"false" | b"\"\"");
    if accepted && has_session { Ok(cookies) } else { Err(Error::BadResponse) }
}

/// Reads the answer to the end of a session.
pub(super) fn read_log_out(status: StatusCode, body: &[u8]) -> Result<(), Error> {
    match status {
        StatusCode::OK | StatusCode::NO_CONTENT if body.trim_ascii() != b"false" => Ok(()),
        // The PBX does not know the session: it has ended before.
        StatusCode::UNAUTHORIZED => Ok(()),
        _ => Err(Error::BadResponse),
    }
}

/// Returns the `Cookie` field of a browser that has just received these cookies.
pub(super) fn cookie(set: &[HeaderValue]) -> Option<HeaderValue> {
    let pairs = set.iter().map(|cookie| cookie.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default());
    let mut cookie = HeaderValue::from_bytes(&pairs.collect::<Vec<_>>().join(&b"; "[..])).ok()?;
    cookie.set_sensitive(true);
    Some(cookie)
}

fn is_session(cookie: &[u8]) -> bool {
    let value = cookie.strip_prefix(SESSION.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
    value.is_some_and(|value| value.first().is_some_and(u8::is_ascii_alphanumeric))
}

/// Reads the description of a session. Some versions may answer 401 where others describe a session without a user.
pub(super) fn read_description(status: StatusCode, body: &[u8], markers: &SessionMarkers) -> SessionState {
    match status {
        StatusCode::OK => markers.read(body),
        StatusCode::UNAUTHORIZED => SessionState::Over,
        _ => SessionState::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::Value;

    use super::*;
    use crate::model::condition::When;
    use crate::model::grant::{self, PbxTemplate, Requested, Rule};
    use crate::model::principal::{Claims, Principal};

    #[track_caller]
    fn check(status: u16, body: &str, expected: &str) {
        let read = read_mint(StatusCode::from_u16(status).unwrap(), body.as_bytes());
        let shown = match &read {
            Ok(session) => session.expose(),
            Err(Error::Refused { .. }) => "refused",
            Err(Error::NotPermitted) => "not permitted",
            Err(Error::Unknown) => "unknown",
            Err(_) => "nonsense",
        };
        assert_eq!(shown, expected, "{status} {body}");
    }

    #[test]
    fn success_is_a_token_and_status_200() {
        check(200, "\"g7lsrphhrkim1jkvbt88\"", "g7lsrphhrkim1jkvbt88");
        check(200, "g7lsrphhrkim1jkvbt88\n", "g7lsrphhrkim1jkvbt88");
        check(200, "12345678901234567890", "12345678901234567890");
        check(200, "{\"session\":\"g7lsrphhrkim1jkvbt88\"}", "g7lsrphhrkim1jkvbt88");
        check(200, "{\"value\":\"g7lsrphhrkim1jkvbt88\"}", "g7lsrphhrkim1jkvbt88");
        check(200, "{\"token\":\"g7lsrphhrkim1jkvbt88\"}", "g7lsrphhrkim1jkvbt88");
        check(200, "{\"x\":1,\"x\":2,\"session\":\"g7lsrphhrkim1jkvbt88\"}", "g7lsrphhrkim1jkvbt88");
        for status in [201, 204, 302, 500, 503] {
            check(status, "\"g7lsrphhrkim1jkvbt88\"", "nonsense");
        }
    }

    #[test]
    fn a_session_is_over_when_the_pbx_says_so() {
        let is_over =
            |status: u16, body: &str| read_log_out(StatusCode::from_u16(status).unwrap(), body.as_bytes()).is_ok();
        for (status, body) in [(200, "true"), (200, ""), (204, ""), (401, "{}"), (401, "<html>")] {
            assert!(is_over(status, body), "{status} {body}");
        }
        for (status, body) in [(200, "false"), (200, " false\r\n"), (403, ""), (404, ""), (302, ""), (500, "true")] {
            assert!(!is_over(status, body), "{status} {body}");
        }
    }

    #[test]
    fn a_wrong_password_is_said_with_status_200() {
        check(200, "false", "refused");
        check(200, " false\r\n", "refused");
        check(200, "\"\"", "refused");
        check(200, "", "refused");
        check(401, "{}", "refused");
    }

    #[test]
    fn everything_else_is_no_session() {
        check(403, "", "not permitted");
        check(404, "", "unknown");
        for body in [
            "true",
            "null",
            "[]",
            "{}",
            "{\"session\":false}",
            "{\"session\":\"g7lsrphhrkim1jkvbt88\",\"session\":\"g7lsrphhrkim1jkvbt88\"}",
            "{\"session\":\"g7lsrphhrkim1jkvbt88\",\"token\":\"g7lsrphhrkim1jkvbt89\"}",
            "<html>login</html>",
            "\"short\"",
            "\"has space inside it\"",
            "\"false\"",
            "\"g7lsrphhrkim1jkvbt8\\n\"",
            "-1234567890123",
        ] {
            check(200, body, "nonsense");
        }
    }

    /// The role that a rule grants at this level.
    fn role(template: PbxTemplate) -> Role {
        let rule = Rule {
            name: String::new(),
            methods: None,
            when: When::default(),
            table: None,
            pbx: Some(template),
            voximplant: None,
            choose: None,
            languages: None,
        };
        let ann = Principal { method: "app".to_owned(), subject: "ann".to_owned(), claims: Claims::new() };
        grant::pbx(&[rule], &ann, &Requested::default(), Timestamp::UNIX_EPOCH).outcome.unwrap().role().clone()
    }

    #[test]
    fn the_question_names_whom_the_session_is_for() {
        let domain = || "acme.test".parse().unwrap();
        let user = role(PbxTemplate::User { domain: domain(), account: "40".parse().unwrap() });
        let tenant = role(PbxTemplate::TenantAdmin { domain: domain() });
        let system = role(PbxTemplate::SystemAdmin { domain: domain() });
        let ask = |role, dialect| serde_json::from_slice::<Value>(&mint_request(role, dialect)).unwrap();
        for dialect in [Dialect::Legacy, Dialect::Modern] {
            assert_eq!(ask(&user, dialect), json!({"name": "3rd", "username": "40", "domain": "acme.test"}));
        }
        let named = json!({"name": "3rd", "username": "admin", "domain": "acme.test"});
        assert_eq!(ask(&tenant, Dialect::Legacy), named);
        assert_eq!(ask(&tenant, Dialect::Modern), json!({"name": "3rd", "domain": "acme.test"}));
        assert_eq!(ask(&system, Dialect::Modern), json!({"name": "3rd", "admin": true, "domain": "acme.test"}));
    }

    #[test]
    fn cookies_are_sent_as_a_browser_sends_them() {
        let set = ["session=abc; Path=/; Secure", "ui#x=1"].map(HeaderValue::from_static);
        assert_eq!(cookie(&set).unwrap(), "session=abc; ui#x=1");
    }

    #[test]
    fn an_exchange_needs_the_session_cookie() {
        let mut headers = HeaderMap::new();
        let read = |body: &[u8], headers: &HeaderMap| {
            read_exchange(StatusCode::OK, body, headers).map(|cookies| cookies.len()).ok()
        };
        assert_eq!(read(b"true", &headers), None);
        headers.append(header::SET_COOKIE, HeaderValue::from_static("other=1"));
        assert_eq!(read(b"true", &headers), None);
        headers.append(header::SET_COOKIE, HeaderValue::from_static("session=abc; Path=/"));
        assert_eq!(read(b"true", &headers), Some(2));
        assert_eq!(read(b"false", &headers), None);
    }
}
