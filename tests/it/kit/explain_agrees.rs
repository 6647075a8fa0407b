//! `callgate explain` and the login take the same decision: every login that a test sends by itself is explained first, by
//! the running gate, and the explanation is compared with the answer and the audit line.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::kit::client::{Answer, RequestBuilder};
use crate::kit::gate::{Gate, tell};

/// The logins that a test has sent to one gate. Of logins at the same time, an explanation cannot know which comes first.
#[derive(Default)]
pub struct Logins {
    begun: AtomicUsize,
    ended: AtomicUsize,
    are_silent: AtomicBool,
}

/// An explanation that waits for the answer.
pub struct Explained {
    /// What the gate was asked.
    question: Value,
    explanation: Value,
    /// The number of the login among those of its gate.
    nth: usize,
}

impl Logins {
    /// Explains no login from now on. For tests that count what the app is asked, or answers of the app that are kept.
    pub fn are_not_explained(&self) {
        self.are_silent.store(true, Ordering::SeqCst);
    }
}

/// Explains a request, if it is a login.
pub async fn explain(gate: &Gate, asking: &RequestBuilder<'_>) -> Option<Explained> {
    let question = question(asking)?;
    let logins = &gate.logins;
    let nth = logins.begun.fetch_add(1, Ordering::SeqCst) + 1;
    if logins.are_silent.load(Ordering::SeqCst) || logins.ended.load(Ordering::SeqCst) + 1 != nth {
        return None;
    }
    let body = question.to_string();
    let order = format!(
        "POST /explain HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let admin = gate.admin().clone();
    let answer = tokio::task::spawn_blocking(move || tell(&admin, &order)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    // A request that no question can be like, or an app that does not answer in time.
    let explanation = head.starts_with("HTTP/1.1 200 ").then(|| serde_json::from_str(body).unwrap())?;
    Some(Explained { question, explanation, nth })
}

/// Compares an explanation with the answer that followed.
pub fn compare(gate: &Gate, asking_is_login: bool, explained: Option<Explained>, answer: &Answer) {
    if asking_is_login {
        gate.logins.ended.fetch_add(1, Ordering::SeqCst);
    }
    let Some(Explained { question, explanation, nth }) = explained else { return };
    if gate.logins.begun.load(Ordering::SeqCst) != nth {
        return;
    }
    if let Err(problem) = check(gate, &question, &explanation, answer) {
        let (status, body) = (answer.status, String::from_utf8_lossy(&answer.body));
        let id = answer.header("x-request-id");
        let lines: Vec<_> = gate.log().lines().filter(|line| line.contains(id)).map(str::to_owned).collect();
        panic!(
            "{problem}\nquestion: {question}\nexplanation: {explanation:#}\nanswer: {status} {body}\nlog: {lines:#?}"
        );
    }
}

/// Tells whether a request is a login that can be explained.
pub fn is_login(asking: &RequestBuilder<'_>) -> bool {
    question(asking).is_some()
}

fn check(gate: &Gate, question: &Value, explanation: &Value, answer: &Answer) -> Result<(), &'static str> {
    let status = answer.status.as_u16();
    if answer_is_about_the_body(question, status) {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&answer.body);
    if status == 200 && text.contains("again=1") {
        return Ok(());
    }
    if status == 200 && text.contains("/auth/callgate/confirm?") {
        return if explanation["asks_first"] == true { Ok(()) } else { Err("a page with a button came first") };
    }
    let is_limited = explanation["notes"].as_array().unwrap().iter().any(|note| note.to_string().contains("the limit"));
    if is_limited && status == 429 {
        return Ok(());
    }
    let (granted, refused) = (&explanation["outcome"]["granted"], &explanation["outcome"]["refused"]);
    if refused.is_object() {
        let told = refused["answer"]["status"].as_u64();
        let is_led_to_login = told == Some(401) && status == 302;
        let location = answer.header("location");
        let is_turned_back = matches!(told, Some(401 | 403)) && status == 303 && location.ends_with("callgate=off");
        let is_same = told == Some(status.into()) || is_led_to_login || is_turned_back;
        return if is_same { Ok(()) } else { Err("the login is answered otherwise than refused") };
    }
    if matches!(status, 101 | 200 | 303) {
        let account = granted["pbx"]["account"].as_str().or_else(|| granted["voximplant"]["user"].as_str()).unwrap();
        let rule = granted["pbx"]["rule"].as_str().or_else(|| granted["voximplant"]["rule"].as_str()).unwrap();
        let (log, id) = (gate.log() + &gate.audit(), answer.header("x-request-id"));
        let is_kind = |line: &str| line.contains("audit grant") || line.contains("audit ticket");
        let is_grant = |line: &&str| is_kind(line) && line.contains(id);
        let Some(line) = log.lines().find(is_grant) else { return Err("the audit log has no grant") };
        let is_same = line.contains(account) && line.contains(rule);
        return if is_same { Ok(()) } else { Err("another account is granted, or by another rule") };
    }
    // What an explanation does not ask: the number of keys, the PBX, the files of state and audit log.
    let is_key = question["act"] == "ott" && status == 429;
    let asked_pbx = status >= 500 || status == 403 && gate.log().contains("the PBX knows no such account");
    if is_key || asked_pbx { Ok(()) } else { Err("a granted login is refused") }
}

/// Tells whether an answer may be about the body of the request, which an explanation does not read.
fn answer_is_about_the_body(question: &Value, status: u16) -> bool {
    let has_body = question["act"] == "ott" || question["headers"].to_string().contains("content-type");
    has_body && matches!(status, 400 | 408 | 413 | 415)
}

/// Writes a request as a question; `None` where no question is like it.
fn question(asking: &RequestBuilder<'_>) -> Option<Value> {
    let (path, query) = asking.path.split_once('?').map_or((&*asking.path, None), |(path, query)| (path, Some(query)));
    let mut headers = Vec::new();
    for (name, value) in &asking.headers {
        headers.push(json!([name.as_str(), value.to_str().ok()?]));
    }
    let (act, user, query) = match (asking.method.as_str(), path) {
        ("GET", "/auth/pbx") => ("pbx", None, query.map(str::to_owned)),
        ("GET", "/auth/pbx/socket") if is_own_socket(asking) => ("pbx", None, query.map(str::to_owned)),
        ("POST", "/auth/pbx") if query.is_none() && is_of_a_program(asking) => ("pbx", None, Some(selectors(asking))),
        ("POST", "/auth/ott") => ("ott", parameter(asking, "appUser"), query.map(str::to_owned)),
        _ => return None,
    };
    let path = if act == "ott" { "/auth/ott" } else { "/auth/pbx" };
    Some(json!({
        "act": act,
        "host": asking.host,
        "from": asking.from,
        "headers": headers,
        "target": query.map(|query| format!("{path}?{query}")),
        "certificate": null,
        "user": user,
    }))
}

/// Tells whether a page of the same origin opens a WebSocket, whose login is decided as that of a link.
fn is_own_socket(asking: &RequestBuilder<'_>) -> bool {
    let is_own = asking.headers.get("origin").is_some_and(|origin| *origin == *format!("https://{}", asking.host));
    let is_only = asking.headers.get_all("origin").iter().count() == 1;
    // A link is no credential there.
    is_own && is_only && asking.headers.contains_key("sec-websocket-key") && !asking.path.contains("sig=")
}

/// Tells whether a program asks with a credential of its own: its request is judged as a link with the same selectors.
fn is_of_a_program(asking: &RequestBuilder<'_>) -> bool {
    let has = |name: &str| asking.headers.contains_key(name);
    has("authorization") && !has("origin") && !has("sec-fetch-site") && !has("sec-fetch-mode")
}

/// Writes the selectors of a body as a query.
fn selectors(asking: &RequestBuilder<'_>) -> String {
    let names = ["account", "domain", "lang", "next"];
    let pairs = names.into_iter().filter_map(|name| Some((name, parameter(asking, name)?)));
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// Finds a parameter in a form or in JSON.
fn parameter(asking: &RequestBuilder<'_>, name: &str) -> Option<String> {
    if let Ok(object) = serde_json::from_slice::<Value>(&asking.body) {
        return object[name].as_str().map(str::to_owned);
    }
    let mut pairs = form_urlencoded::parse(&asking.body);
    pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}
