//! Answers of callgate's own: an [`Error`] as a page for a person, as JSON for a program.

mod account_choice;
pub(super) mod audience;
pub(super) mod client_module;
pub(super) mod page;
mod problem_page;
pub(super) mod reader;
pub(super) mod response;

use std::time::Duration;

use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode, Version};
use serde_json::{Value, json};

use self::audience::Audience;
use self::reader::Reader;
use self::response::retry_after;
use super::browser::cors;
use super::error::Error;
use crate::auth::OidcError;
use crate::exchange::Body;
use crate::message::websocket::{self, WEBSOCKET};
use crate::model::path::LOGIN_PATH;
use crate::state::KeepError;
use crate::voximplant::NewcomerError;
use crate::{pbx, upstream};

/// `Retry-After` where a table of the state is full, keys are missing or an identity provider does not answer.
const WAIT_FOR_ROOM: Duration = Duration::from_secs(10);
/// `Retry-After` where the state file cannot be written. The store tries again each second.
const WAIT_FOR_STATE: Duration = Duration::from_secs(2);
/// `Retry-After` where the audit log takes no line.
const WAIT_FOR_AUDIT: Duration = Duration::from_secs(2);
/// `Retry-After` where every connection to the upstream is taken.
const WAIT_FOR_CONNECTION: Duration = Duration::from_secs(1);

/// Turns an error into the answer for an audience. `reader`: the person, if it is one.
#[must_use]
pub(super) fn render(error: &Error, audience: &Audience, reader: Reader<'_>) -> Response<Body> {
    match error {
        Error::ForListedOrigin(error, origin) => {
            let mut response = render(error, &audience.to_a_program(), reader);
            cors::show_to(&mut response, origin);
            response
        }
        Error::Unauthenticated { login: Some(login) } if audience.is_navigation => {
            response::redirect(StatusCode::FOUND, login)
        }
        Error::Choose(choices) => account_choice::answer(choices, error, audience, reader),
        error => problem(error, audience, reader),
    }
}

fn problem(error: &Error, audience: &Audience, reader: Reader<'_>) -> Response<Body> {
    let (status, _) = error.status();
    let fields = fields(error);
    let mut response = match audience.wants_html {
        true => problem_page::of(error, wait_of(&fields), audience, reader).respond(),
        false => {
            let mut value = json_of(error, audience);
            if let Some(login) = login(error) {
                value["login"] = login.into();
            }
            response::json_with_status(status, &value)
        }
    };
    for (name, value) in fields {
        response.headers_mut().insert(name, value);
    }
    response
}

/// Returns how long `Retry-After` asks to wait, in seconds.
fn wait_of(fields: &[(HeaderName, HeaderValue)]) -> Option<u64> {
    let (_, value) = fields.iter().find(|(name, _)| *name == header::RETRY_AFTER)?;
    value.to_str().ok()?.parse().ok()
}

/// Returns the members that every error has in JSON.
fn json_of(error: &Error, audience: &Audience) -> Value {
    let (_, code) = error.status();
    json!({ "error": code, "message": error.to_string(), "request_id": audience.request_id.as_str() })
}

/// Returns where the caller can log in.
fn login(error: &Error) -> Option<&str> {
    match error {
        Error::Unauthenticated { login } => login.as_deref(),
        Error::Oidc(..) => Some(LOGIN_PATH),
        Error::LoginNotKept(ways) => Some(&ways.again),
        _ => None,
    }
}

/// Returns the header fields that belong to an error.
fn fields(error: &Error) -> Vec<(HeaderName, HeaderValue)> {
    match error {
        Error::LoginAgain(error, _) => fields(error),
        Error::MethodNotAllowed(allow) => vec![(header::ALLOW, HeaderValue::from_static(allow))],
        Error::UpgradeRequired(version) => upgrade(*version),
        Error::Unauthenticated { .. } => {
            vec![(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"callgate\""))]
        }
        Error::Limited(limited) => limited.header_values().into_iter().filter_map(field).collect(),
        Error::Pbx(pbx::Error::Open { retry_after: wait } | pbx::Error::Refused { retry_after: wait }) => {
            vec![retry_after(*wait)]
        }
        Error::Oidc(error, forget) => {
            let forget = forget.iter().map(|field| (header::SET_COOKIE, field.clone()));
            let wait = matches!(error, OidcError::Unavailable(_)).then(|| retry_after(WAIT_FOR_ROOM));
            forget.chain(wait).collect()
        }
        Error::NewUser(NewcomerError::Unavailable { retry_after: wait, .. }) => vec![retry_after(*wait)],
        Error::NotStored(KeepError::Full) | Error::Keys(_) => vec![retry_after(WAIT_FOR_ROOM)],
        Error::NotStored(KeepError::Unavailable | KeepError::EngineDown) => vec![retry_after(WAIT_FOR_STATE)],
        Error::NotAudited(_) => vec![retry_after(WAIT_FOR_AUDIT)],
        Error::Upstream(upstream::Error::Full | upstream::Error::BoundConnectionBusy) => {
            vec![retry_after(WAIT_FOR_CONNECTION)]
        }
        _ => Vec::new(),
    }
}

/// Offers a WebSocket (RFC 9110 §15.5.22, RFC 6455 §4.4). HTTP/2 has no such fields (RFC 9113 §8.2.2).
fn upgrade(version: Version) -> Vec<(HeaderName, HeaderValue)> {
    let offer = [(header::UPGRADE, WEBSOCKET), (header::CONNECTION, HeaderValue::from_static("upgrade"))];
    let offer = offer.into_iter().filter(|_| version == Version::HTTP_11);
    offer.chain([(header::SEC_WEBSOCKET_VERSION, websocket::VERSION)]).collect()
}

fn field((name, value): (&'static str, String)) -> Option<(HeaderName, HeaderValue)> {
    Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::try_from(value).ok()?))
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::config::PagesConfig;
    use crate::proxy::error::AccountChoices;
    use crate::proxy::login::link_options::LinkOptions;

    static PAGES: LazyLock<PagesConfig> = LazyLock::new(PagesConfig::default);

    #[test]
    fn pages_of_errors_carry_the_security_headers() {
        let person = Audience::person();
        let choices = AccountChoices::PbxByLink { among: Vec::new(), options: LinkOptions::default() };
        for error in [Error::Forbidden, Error::Unauthenticated { login: None }, Error::Choose(choices)] {
            let response = render(&error, &person, Reader::new(&PAGES, None, false));
            for name in ["content-security-policy", "referrer-policy", "x-content-type-options", "cache-control"] {
                assert!(response.headers().contains_key(name), "{error}: {name}");
            }
        }
    }
}
