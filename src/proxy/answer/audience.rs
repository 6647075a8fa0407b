//! The reader of an answer: a person with a browser, or a program.

use http::Method;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::reader::wanted_language;
use crate::model::page_language::PageLanguage;
use crate::observe::RequestId;
use crate::proxy::context::LoginRequest;

const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// How an answer of callgate's own speaks to its reader.
#[derive(Debug, Clone, Copy)]
pub(in crate::proxy) struct Audience {
    /// A browser navigates: a redirect leads a person on.
    pub(in crate::proxy) is_navigation: bool,
    /// A page is wanted rather than JSON.
    pub(in crate::proxy) wants_html: bool,
    /// The browser can repeat the request: it is a `GET`.
    pub(in crate::proxy) is_repeatable: bool,
    /// The language of a page; `None`: the request asks for none of ours.
    pub(in crate::proxy) language: Option<PageLanguage>,
    /// The id of the request, which every answer names.
    pub(in crate::proxy) request_id: RequestId,
}

impl Audience {
    /// Reads the audience from `Sec-Fetch-Mode` and `Accept`. Without `Sec-Fetch-Mode`, `Accept` decides both.
    #[must_use]
    pub(in crate::proxy) fn of(request: LoginRequest<'_>, request_id: RequestId) -> Self {
        let LoginRequest { method, query, headers } = request;
        let wants_html = accepts(headers, b"text/html");
        let mode = headers.get(SEC_FETCH_MODE).map(HeaderValue::as_bytes);
        let is_navigation = mode.map_or(wants_html, |mode| mode == b"navigate");
        let language = if wants_html { wanted_language(query, headers) } else { None };
        Self { is_navigation, wants_html, is_repeatable: *method == Method::GET, language, request_id }
    }

    /// Returns a person who follows a link.
    #[cfg(test)]
    pub(super) fn person() -> Self {
        let request_id = RequestId::next();
        Self { is_navigation: true, wants_html: true, is_repeatable: true, language: None, request_id }
    }

    /// Returns the audience for an answer that a script reads, whatever the browser accepts.
    #[must_use]
    pub(super) const fn to_a_program(self) -> Self {
        Self { is_navigation: false, wants_html: false, ..self }
    }
}

/// Tells whether `Accept` lists a media type. Quality values are ignored.
#[must_use]
pub(in crate::proxy) fn accepts(headers: &HeaderMap, media: &[u8]) -> bool {
    let ranges =
        headers.get_all(header::ACCEPT).into_iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let mut types = ranges.map(|range| range.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii());
    types.any(|named| named.eq_ignore_ascii_case(media))
}
