//! Answers of callgate's own: an [`Error`] as a page for a person, as JSON for a program.

mod account_choice;
pub(super) mod audience;
pub(super) mod page;
pub(super) mod response;

use std::time::Duration;

use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode, Version};
use serde_json::{Value, json};

use self::audience::Audience;
use self::page::Page;
use self::response::retry_after;
use super::browser::cors;
use super::error::Error;
use crate::auth::OidcError;
use crate::exchange::Body;
use crate::message::websocket::{self, WEBSOCKET};
use crate::model::html::escape;
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

/// Turns an error into the answer for an audience.
#[must_use]
pub(super) fn render(error: &Error, audience: &Audience) -> Response<Body> {
    match error {
        Error::ForListedOrigin(error, origin) => {
            let mut response = render(error, &audience.to_a_program());
            cors::show_to(&mut response, origin);
            response
        }
        Error::Unauthenticated { login: Some(login) } if audience.is_navigation => {
            response::redirect(StatusCode::FOUND, login)
        }
        Error::Choose(choices) => account_choice::answer(choices, error, audience),
        error => problem(error, audience),
    }
}

fn problem(error: &Error, audience: &Audience) -> Response<Body> {
    let (status, _) = error.status();
    let mut response = match audience.wants_html {
        true => problem_page(error, audience).respond(),
        false => {
            let mut value = json_of(error, audience);
            if let Some(login) = login(error) {
                value["login"] = login.into();
            }
            response::json_with_status(status, &value)
        }
    };
    for (name, value) in fields(error) {
        response.headers_mut().insert(name, value);
    }
    response
}

/// Returns the members that every error has in JSON.
fn json_of(error: &Error, audience: &Audience) -> Value {
    let (_, code) = error.status();
    json!({ "error": code, "message": error.to_string(), "request_id": audience.request_id.as_str() })
}

fn problem_page(error: &Error, audience: &Audience) -> Page {
    let (status, _) = error.status();
    let link = |(login, label)| format!("<p><a href=\"{}\">{label}</a></p>", escape(login));
    let again = login_again(error).map(|login| (login, "Log in again"));
    let login = login(error).map(|login| (login, "Log in")).or(again).map(link);
    let password = match error {
        Error::LoginNotKept(ways) => {
            format!("<p><a href=\"{}\">Log in with a password</a></p>", escape(&ways.password))
        }
        _ => String::new(),
    };
    let main = format!(
        "{}{password}<p>{}If this keeps happening, send this number to your administrator:</p><small>{}<br>{status}</small>",
        login.unwrap_or_default(),
        advice(status),
        audience.request_id
    );
    Page::new(&capitalized(&error.to_string()), main).with_status(status)
}

/// Returns what a person can do now; an empty text where there is nothing.
fn advice(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "Log in on this site, then follow the link again. ",
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => "Try again in a while. ",
        _ if status.is_server_error() => "Try again in a moment. ",
        _ => "",
    }
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
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

/// Returns where a person can begin the login again.
fn login_again(error: &Error) -> Option<&str> {
    match error {
        Error::LoginAgain(_, login) => Some(login),
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
    use http_body_util::BodyExt;

    use super::*;
    use crate::observe::RequestId;
    use crate::proxy::error::AccountChoices;
    use crate::proxy::login::link_options::LinkOptions;

    fn person() -> Audience {
        Audience { is_navigation: true, wants_html: true, request_id: RequestId::next() }
    }

    #[tokio::test]
    async fn a_page_says_what_a_person_can_do() {
        for (error, expected) in [
            (Error::Unauthenticated { login: None }, "<p>Log in on this site, then follow the link again. If"),
            (Error::Forbidden, "<p>If this keeps happening, send this number"),
            (Error::RequestTimeout, "<p>Try again in a while. If"),
            (Error::Prefetch, "<p>Try again in a moment. If"),
        ] {
            let page = render(&error, &person()).into_body().collect().await.unwrap().to_bytes();
            let page = String::from_utf8_lossy(&page);
            assert!(page.contains(expected), "{error}: {page}");
        }
    }

    #[test]
    fn pages_of_errors_carry_the_security_headers() {
        let choices = AccountChoices::PbxByLink { among: Vec::new(), options: LinkOptions::default() };
        for error in [Error::Forbidden, Error::Unauthenticated { login: None }, Error::Choose(choices)] {
            let response = render(&error, &person());
            for name in ["content-security-policy", "referrer-policy", "x-content-type-options", "cache-control"] {
                assert!(response.headers().contains_key(name), "{error}: {name}");
            }
        }
    }
}
