//! What the operator orders: a small JSON object, posted by a program of this machine and not by a page.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use crate::server::client_io::ClientStream;

/// The most bytes of an order: a head of a request with a certificate fits.
const MAX_BODY: usize = 64 << 10;

/// Why an order is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum OrderError {
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

impl OrderError {
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
pub(super) fn is_operator(stream: &ClientStream) -> bool {
    match stream {
        ClientStream::Tcp(_) => true,
        ClientStream::Unix(stream) => stream.peer_cred().is_ok_and(|peer| {
            let own = rustix::process::geteuid().as_raw();
            peer.uid() == own || peer.uid() == 0
        }),
    }
}

/// Names the other end for the audit log.
pub(super) fn name(stream: &ClientStream) -> String {
    match stream {
        ClientStream::Tcp(_) => "this machine".to_owned(),
        ClientStream::Unix(stream) => {
            stream.peer_cred().map_or_else(|_| "?".to_owned(), |peer| format!("uid {}", peer.uid()))
        }
    }
}

/// Reads an order, and refuses those that the operator did not send.
pub(super) async fn read<T: DeserializeOwned>(request: Request<Incoming>, may_order: bool) -> Result<T, OrderError> {
    if !may_order {
        return Err(OrderError::Stranger);
    }
    accept(request.headers())?;
    let collected = Limited::new(request.into_body(), MAX_BODY).collect().await;
    let body: Bytes = collected
        .map(http_body_util::Collected::to_bytes)
        .map_err(|error| if error.is::<LengthLimitError>() { OrderError::TooLarge } else { OrderError::Broken })?;
    serde_json::from_slice(&body).map_err(|error| OrderError::Nonsense { line: error.line(), column: error.column() })
}

/// Browsers name the origin of a page that posts, and say how they fetch; programs say neither.
fn accept(headers: &HeaderMap) -> Result<(), OrderError> {
    let is_page = headers.keys().any(|name| *name == header::ORIGIN || name.as_str().starts_with("sec-fetch-"));
    if is_page {
        return Err(OrderError::Page);
    }
    let mut types = headers.get_all(header::CONTENT_TYPE).into_iter().map(HeaderValue::as_bytes);
    let is_json = |named: &[u8]| {
        let named = named.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        named.eq_ignore_ascii_case(b"application/json")
    };
    if types.next().is_some_and(is_json) && types.next().is_none() { Ok(()) } else { Err(OrderError::MediaType) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(fields: &[(&'static str, &'static str)], expected: Result<(), OrderError>) {
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
        check(&[JSON, ("origin", "https://evil.test")], Err(OrderError::Page));
        check(&[JSON, ("origin", "null")], Err(OrderError::Page));
        check(&[JSON, ("sec-fetch-site", "none")], Err(OrderError::Page));
        check(&[JSON, ("sec-fetch-mode", "no-cors")], Err(OrderError::Page));
        for other in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonp", ""]
        {
            check(&[("content-type", other)], Err(OrderError::MediaType));
        }
        check(&[], Err(OrderError::MediaType));
        check(&[JSON, JSON], Err(OrderError::MediaType));
    }
}
