//! Orders of the operator: a small JSON object, posted by a program on this machine and not by a web page.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use crate::message::target::Authority;
use crate::model::loopback::is_loopback;
use crate::server::client_io::ClientStream;

/// Where a browser's request comes from (W3C Fetch Metadata).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

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

/// Reads an order of a program.
///
/// # Errors
/// When the operator did not send it, or it is malformed.
pub(super) async fn read<T: DeserializeOwned>(request: Request<Incoming>, may_order: bool) -> Result<T, OrderError> {
    read_from(request, may_order, None).await
}

/// Reads an order of a program, or of the page of `/status` at this origin.
///
/// # Errors
/// As [`read`].
pub(super) async fn read_from<T: DeserializeOwned>(
    request: Request<Incoming>,
    may_order: bool,
    origin: Option<&str>,
) -> Result<T, OrderError> {
    if !may_order {
        return Err(OrderError::ForeignUser);
    }
    check_fields(request.headers(), origin)?;
    let collected = Limited::new(request.into_body(), MAX_BODY).collect().await;
    let body: Bytes = collected
        .map(http_body_util::Collected::to_bytes)
        .map_err(|error| if error.is::<LengthLimitError>() { OrderError::TooLarge } else { OrderError::Broken })?;
    serde_json::from_slice(&body).map_err(|error| OrderError::Nonsense { line: error.line(), column: error.column() })
}

/// Returns the origin of the pages that a request's host serves, if that is a name of this machine: only such a page may be the
/// listener's own.
pub(super) fn own_origin(authority: &Authority) -> Option<String> {
    let port = authority.port.filter(|port| *port != 80).map(|port| format!(":{port}"));
    is_loopback(&authority.host).then(|| format!("http://{}{}", authority.host, port.unwrap_or_default()))
}

/// Returns whether a page in a browser sends a request: browsers add the origin of the page and Fetch metadata; programs add
/// neither.
pub(super) fn is_from_browser(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| *name == header::ORIGIN || name.as_str().starts_with("sec-fetch-"))
}

/// Returns whether a browser says that the page of this origin itself sends a request.
fn is_from_page(headers: &HeaderMap, origin: &str) -> bool {
    let only = |name: HeaderName| {
        let mut lines = headers.get_all(name).into_iter();
        lines.next().filter(|_| lines.next().is_none()).map(HeaderValue::as_bytes)
    };
    let is_own_site = only(SEC_FETCH_SITE).is_none_or(|site| site == b"same-origin");
    is_own_site
        && headers.contains_key(SEC_FETCH_SITE) == only(SEC_FETCH_SITE).is_some()
        && only(header::ORIGIN) == Some(origin.as_bytes())
}

/// Refuses an order of a web page, except of the one at `origin`.
fn check_fields(headers: &HeaderMap, origin: Option<&str>) -> Result<(), OrderError> {
    if is_from_browser(headers) && !origin.is_some_and(|origin| is_from_page(headers, origin)) {
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
    use crate::message::target;

    #[track_caller]
    fn check(fields: &[(&'static str, &'static str)], expected: Result<(), OrderError>) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        assert_eq!(check_fields(&headers, None), expected, "{fields:?}");
    }

    #[test]
    fn the_page_of_this_listener_orders_and_others_do_not() {
        const ORIGIN: &str = "http://localhost:9443";
        #[track_caller]
        fn check(fields: &[(&'static str, &'static str)], origin: Option<&str>, expected: Result<(), OrderError>) {
            let mut headers = HeaderMap::new();
            headers.append("content-type", HeaderValue::from_static("application/json"));
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(check_fields(&headers, origin), expected, "{fields:?}");
        }
        let (own, page) = (Some(ORIGIN), Err(OrderError::Page));
        check(&[("origin", ORIGIN), ("sec-fetch-site", "same-origin")], own, Ok(()));
        check(&[("origin", ORIGIN)], own, Ok(()));
        check(&[("origin", ORIGIN), ("sec-fetch-site", "same-origin")], None, page);
        check(&[("origin", ORIGIN), ("sec-fetch-site", "same-site")], own, page);
        check(&[("origin", ORIGIN), ("sec-fetch-site", "same-origin"), ("sec-fetch-site", "none")], own, page);
        check(&[("origin", ORIGIN), ("origin", ORIGIN)], own, page);
        check(&[("sec-fetch-site", "same-origin")], own, page);
        for other in ["http://localhost:9444", "https://localhost:9443", "http://localhost", "null", "http://evil.test"]
        {
            check(&[("origin", other), ("sec-fetch-site", "same-origin")], own, page);
        }
    }

    #[test]
    fn a_page_is_this_listeners_own_only_under_a_name_of_this_machine() {
        for (host, origin) in [
            ("localhost:9443", Some("http://localhost:9443")),
            ("LOCALHOST:80", Some("http://localhost")),
            ("127.0.0.1", Some("http://127.0.0.1")),
            ("[::1]:9443", Some("http://[::1]:9443")),
            ("ops.example.com", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.append("host", HeaderValue::from_static(host));
            let authority = target::authority(http::Version::HTTP_11, &"/".parse().unwrap(), &headers).unwrap();
            assert_eq!(own_origin(&authority).as_deref(), origin, "{host}");
        }
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
