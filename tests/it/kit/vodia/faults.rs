//! The faults of the PBX stand-in, switch by switch.

use std::time::Duration;

use bytes::Bytes;
use callgate::demo::server::{self, DemoBody, Reply};
use callgate::demo::vodia::{PbxRequest, SESSION_PATH};
use http::{Response, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::kit::scripted_body::{Step, scripted};

/// A pause that outlives every test.
const FOR_EVER: Duration = Duration::from_secs(86_400);
/// The size of an answer that is far too large for a session, in bytes.
const HUGE: u64 = 2 * 1024 * 1024;

/// All switches. By default the PBX is healthy.
#[derive(Debug, Clone)]
pub struct Faults {
    /// Which requests `wrong`, `head_delay` and `body_delay` strike.
    pub scope: Scope,
    /// What is answered instead of the truth.
    pub wrong: Wrong,
    /// How long the head of the answer is held back.
    pub head_delay: Duration,
    /// How long the second half of the body is held back.
    pub body_delay: Duration,
    /// How a refused mint looks.
    pub fail_form: FailForm,
    /// How a minted session looks.
    pub body_form: BodyForm,
    /// Tokens are refused as expired (dialects B and C).
    pub tokens_expire: bool,
    /// New connections are closed before a byte is read, open ones at their next request.
    pub refuse_connections: bool,
    /// The administrator's password is wrong after this many further mints, as after a change.
    pub refuse_after: Option<u64>,
    /// Every cookie is set by two equal lines.
    pub duplicate_cookie: bool,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            scope: Scope::Mint,
            wrong: Wrong::Nothing,
            head_delay: Duration::ZERO,
            body_delay: Duration::ZERO,
            fail_form: FailForm::False,
            body_form: BodyForm::Quoted,
            tokens_expire: false,
            refuse_connections: false,
            refuse_after: None,
            duplicate_cookie: false,
        }
    }
}

/// Which requests a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// `{name:"3rd"}` only.
    Mint,
    /// `{name:"session"}` only.
    Exchange,
    /// The question for the state of a session.
    Describe,
    /// The handshake of a WebSocket.
    Socket,
    /// Everything else.
    Other,
    /// Everything.
    All,
}

impl Scope {
    /// Returns the kind of a request, which is not `All`.
    pub fn of(request: &PbxRequest) -> Self {
        let written = request.path() == SESSION_PATH && matches!(request.head.method.as_str(), "POST" | "PUT");
        match request.text("name") {
            Some("3rd") if written => Self::Mint,
            Some("session") if written => Self::Exchange,
            _ if request.path() == SESSION_PATH && request.head.method == "GET" => Self::Describe,
            _ if request.path() == "/websocket" => Self::Socket,
            _ => Self::Other,
        }
    }

    /// Tells whether faults strike a request of this kind.
    pub fn strikes(self, request: Self) -> bool {
        self == Self::All || self == request || (self == Self::Other && request == Self::Describe)
    }
}

/// What is answered instead of the truth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// The truth.
    Nothing,
    /// This status with a JSON error; the request has no effect.
    Status(StatusCode),
    /// 200 with the login page; the request has no effect.
    Html,
    /// 200 with a body of 2 MiB; the request has no effect.
    Huge,
    /// Exactly these bytes, then the end of the connection; the request has no effect.
    Raw(Bytes),
    /// No answer at all; the request has its effect.
    Hang,
    /// The end of the connection without an answer; the request has its effect.
    Drop,
    /// Half of the body, then the end of the connection.
    Truncated,
    /// A `Content-Length` larger than the body by this many bytes, then the end of the connection.
    LengthTooLong(usize),
    /// A `Content-Length` smaller than the body by this many bytes.
    LengthTooShort(usize),
}

/// How a refused mint looks. All but the last have status 200.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailForm {
    /// `false`.
    False,
    /// `""`.
    EmptyString,
    /// `401` with a JSON error.
    Status401,
}

/// How a minted session looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyForm {
    /// `"g7ls…"`.
    Quoted,
    /// `g7ls…`.
    Bare,
    /// `{"session":"g7ls…"}`.
    Object,
}

impl Faults {
    /// Returns the answer that replaces the PBX's own, whatever was asked.
    pub fn instead(&self, scope: Scope) -> Option<Reply> {
        if !self.scope.strikes(scope) {
            return None;
        }
        match &self.wrong {
            Wrong::Status(status) => Some(error(*status, "out of order").into()),
            Wrong::Html => Some(server::html(StatusCode::OK, LOGIN_PAGE.to_owned()).into()),
            Wrong::Huge => Some(huge().into()),
            Wrong::Raw(bytes) => Some(raw_bytes(bytes.to_vec())),
            Wrong::Nothing
            | Wrong::Hang
            | Wrong::Drop
            | Wrong::Truncated
            | Wrong::LengthTooLong(_)
            | Wrong::LengthTooShort(_) => None,
        }
    }

    /// Gives the answer to a mint the form that was set. Returns it with the value that was minted.
    pub async fn form(&self, response: Response<DemoBody>) -> (Response<DemoBody>, Option<String>) {
        let (head, body) = read(response).await;
        let is_ok = head.status == StatusCode::OK;
        if is_ok && body == "false" {
            return (self.refusal(Response::from_parts(head, server::full(body))), None);
        }
        let minted = serde_json::from_slice::<String>(&body).ok().filter(|_| is_ok);
        let text = minted.as_ref().map(|value| match self.body_form {
            BodyForm::Quoted => format!("\"{value}\""),
            BodyForm::Bare => value.clone(),
            BodyForm::Object => format!("{{\"session\":\"{value}\"}}"),
        });
        (Response::from_parts(head, server::full(text.map_or(body, Bytes::from))), minted)
    }

    /// Holds back the bytes of a WebSocket, or ends it before its first.
    pub async fn spoil_socket(&self, scope: Scope, socket: Reply) -> Reply {
        if !self.scope.strikes(scope) {
            return socket;
        }
        tokio::time::sleep(self.head_delay).await;
        match &self.wrong {
            Wrong::Hang => std::future::pending().await,
            Wrong::Drop => Reply::hang_up(),
            _ => socket,
        }
    }

    fn refusal(&self, refusal: Response<DemoBody>) -> Response<DemoBody> {
        match self.fail_form {
            FailForm::False => refusal,
            FailForm::EmptyString => refusal.map(|_| server::full("\"\"")),
            FailForm::Status401 => error(StatusCode::UNAUTHORIZED, "unauthorized"),
        }
    }

    /// Spoils an answer of the PBX.
    pub async fn spoil(&self, scope: Scope, mut response: Response<DemoBody>) -> Reply {
        if let (true, Some(cookie)) = (self.duplicate_cookie, response.headers().get(header::SET_COOKIE).cloned()) {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
        if !self.scope.strikes(scope) {
            return response.into();
        }
        tokio::time::sleep(self.head_delay).await;
        match &self.wrong {
            Wrong::Hang => std::future::pending().await,
            Wrong::Drop => Reply::hang_up(),
            Wrong::Truncated => truncated(response).await.into(),
            Wrong::LengthTooLong(bytes) => raw(response, |length| length + bytes).await,
            Wrong::LengthTooShort(bytes) => raw(response, |length| length.saturating_sub(*bytes)).await,
            Wrong::Nothing | Wrong::Status(_) | Wrong::Html | Wrong::Huge | Wrong::Raw(_) => {
                slow(response, self.body_delay).await.into()
            }
        }
    }
}

/// The mark by which tests know the login page of the PBX.
const LOGIN_PAGE: &str = "<!doctype html><title>Log in</title><body data-page=\"login\" data-user=\"\">";

/// Makes a JSON error of the REST interface.
fn error(status: StatusCode, message: &str) -> Response<DemoBody> {
    server::json(status, &json!({ "error": message, "code": status.as_u16() }))
}

fn huge() -> Response<DemoBody> {
    server::reply(StatusCode::OK, "application/json", "").map(|_| scripted([Step::Fill(HUGE)]))
}

async fn truncated(response: Response<DemoBody>) -> Response<DemoBody> {
    let (head, first, second) = halves(response).await;
    Response::from_parts(head, scripted([Step::Send(first), Step::Break(second.len() as u64)]))
}

async fn slow(response: Response<DemoBody>, delay: Duration) -> Response<DemoBody> {
    if delay.is_zero() {
        return response;
    }
    let (head, first, second) = halves(response).await;
    Response::from_parts(head, scripted([Step::Send(first), Step::Wait(delay.min(FOR_EVER)), Step::Send(second)]))
}

async fn halves(response: Response<DemoBody>) -> (http::response::Parts, Bytes, Bytes) {
    let (head, mut first) = read(response).await;
    let second = first.split_off(first.len().div_ceil(2));
    (head, first, second)
}

async fn read(response: Response<DemoBody>) -> (http::response::Parts, Bytes) {
    let (head, body) = response.into_parts();
    (head, body.collect().await.unwrap().to_bytes())
}

/// Writes a response with another length than its body has, and ends the connection.
async fn raw(response: Response<DemoBody>, announced: impl FnOnce(usize) -> usize) -> Reply {
    let (head, body) = read(response).await;
    let mut bytes = format!("HTTP/1.1 {}\r\n", head.status).into_bytes();
    for (name, value) in &head.headers {
        bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    bytes.extend(format!("content-length: {}\r\n\r\n", announced(body.len())).into_bytes());
    bytes.extend(body);
    raw_bytes(bytes)
}

/// Sends exactly these bytes, and ends the connection.
fn raw_bytes(bytes: Vec<u8>) -> Reply {
    Reply::TakeOver(Box::new(move |mut socket, _| {
        Box::pin(async move {
            // A client that has closed already is no error.
            drop(socket.write_all(&bytes).await);
            drop(socket.shutdown().await);
        })
    }))
}
