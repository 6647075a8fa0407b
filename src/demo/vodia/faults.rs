//! What goes wrong at this PBX, switch by switch.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use super::pages;
use crate::demo::body::{Body, Step};
use crate::demo::server::{self, Answer};

/// A pause that outlives every test.
const FOR_EVER: Duration = Duration::from_secs(86_400);
/// The size of an answer that is far too large for a session, in bytes.
const HUGE: u64 = 2 * 1024 * 1024;

/// Every switch. The default is a PBX in good health.
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
    /// How a refused login looks.
    pub fail_form: FailForm,
    /// How a minted session looks.
    pub body_form: BodyForm,
    /// How long a session lives; 3600 s by default.
    pub session_ttl: Duration,
    /// How long a minted token can be exchanged (dialects B and C); 10 s by default.
    pub token_ttl: Duration,
    /// How long an exchange is held back before the token is looked at.
    pub exchange_delay: Duration,
    /// New connections are closed before a byte is read, kept ones at their next request.
    pub refuse_connections: bool,
    /// A source is shut out below HTTP after so many failed logins in a row; 5 by default.
    pub block_after: Option<u32>,
    /// The administrator's password is wrong after so many further mints, as if it had been rotated.
    pub refuse_after: Option<u64>,
    /// What becomes of a connection after its answer.
    pub ending: Ending,
    /// Every cookie is set by two equal lines.
    pub duplicate_cookie: bool,
    /// Answers carry `Server`.
    pub server_header: bool,
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
            session_ttl: Duration::from_secs(3600),
            token_ttl: Duration::from_secs(10),
            exchange_delay: Duration::ZERO,
            refuse_connections: false,
            block_after: Some(5),
            refuse_after: None,
            ending: Ending::KeepAlive,
            duplicate_cookie: false,
            server_header: true,
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
    /// Everything but mint and exchange.
    Other,
    /// Everything.
    All,
}

impl Scope {
    /// Tells whether a request of kind `request` is meant.
    pub(super) fn strikes(self, request: Self) -> bool {
        self == Self::All || self == request
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

/// How a refused login looks. All but the last are `200`.
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

/// What becomes of a connection after its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It stays open.
    KeepAlive,
    /// It is closed, as announced by `Connection: close`.
    Close,
    /// It is closed without a word: the next request races the end.
    SilentClose,
}

impl Faults {
    /// Returns the answer that is given whatever was asked, if there is one.
    pub(super) fn instead(&self, scope: Scope) -> Option<Answer> {
        if !self.scope.strikes(scope) {
            return None;
        }
        match &self.wrong {
            Wrong::Status(status) => Some(pages::error(*status, "out of order").into()),
            Wrong::Html => Some(server::html(StatusCode::OK, pages::login("", "en")).into()),
            Wrong::Huge => Some(huge().into()),
            Wrong::Raw(bytes) => Some(Answer::Raw(bytes.to_vec())),
            Wrong::Nothing
            | Wrong::Hang
            | Wrong::Drop
            | Wrong::Truncated
            | Wrong::LengthTooLong(_)
            | Wrong::LengthTooShort(_) => None,
        }
    }

    /// Spoils a true answer.
    pub(super) async fn spoil(&self, scope: Scope, response: Response<Body>) -> Answer {
        if !self.scope.strikes(scope) {
            return self.end(response);
        }
        tokio::time::sleep(self.head_delay).await;
        match &self.wrong {
            Wrong::Hang => std::future::pending().await,
            Wrong::Drop => Answer::Drop,
            Wrong::Truncated => truncated(response).into(),
            Wrong::LengthTooLong(bytes) => Answer::Raw(server::raw(&response, |length| length + bytes)),
            Wrong::LengthTooShort(bytes) => Answer::Raw(server::raw(&response, |length| length.saturating_sub(*bytes))),
            Wrong::Nothing | Wrong::Status(_) | Wrong::Html | Wrong::Huge | Wrong::Raw(_) => {
                self.end(slow(response, self.body_delay))
            }
        }
    }

    fn end(&self, mut response: Response<Body>) -> Answer {
        match self.ending {
            Ending::KeepAlive => response.into(),
            Ending::Close => {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                response.into()
            }
            Ending::SilentClose => Answer::Raw(server::raw(&response, |length| length)),
        }
    }

    /// Returns the answer to a failed login.
    pub(super) fn refusal(&self) -> Response<Body> {
        match self.fail_form {
            FailForm::False => server::reply(StatusCode::OK, "application/json", "false"),
            FailForm::EmptyString => server::reply(StatusCode::OK, "application/json", "\"\""),
            FailForm::Status401 => pages::error(StatusCode::UNAUTHORIZED, "unauthorized"),
        }
    }

    /// Returns the answer to a mint.
    pub(super) fn minted(&self, value: &str) -> Response<Body> {
        let body = match self.body_form {
            BodyForm::Quoted => format!("\"{value}\""),
            BodyForm::Bare => value.to_owned(),
            BodyForm::Object => format!("{{\"session\":\"{value}\"}}"),
        };
        server::reply(StatusCode::OK, "application/json", body)
    }
}

fn huge() -> Response<Body> {
    server::reply(StatusCode::OK, "application/json", Body::scripted([Step::Fill(HUGE)]))
}

fn truncated(response: Response<Body>) -> Response<Body> {
    response.map(|body| {
        let (first, second) = halves(&body);
        Body::scripted([Step::Send(first), Step::Break(second.len() as u64)])
    })
}

fn slow(response: Response<Body>, delay: Duration) -> Response<Body> {
    if delay.is_zero() {
        return response;
    }
    response.map(|body| {
        let (first, second) = halves(&body);
        Body::scripted([Step::Send(first), Step::Wait(delay.min(FOR_EVER)), Step::Send(second)])
    })
}

fn halves(body: &Body) -> (Bytes, Bytes) {
    let mut first = Bytes::from(body.bytes());
    let second = first.split_off(first.len().div_ceil(2));
    (first, second)
}
