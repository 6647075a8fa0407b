//! What the operator orders: a small JSON object, posted by a program of this machine and not by a page.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use crate::server::client_io::Stream;

/// The most bytes of an order: a head of a request with a certificate fits.
const MAX_BODY: usize = 64 << 10;

/// Why an order is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// Another user of this machine.
    #[error("only root and the user that callgate runs as may order this")]
    Stranger,
    /// A page in a browser.
    #[error("a page of a browser may not order this")]
    Page,
    /// Something else than JSON, which a page can send without being asked (Fetch standard, "CORS-safelisted").
    #[error("send application/json")]
    MediaType,
    /// Too large.
    #[error("the order is larger than 64 KiB")]
    TooLarge,
    /// Not all of it came.
    #[error("the order broke off")]
    Broken,
    /// Not what is read here. What it says is not repeated: it may be secret.
    #[error("the order is not understood: line {line}, column {column}")]
    Nonsense {
        /// The line.
        line: usize,
        /// The column.
        column: usize,
    },
}

impl Refusal {
    /// Returns the status, and its name for programs.
    pub(super) const fn status(self) -> (StatusCode, &'static str) {
        match self {
            Self::Stranger => (StatusCode::FORBIDDEN, "stranger"),
            Self::Page => (StatusCode::FORBIDDEN, "page"),
            Self::MediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "content_too_large"),
            Self::Broken | Self::Nonsense { .. } => (StatusCode::BAD_REQUEST, "malformed"),
        }
    }
}

/// Tells whether the other end may order anything: over a unix socket root and whoever we run as, although its group may
/// look; over TCP nobody can tell who is there, and the operator chose that.
pub(super) fn is_operator(stream: &Stream) -> bool {
    match stream {
        Stream::Tcp(_) => true,
        Stream::Unix(stream) => stream.peer_cred().is_ok_and(|peer| {
            let own = rustix::process::geteuid().as_raw();
            peer.uid() == own || peer.uid() == 0
        }),
    }
}

/// Names the other end for the audit log.
pub(super) fn name(stream: &Stream) -> String {
    match stream {
        Stream::Tcp(_) => "this machine".to_owned(),
        Stream::Unix(stream) => {
            stream.peer_cred().map_or_else(|_| "?".to_owned(), |peer| format!("uid {}", peer.uid()))
        }
    }
}

/// Reads an order, and refuses those that the operator did not send.
pub(super) async fn read<T: DeserializeOwned>(request: Request<Incoming>, may_order: bool) -> Result<T, Refusal> {
    if !may_order {
        return Err(Refusal::Stranger);
    }
    accept(request.headers())?;
    let collected = Limited::new(request.into_body(), MAX_BODY).collect().await;
    let body: Bytes = collected
        .map(http_body_util::Collected::to_bytes)
        .map_err(|error| if error.is::<LengthLimitError>() { Refusal::TooLarge } else { Refusal::Broken })?;
    serde_json::from_slice(&body).map_err(|error| Refusal::Nonsense { line: error.line(), column: error.column() })
}

/// Browsers name the origin of a page that posts, and say how they fetch; programs say neither.
fn accept(headers: &HeaderMap) -> Result<(), Refusal> {
    let is_page = headers.keys().any(|name| *name == header::ORIGIN || name.as_str().starts_with("sec-fetch-"));
    if is_page {
        return Err(Refusal::Page);
    }
    let mut types = headers.get_all(header::CONTENT_TYPE).into_iter().map(HeaderValue::as_bytes);
    let is_json = |named: &[u8]| {
        let named = named.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        named.eq_ignore_ascii_case(b"application/json")
    };
    if types.next().is_some_and(is_json) && types.next().is_none() { Ok(()) } else { Err(Refusal::MediaType) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(fields: &[(&'static str, &'static str)], expected: Result<(), Refusal>) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        assert_eq!(accept(&headers), expected, "{fields:?}");
    }

    #[test]
    fn programs_order_and_pages_do_not() {
        const JSON: (&str, &str) = ("content-type", "application/json");
        check(&[JSON], Ok(()));
        check(&[("content-type", "Application/JSON ; charset=utf-8")], Ok(()));
        check(&[JSON, ("origin", "https://evil.test")], Err(Refusal::Page));
        check(&[JSON, ("origin", "null")], Err(Refusal::Page));
        check(&[JSON, ("sec-fetch-site", "none")], Err(Refusal::Page));
        check(&[JSON, ("sec-fetch-mode", "no-cors")], Err(Refusal::Page));
        for other in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonp", ""]
        {
            check(&[("content-type", other)], Err(Refusal::MediaType));
        }
        check(&[], Err(Refusal::MediaType));
        check(&[JSON, JSON], Err(Refusal::MediaType));
    }
}
