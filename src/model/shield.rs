//! Requests to the PBX that only the operator's own networks may make: administration, and third-party sessions.
//!
//! A request that two parsers could read differently is refused, so that the PBX cannot find something in it that
//! callgate did not.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use percent_encoding::percent_decode_str;

use super::json::Json;
use super::path;
use super::session::{SESSION, SESSION_PARAMETER};

/// The paths of administrators, and the exceptions among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProtectedPaths {
    /// The prefixes of the administrators' paths, in lower case.
    pub admin: Vec<String>,
    /// The exceptions: paths that stay open, with everything below them, in lower case.
    pub open: Vec<String>,
}

/// The forbidden thing that a request from outside tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    /// A page or an operation of administrators.
    #[error("a page of the PBX's administrators, from outside")]
    AdminPath,
    /// The name of the administrator whom callgate itself uses.
    #[error("the name of callgate's own administrator, from outside")]
    Administrator,
    /// A session for an account, opened without its password.
    #[error("a third-party login at the PBX, from outside")]
    ThirdParty,
    /// A session that callgate did not hand out, or not recently.
    #[error("a session that callgate did not hand out just now")]
    ForeignSession,
}

/// The reason why a request is not forwarded to the PBX.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShieldVerdict {
    /// The request tries a forbidden thing.
    Breach(Breach),
    /// The request has more than one reading.
    Unclear(&'static str),
}

impl ProtectedPaths {
    /// Checks a path by its canonical copy.
    ///
    /// # Errors
    /// When the path is an administrator's.
    pub fn judge(&self, canonical: &str) -> Result<(), Breach> {
        let is_admin = |path: &str| {
            self.admin.iter().any(|start| path.starts_with(start.as_str()))
                && !self.open.iter().any(|open| is_within(path, open))
        };
        if every_reading(canonical, is_admin) { Err(Breach::AdminPath) } else { Ok(()) }
    }
}

/// Tells whether a canonical path is the one where the PBX opens sessions.
#[must_use]
pub fn opens_sessions(canonical: &str) -> bool {
    every_reading(canonical, |path| is_within(path, "/rest/system/session"))
}

/// Tells whether a predicate holds for a canonical path, or for the path after one more round of decoding.
fn every_reading(canonical: &str, is_so: impl Fn(&str) -> bool) -> bool {
    let read = path::cut_at_terminator(canonical);
    is_so(read) || read.contains('%') && is_so(path::cut_at_terminator(&path::canonical(read)))
}

fn is_within(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || folder.ends_with('/') || rest.starts_with('/'))
}

/// Finds the one session in the query of a target, `sessId=…`.
///
/// # Errors
/// When there is a session in another place or spelling, or more than one: it is unknown which of them the PBX would
/// take.
pub fn session_in_query<'t>(path: &str, query: Option<&'t str>) -> Result<Option<&'t str>, Breach> {
    let query = query.unwrap_or_default();
    let count = count_mentions(path) + count_mentions(query);
    let mut named =
        query.split('&').filter_map(|parameter| parameter.strip_prefix(SESSION_PARAMETER)?.strip_prefix('='));
    match (count, named.next()) {
        (0, _) => Ok(None),
        (1, Some(session)) if session.bytes().all(|byte| byte.is_ascii_alphanumeric()) => Ok(Some(session)),
        _ => Err(Breach::ForeignSession),
    }
}

/// Counts the occurrences of the parameter's name in a text, up to two rounds of decoding.
fn count_mentions(text: &str) -> usize {
    let name = SESSION_PARAMETER.as_bytes();
    let count = |text: &str| text.as_bytes().windows(name.len()).filter(|part| part.eq_ignore_ascii_case(name)).count();
    if !text.contains('%') {
        return count(text);
    }
    let once = percent_decode_str(text).decode_utf8_lossy();
    let twice = percent_decode_str(&once).decode_utf8_lossy();
    count(text).max(count(&once)).max(count(&twice))
}

// === Credentials ===

/// Checks a value of `Authorization`.
///
/// # Errors
/// When it names the administrator, or is Basic and cannot be decoded.
pub fn judge_credentials(value: &[u8], administrator: &str) -> Result<(), ShieldVerdict> {
    let text = String::from_utf8_lossy(value);
    let (scheme, rest) = text.trim().split_once(char::is_whitespace).unwrap_or_default();
    if !scheme.eq_ignore_ascii_case("basic") {
        // In Digest, the name may stand anywhere and in any quotes.
        let decoded = percent_decode_str(rest).decode_utf8_lossy();
        let mut words = decoded.split(|c: char| c.is_whitespace() || "\"'=,".contains(c));
        return if words.any(|word| names(word, administrator)) { Err(ADMINISTRATOR) } else { Ok(()) };
    }
    let decoded =
        FORGIVING.decode(rest.trim()).map_err(|_| ShieldVerdict::Unclear("the Basic credentials are not base64"))?;
    let decoded = String::from_utf8_lossy(&decoded);
    let user = decoded.split(':').next().unwrap_or_default();
    if names(user, administrator) { Err(ADMINISTRATOR) } else { Ok(()) }
}

const ADMINISTRATOR: ShieldVerdict = ShieldVerdict::Breach(Breach::Administrator);
const THIRD_PARTY: ShieldVerdict = ShieldVerdict::Breach(Breach::ThirdParty);

/// Decodes base64 as the most tolerant reader would.
const FORGIVING: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Tells whether a text begins with the administrator's name, alone or before a domain or a password.
fn names(text: &str, administrator: &str) -> bool {
    let name = plain(text).split(char::is_whitespace).next().unwrap_or_default();
    let short = name.split('@').next().unwrap_or_default();
    [name, short].iter().any(|name| name.eq_ignore_ascii_case(administrator))
}

/// Cuts a text where a reader that ends at control characters would end it.
fn plain(text: &str) -> &str {
    let text = text.trim_start_matches(|c: char| c.is_control() || c.is_whitespace());
    text.split(char::is_control).next().unwrap_or_default().trim()
}

// === Logins ===

/// Checks a request to the path where sessions are opened. Returns the token that is to become a session, if there is
/// one.
///
/// # Errors
/// When it is a third-party login, names the administrator, or is not a single JSON object that has one reading.
pub fn judge_login(
    query: Option<&str>,
    body: &[u8],
    administrator: Option<&str>,
) -> Result<Option<String>, ShieldVerdict> {
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        judge_text(&name, administrator)?;
        judge_text(&value, administrator)?;
    }
    if body.is_empty() {
        return Ok(None);
    }
    let Ok(login @ Json::Object(_)) = Json::read(body) else {
        return Err(ShieldVerdict::Unclear("the login is not one JSON object in UTF-8"));
    };
    judge_json(&login, administrator)?;
    let Json::Object(members) = login else { return Ok(None) };
    let member = |name: &str| {
        let value = members.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        value.map(|value| value.text().map(plain))
    };
    match (member("name"), member("value")) {
        (None, _) => Err(ShieldVerdict::Unclear("the login has no name")),
        (Some(None), _) => Err(ShieldVerdict::Unclear("the name of the login is not a text")),
        (Some(Some(name)), value) if name.eq_ignore_ascii_case(SESSION) => match value {
            Some(Some(token)) => Ok(Some(token.to_owned())),
            _ => Err(ShieldVerdict::Unclear("the token of the login is not a text")),
        },
        (Some(Some(_)), _) => Ok(None),
    }
}

fn judge_text(text: &str, administrator: Option<&str>) -> Result<(), ShieldVerdict> {
    if plain(text).eq_ignore_ascii_case("3rd") {
        return Err(THIRD_PARTY);
    }
    if administrator.is_some_and(|administrator| names(text, administrator)) {
        return Err(ADMINISTRATOR);
    }
    Ok(())
}

/// Checks every text of the login, at any depth.
fn judge_json(json: &Json, administrator: Option<&str>) -> Result<(), ShieldVerdict> {
    match json {
        Json::Text(text) => judge_text(text, administrator),
        Json::Object(members) => {
            judge_names(members)?;
            members.iter().try_for_each(|(_, value)| judge_json(value, administrator))
        }
        Json::List(items) => items.iter().try_for_each(|item| judge_json(item, administrator)),
        Json::Null | Json::Bool(_) | Json::Number(_) => Ok(()),
    }
}

/// Checks that member names have plain characters, and that no name repeats in another case.
fn judge_names(members: &[(String, Json)]) -> Result<(), ShieldVerdict> {
    let mut names: Vec<_> = members.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.sort_unstable();
    let is_plain = |name: &String| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(ShieldVerdict::Unclear("a member of the login is given twice"));
    }
    if names.iter().all(is_plain) {
        Ok(())
    } else {
        Err(ShieldVerdict::Unclear("a member of the login has an odd name"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protected_paths() -> ProtectedPaths {
        let list = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
        ProtectedPaths {
            admin: list(&["/reg_", "/dom_", "/rest/system/"]),
            open: list(&["/rest/system/session", "/rest/system/localization"]),
        }
    }

    #[track_caller]
    fn check_path(path: &str, open: bool) {
        assert_eq!(protected_paths().judge(&path::canonical(path)).is_ok(), open, "{path}");
    }

    #[test]
    fn pages_of_administrators_are_known_in_every_spelling() {
        for path in [
            "/reg_domains.htm",
            "/REG_domains.htm",
            "/%72eg_domains.htm",
            "/%2572eg_domains.htm",
            "//reg_license.htm",
            "/x/../dom_accounts.htm",
            "/x;y/..;z/dom_accounts.htm",
            "\\dom_accounts.htm",
            "/rest/system/config",
            "/rest/./system/stats",
            "/rest/system/session/../config",
            "/rest/system/sessions",
            "/rest/system/",
            "/reg_domains.htm%00.png",
        ] {
            check_path(path, false);
        }
    }

    #[test]
    fn pages_of_users_are_open() {
        for path in [
            "/",
            "/usr_index.htm",
            "/welcome.htm",
            "/img/reg_1.png",
            "/register",
            "/rest/system/session",
            "/rest/system/session/",
            "/rest/system/localization/en",
            "/rest/user/40@acme.test/calls",
            "/rest/system",
        ] {
            check_path(path, true);
        }
    }

    #[test]
    fn sessions_are_opened_in_one_place() {
        for path in
            ["/rest/system/session", "/rest/system/session/", "/REST/system//session;x", "/rest/system/%2573ession"]
        {
            assert!(opens_sessions(&path::canonical(path)), "{path}");
        }
        assert!(!opens_sessions("/rest/system/sessions"));
    }

    #[track_caller]
    fn check_session_in_query(target: &str, expected: Result<Option<&str>, Breach>) {
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        assert_eq!(session_in_query(path, query), expected, "{target}");
    }

    #[test]
    fn a_session_has_one_place_and_one_spelling() {
        check_session_in_query("/welcome.htm", Ok(None));
        check_session_in_query("/welcome.htm?lang=fr&x=%41", Ok(None));
        check_session_in_query("/welcome.htm?sessId=abc123", Ok(Some("abc123")));
        check_session_in_query("/welcome.htm?lang=fr&sessId=abc123&x=1", Ok(Some("abc123")));
        for target in [
            "/welcome.htm?sessId=a&sessId=b",
            "/welcome.htm?sessId=a&sessid=b",
            "/welcome.htm?SESSID=a",
            "/welcome.htm?sess%49d=a",
            "/welcome.htm?sess%2549d=a",
            "/welcome.htm?sessId=a;sessId=b",
            "/welcome.htm?x=1;sessId=b",
            "/welcome.htm?sessId=%61",
            "/welcome.htm?sessId=a%26sessId=b",
            "/welcome.htm?sessId",
            "/welcome.htm??sessId=a",
            "/welcome.htm%3fsessId=a",
            "/welcome.htm;sessId=a",
            "/welcome.htm?sessId[]=a",
        ] {
            check_session_in_query(target, Err(Breach::ForeignSession));
        }
    }

    #[track_caller]
    fn check_credentials(value: &str, expected: Result<(), ShieldVerdict>) {
        assert_eq!(judge_credentials(value.as_bytes(), "sso"), expected, "{value}");
    }

    #[test]
    fn the_administrator_is_known_in_credentials_of_every_form() {
        // sso:x, SSO:x, sso@any:x; without padding; NUL behind the name
        for basic in ["c3NvOng=", "U1NPOng=", "c3NvQGFueTp4", "c3NvOng", "c3NvADp4"] {
            check_credentials(&format!("Basic {basic}"), Err(ADMINISTRATOR));
            check_credentials(&format!("bASIC   {basic} "), Err(ADMINISTRATOR));
        }
        for digest in ["username=\"sso\", realm=\"x\"", "realm=x,username=sso", "username*=UTF-8''s%73o"] {
            check_credentials(&format!("Digest {digest}"), Err(ADMINISTRATOR));
        }
    }

    #[test]
    fn credentials_of_others_pass() {
        // 40:sso
        for value in ["Basic NDA6c3Nv", "Digest username=\"40\", uri=\"/sso/x\"", "Bearer abc", "", "Basic"] {
            check_credentials(value, Ok(()));
        }
        check_credentials("Basic !!!", Err(ShieldVerdict::Unclear("the Basic credentials are not base64")));
    }

    #[track_caller]
    fn check_login(body: &str, expected: Result<Option<&str>, &str>) {
        let judged = judge_login(None, body.as_bytes(), Some("sso"));
        let judged = judged.map_err(|refusal| match refusal {
            ShieldVerdict::Breach(Breach::ThirdParty) => "third party",
            ShieldVerdict::Breach(_) => "administrator",
            ShieldVerdict::Unclear(_) => "unclear",
        });
        assert_eq!(judged.as_ref().map(Option::as_deref).map_err(|refusal| *refusal), expected, "{body}");
    }

    #[test]
    fn logins_of_users_pass() {
        for body in [
            r#"{"name":"auth","value":"40 0123456789abcdef0123456789abcdef"}"#,
            r#"{"name":"lang","value":"fr"}"#,
            r#"{"name":"reset","value":"40"}"#,
            r#"{"name":"webauthn","value":{"id":"x","keys":[1,2.5,-1,null,true]}}"#,
            "",
        ] {
            check_login(body, Ok(None));
        }
        check_login(r#"{"name":"session","value":"abc123"}"#, Ok(Some("abc123")));
    }

    #[test]
    fn third_party_logins_are_found_however_they_are_written() {
        for body in [
            r#"{"name":"3rd","username":"40","domain":"acme.test"}"#,
            r#" { "name" : "3rd" } "#,
            r#"{"name":"\u0033rd"}"#,
            r#"{"n\u0061me":"3rd"}"#,
            r#"{"name":"3RD"}"#,
            r#"{"Name":"3rd"}"#,
            r#"{"name":" 3rd "}"#,
            r#"{"name":"3rd\u0000x"}"#,
            r#"{"name":"\t3rd"}"#,
            r#"{"name":"auth","x":{"name":"3rd"}}"#,
            r#"{"name":"auth","x":["3rd"]}"#,
            r#"{"name":["3rd"]}"#,
        ] {
            check_login(body, Err("third party"));
        }
        for query in ["name=3rd", "x=1&name=%33rd", "3rd", "name=3rd%00"] {
            assert_eq!(judge_login(Some(query), b"", None), Err(THIRD_PARTY), "{query}");
        }
    }

    #[test]
    fn the_administrator_logs_in_nowhere_else() {
        for body in [
            r#"{"name":"auth","value":"sso 0123456789abcdef0123456789abcdef"}"#,
            r#"{"name":"auth","value":"SSO 0123"}"#,
            r#"{"name":"auth","username":"sso","password":"x"}"#,
            r#"{"name":"reset","value":"sso"}"#,
            r#"{"name":"auth","value":"sso@localhost 0123"}"#,
        ] {
            check_login(body, Err("administrator"));
        }
    }

    #[test]
    fn a_session_request_with_two_readings_is_refused() {
        for body in [
            r#"{"name":"auth","name":"3rd"}"#,
            r#"{"name":"auth","Name":"x"}"#,
            r#"{"name":"auth","x":{"a":1,"a":2}}"#,
            r#"{"name":"auth","name\u0000":"x"}"#,
            r#"{"name":"auth"} {"name":"3rd"}"#,
            r#"{"name":"auth"}x"#,
            r#"{"name":"auth"#,
            r#"{name:"3rd"}"#,
            r#"{'name':'3rd'}"#,
            r#"[{"name":"auth"}]"#,
            r#""auth""#,
            r#"{"value":"x"}"#,
            r#"{"name":1}"#,
            r#"{"name":"session"}"#,
            r#"{"name":"session","value":1}"#,
            "\u{feff}{\"name\":\"auth\"}",
            "name=3rd&username=40",
            "{\"name\":\"\\ud833\"}",
            "{\"na\tme\":\"auth\"}",
        ] {
            check_login(body, Err("unclear"));
        }
        let utf16: Vec<u8> = r#"{"name":"3rd"}"#.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(judge_login(None, &utf16, None).is_err());
    }
}
