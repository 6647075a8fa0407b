//! The handful of answers of our own.

use std::sync::LazyLock;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use serde_json::json;

use crate::exchange::Body;
use crate::message::forwarded::X_REQUEST_ID;
use crate::observe::RequestId;

const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
/// Pages of ours load nothing; their one style is written inside.
const POLICY: HeaderValue =
    HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'");
const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;color:#1f2933;background:#f5f7fa;margin:0;display:grid;place-items:center;\
min-height:100vh}main{background:#fff;border-radius:12px;box-shadow:0 1px 4px #0002;padding:2rem 2.5rem;max-width:28rem}\
h1{font-size:1.25rem;margin:0 0 .5rem}p:last-child{margin:0}button{font:inherit;padding:.5rem 1.25rem;border:0;border-radius:8px;background:#2f5bea;color:#fff}a{color:#2f5bea}small{color:#52606d}";

/// The one script of ours. A fragment is put behind the address only if it is one.
const SCRIPT: &str = "let a=document.querySelector(\"a\"),d=a.dataset,s,f=\"\";\
try{s=sessionStorage;if(d.keep){s.setItem(d.keep,location.hash)}else{f=s.getItem(d.restore)||\"\";s.removeItem(d.restore)}}catch{}\
location.replace(a.href+(f[0]===\"#\"?f:\"\"))";

/// As [`POLICY`], and that script may run.
static SCRIPT_POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = BASE64_STANDARD.encode(digest(&SHA256, SCRIPT.as_bytes()));
    let policy = format!("{}; script-src 'sha256-{hash}'", POLICY.to_str().unwrap_or("default-src 'none'"));
    HeaderValue::try_from(policy).unwrap_or(POLICY)
});

/// How an answer of ours has to speak to this caller.
#[derive(Debug, Clone, Copy)]
pub(super) struct Audience {
    /// A person waits for a page.
    pub(super) navigation: bool,
    /// A page is wanted rather than JSON.
    pub(super) html: bool,
    /// The name of the exchange.
    pub(super) id: RequestId,
}

impl Audience {
    /// Reads what the caller wants: `Sec-Fetch-Mode` says it, `Accept` lets it be guessed.
    #[must_use]
    pub(super) fn of(headers: &HeaderMap, id: RequestId) -> Self {
        let html = accepts(headers, b"text/html");
        let mode = headers.get(SEC_FETCH_MODE).map(HeaderValue::as_bytes);
        Self { navigation: mode.map_or(html, |mode| mode == b"navigate"), html, id }
    }

    /// Says the same to a program, whatever its browser says that it wants.
    #[must_use]
    pub(super) const fn to_a_program(self) -> Self {
        Self { navigation: false, html: false, id: self.id }
    }
}

/// Tells whether `Accept` names a media type.
#[must_use]
pub(super) fn accepts(headers: &HeaderMap, media: &[u8]) -> bool {
    let ranges =
        headers.get_all(header::ACCEPT).into_iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let mut types = ranges.map(|range| range.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii());
    types.any(|named| named.eq_ignore_ascii_case(media))
}

/// Answers with a status and a body of a type.
#[must_use]
pub(super) fn answer(status: StatusCode, content_type: HeaderValue, body: String) -> Response<Body> {
    let mut response = empty(status);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    *response.body_mut() = Body::own(body);
    response
}

/// Answers with a status alone. Whatever is ours is not to be stored, and is what it says it is.
#[must_use]
pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::own(""));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Answers with JSON.
#[must_use]
pub(super) fn json(value: &serde_json::Value) -> Response<Body> {
    json_with(StatusCode::OK, value)
}

/// Answers with a status and JSON.
#[must_use]
pub(super) fn json_with(status: StatusCode, value: &serde_json::Value) -> Response<Body> {
    answer(status, JSON, value.to_string())
}

/// Answers with a page that loads nothing, and of which no other site learns.
#[must_use]
pub(super) fn html(status: StatusCode, title: &str, main: &str) -> Response<Body> {
    let mut response = answer(status, HTML, page(title, "", main));
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, POLICY);
    response.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// Sends the browser elsewhere, without telling that place where it came from.
#[must_use]
pub(super) fn redirect(status: StatusCode, location: &str) -> Response<Body> {
    let Ok(location) = HeaderValue::try_from(location) else { return empty(StatusCode::BAD_GATEWAY) };
    let mut response = empty(status);
    response.headers_mut().insert(header::LOCATION, location);
    response.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// Lets the browser go on to a path of this site, as a step of its own: a cookie that is `SameSite=Strict` is sent on it.
/// A redirect would be a step of the chain that another site may have begun. The step leaves no entry in the history.
#[must_use]
pub(super) fn step(path: &str) -> Response<Body> {
    let path = escape(path);
    let refresh = format!("<meta http-equiv=\"refresh\" content=\"0; url={path}\">");
    let body = page("One moment", &refresh, &format!("<h1>One moment …</h1><p><a href=\"{path}\">Continue</a></p>"));
    let mut response = answer(StatusCode::OK, HTML, body);
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, POLICY);
    response.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// Asks a person to press a button, which leads to a path of this site. Of a page without a referrer, its form would not
/// tell its origin either, so this site alone is told.
#[must_use]
pub(super) fn button(path: &str) -> Response<Body> {
    let form = format!(
        "<h1>Open the telephone</h1><p>Somebody sent you a link that logs you in, once.</p>\
         <form method=\"post\" action=\"{}\"><button autofocus>Continue</button></form>",
        escape(path)
    );
    let mut response = answer(StatusCode::OK, HTML, page("Open the telephone", "", &form));
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, POLICY);
    response.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    response
}

/// Says why there is no other answer: to a person on a page, to a program in JSON.
#[must_use]
pub(super) fn problem(
    status: StatusCode,
    code: &str,
    message: &str,
    login: Option<&str>,
    audience: &Audience,
) -> Response<Body> {
    if !audience.html {
        let mut problem = json!({ "error": code, "message": message, "request_id": audience.id.as_str() });
        if let Some(login) = login {
            problem["login"] = login.into();
        }
        return answer(status, JSON, problem.to_string());
    }
    let title = escape(&capital(message));
    let main = format!(
        "<h1>{title}</h1>{}<p>{}If this goes on, tell whoever runs this site the number below.</p><small>{status}<br>{}</small>",
        login.map_or_else(String::new, |login| format!("<p><a href=\"{}\">Log in</a></p>", escape(login))),
        advice(status),
        audience.id
    );
    let mut response = answer(status, HTML, page(&title, "", &main));
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, POLICY);
    response
}

/// Shows a page of ours: `title` is text, `main` is written by us.
#[must_use]
pub(super) fn show(title: &str, main: &str) -> Response<Body> {
    let title = escape(title);
    let mut response = answer(StatusCode::OK, HTML, page(&title, "", &format!("<h1>{title}</h1>{main}")));
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, POLICY);
    // A form of ours tells our own pages, and nobody else, where it was sent from.
    response.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    response
}

/// What becomes of the fragment of an address while a person is elsewhere: no server ever sees it, so only the window
/// itself can keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fragment {
    /// It is kept in the window.
    Keep,
    /// What is kept is put behind the address.
    Restore,
}

/// Lets the browser go on to an address, and keeps or restores the fragment under the name of a login. Without scripts
/// it goes on all the same.
#[must_use]
pub(super) fn pass(address: &str, fragment: Fragment, login: &str) -> Response<Body> {
    let address = escape(address);
    let (way, login) = (if fragment == Fragment::Keep { "keep" } else { "restore" }, escape(login));
    let refresh = format!("<noscript><meta http-equiv=\"refresh\" content=\"0; url={address}\"></noscript>");
    let main = format!(
        "<h1>One moment …</h1><p><a href=\"{address}\" data-{way}=\"callgate {login}\">Continue</a></p><script>{SCRIPT}</script>"
    );
    let mut response = answer(StatusCode::OK, HTML, page("One moment", &refresh, &main));
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, SCRIPT_POLICY.clone());
    response.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// Says what a person can do now, if there is something.
fn advice(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "Log in on this site, then follow the link again. ",
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => "Try again in a while. ",
        _ if status.is_server_error() => "Try again in a moment. ",
        _ => "",
    }
}

/// Names the exchange on an answer.
pub(super) fn name(response: &mut Response<Body>, id: RequestId) {
    response.headers_mut().insert(X_REQUEST_ID, id.header_value());
}

/// Says when to come again (RFC 9110 §10.2.3).
#[must_use]
pub(super) fn retry_after(wait: Duration) -> (HeaderName, HeaderValue) {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    (header::RETRY_AFTER, HeaderValue::from(seconds.max(1)))
}

fn page(title: &str, head: &str, main: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">{head}\
         <title>{title}</title><style>{STYLE}</style></head><body><main>{main}</main></body></html>"
    )
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Writes a text so that it is nothing but text in a page.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_page_says_what_a_person_can_do() {
        let audience = Audience { navigation: true, html: true, id: RequestId::next() };
        for (status, expected) in [
            (StatusCode::UNAUTHORIZED, "<p>Log in on this site, then follow the link again. If"),
            (StatusCode::FORBIDDEN, "<p>If this goes on"),
            (StatusCode::TOO_MANY_REQUESTS, "<p>Try again in a while. If"),
            (StatusCode::BAD_GATEWAY, "<p>Try again in a moment. If"),
        ] {
            let page =
                problem(status, "code", "message", None, &audience).into_body().collect().await.unwrap().to_bytes();
            let page = String::from_utf8_lossy(&page);
            assert!(page.contains(expected), "{status}: {page}");
        }
    }
}
