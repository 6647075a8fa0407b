//! Paths that show a test what arrived, or answer in the way it asks for.

use std::time::Duration;

use aws_lc_rs::digest;
use bytes::Bytes;
use callgate::demo::app::with_grant;
use callgate::demo::server::{self, DemoBody};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;

use crate::kit::scripted_body::{Step, chunked, scripted};

/// The pause between two events of `/sse`.
const BEAT: Duration = Duration::from_millis(100);

/// Answers a path of these, or returns nothing.
pub async fn face(head: &Parts, body: &[u8]) -> Option<Response<DemoBody>> {
    Some(match head.uri.path() {
        "/echo" => echo(head, body),
        "/slow" => slow(head).await,
        "/redirect" => server::redirect(StatusCode::FOUND, &server::query(head, "to").unwrap_or_default()),
        "/grant" => grant(head),
        "/app-logout" => app_logout(head),
        "/sse" => events(),
        "/big" => server::reply(StatusCode::OK, "application/octet-stream", "").map(|_| big(head)),
        path => return status(path),
    })
}

/// Shows a request: every header in order of arrival (equal names together), and what its body was.
fn echo(head: &Parts, body: &[u8]) -> Response<DemoBody> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers: Vec<_> = head.headers.iter().map(|(name, value)| [name.to_string(), text(value)]).collect();
    let seen = json!({
        "method": head.method.as_str(),
        "target": head.uri.to_string(),
        "headers": headers,
        "length": body.len(),
        "sha256": hex::encode(digest::digest(&digest::SHA256, body)),
    });
    server::json(StatusCode::OK, &seen)
}

async fn slow(head: &Parts) -> Response<DemoBody> {
    tokio::time::sleep(Duration::from_millis(number(head, "ms"))).await;
    server::text(StatusCode::OK, "slow")
}

fn grant(head: &Parts) -> Response<DemoBody> {
    let field = |name| server::query(head, name);
    let (to, account, domain, lang) = (field("to"), field("account"), field("domain"), field("lang"));
    let response = server::redirect(StatusCode::FOUND, &to.unwrap_or_default());
    let named = [("account", account.as_deref()), ("domain", domain.as_deref()), ("lang", lang.as_deref())];
    with_grant(response, named)
}

/// Says `PBX-Logout` once for each `say` of the query, in an answer as the query wants it.
fn app_logout(head: &Parts) -> Response<DemoBody> {
    let status = server::query(head, "status").and_then(|status| status.parse().ok()).unwrap_or(StatusCode::OK);
    let mut response = grant(head);
    *response.status_mut() = status;
    if server::query(head, "sets").is_some() {
        response.headers_mut().append("set-cookie", HeaderValue::from_static("sid=c0ffee00c0ffee01; Path=/"));
    }
    for (_, said) in
        form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes()).filter(|(name, _)| name == "say")
    {
        response.headers_mut().append("pbx-logout", said.parse().unwrap());
    }
    response
}

/// Sends five events: one at once, the others a beat apart.
fn events() -> Response<DemoBody> {
    let event = |number| Step::Send(Bytes::from(format!("data: {number}\n\n")));
    let steps = std::iter::once(event(1)).chain((2..=5).flat_map(|number| [Step::Wait(BEAT), event(number)]));
    server::reply(StatusCode::OK, "text/event-stream", "").map(|_| chunked(steps))
}

fn big(head: &Parts) -> DemoBody {
    scripted([Step::Fill(number(head, "bytes"))])
}

/// Answers `/status/NNN`.
fn status(path: &str) -> Option<Response<DemoBody>> {
    let code = path.strip_prefix("/status/")?.parse::<StatusCode>().ok()?;
    (!code.is_informational()).then(|| server::text(code, ""))
}

/// Counts a body of any size while it arrives.
pub async fn upload(request: Request<Incoming>) -> Response<DemoBody> {
    let (mut body, mut count) = (request.into_body(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return server::text(StatusCode::BAD_REQUEST, "the body broke off") };
        count += frame.data_ref().map_or(0, Bytes::len);
    }
    server::json(StatusCode::OK, &json!({ "received": count }))
}

fn number(head: &Parts, name: &str) -> u64 {
    server::query(head, name).and_then(|text| text.parse().ok()).unwrap_or(0)
}
