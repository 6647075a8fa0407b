//! Orders of the operator: a small JSON object, posted by a program on this machine and not by a web page.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use crate::server::client_io::ClientStream;

/// The most bytes of an order: one for `/explain` holds the fields of a request and a client certificate.
const MAX_BODY: usize = 64 << 10;

/// Why an order is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum OrderError {
    /// Another user of this machine sent it.
    #[error("only root and the user that callgate runs as may order this")]
    ForeignUser,
    /// A page in a browser sent it.
    #[error("a page of a browser may not order this")]
    Page,
    /// It is not labelled as JSON. A page can send other types without a preflight (Fetch standard, "CORS-safelisted").
    #[error("send application/json")]
    MediaType,
    /// It is too large.
    #[error("the order is larger than 64 KiB")]
    TooLarge,
    /// Its body broke off.
    #[error("the order broke off")]
    Broken,
    /// It is not the JSON that is expected. Its text is not repeated: it may be secret.
    #[error("the order is not understood: line {line}, column {column}")]
    Nonsense {
        /// The line.
        line: usize,
        /// The column.
        column: usize,
    },
}

impl OrderError {
    /// Returns the status, and the `error` code for programs.
    pub(super) const fn status(self) -> (StatusCode, &'static str) {
        match self {
            Self::ForeignUser => (StatusCode::FORBIDDEN, "stranger"),
            Self::Page => (StatusCode::FORBIDDEN, "page"),
            Self::MediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "content_too_large"),
            Self::Broken | Self::Nonsense { .. } => (StatusCode::BAD_REQUEST, "malformed"),
        }
    }
}

/// Returns whether the other end may send orders. Over a unix socket, root and the user that callgate runs as may; the group of
/// the socket may only read. Over TCP the user is unknown, so every program on this machine may: the operator chose TCP.
pub(super) fn is_operator(stream: &ClientStream) -> bool {
    stream.unix().is_none_or(|stream| {
        stream.peer_cred().is_ok_and(|peer| {
            let own = rustix::process::geteuid().as_raw();
            peer.uid() == own || peer.uid() == 0
        })
    })
}

/// Returns the name of the other end for the audit log.
pub(super) fn name(stream: &ClientStream) -> String {
    let Some(stream) = stream.unix() else { return "this machine".to_owned() };
    stream.peer_cred().map_or_else(|_| "?".to_owned(), |peer| format!("uid {}", peer.uid()))
}

/// Reads an order.
///
/// # Errors
/// When the operator did not send it, or it is malformed.
pub(super) async fn read<T: DeserializeOwned>(request: Request<Incoming>, may_order: bool) -> Result<T, OrderError> {
    if !may_order {
        return Err(OrderError::ForeignUser);
    }
    check_fields(request.headers())?;
    let collected = Limited::new(request.into_body(), MAX_BODY).collect().await;
    let body: Bytes = collected
        .map(http_body_util::Collected::to_bytes)
        .map_err(|error| if error.is::<LengthLimitError>() { OrderError::TooLarge } else { OrderError::Broken })?;
    serde_json::from_slice(&body).map_err(|error| OrderError::Nonsense { line: error.line(), column: error.column() })
}

/// Refuses an order of a web page: browsers add the origin of the page and Fetch metadata; programs add neither.
fn check_fields(headers: &HeaderMap) -> Result<(), OrderError> {
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
        assert_eq!(check_fields(&headers), expected, "{fields:?}");
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
