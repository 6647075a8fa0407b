//! Requests that could guess a password of the PBX. The PBX sees only our address, so it cannot tell its clients apart:
//! the limit `pbx_logins` counts such requests here.

use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use tokio::time::Instant;

use crate::config::NodeIndex;
use crate::limit::{LimitSource, Limits};
use crate::model::digest::{sha256, sha256_of};
use crate::model::path;
use crate::proxy::browser::trigger::{self, Trigger};
use crate::proxy::context::RequestContext;
use crate::proxy::error::Error;
use crate::proxy::gate::Gate;

/// The credential in the `Authorization` of a request, at its address. The answer of the PBX judges it.
pub(super) struct UnjudgedCredential(LimitSource);

/// Counts a request to the PBX that could guess a password. A credential counts once at its address, until the PBX refuses
/// it: a program sends the same one with each request.
///
/// # Errors
/// When a page of another site causes the request, or the limit is used up.
pub(super) fn count(
    gate: &Gate,
    node: NodeIndex,
    method: &Method,
    canonical: &str,
    headers: &HeaderMap,
    context: &RequestContext,
) -> Result<Option<UnjudgedCredential>, Error> {
    let is_login = path::is_password_login(method.as_str(), canonical);
    if !is_login && !headers.contains_key(AUTHORIZATION) {
        return Ok(None);
    }
    let source = match trigger::at_pbx(method, headers, &context.authority, gate.config(), node) {
        Trigger::ForeignPage => return Err(Error::CrossSite),
        // Browsers add the credentials that they have kept, whatever page sends them here.
        Trigger::Navigation => LimitSource::elsewhere(context.client()),
        Trigger::Own => LimitSource::address(context.client()),
    };
    let limits = &gate.state.limits;
    let credential = UnjudgedCredential::read(headers, gate.config().pbx.label(node), context);
    let is_known = credential.as_ref().is_some_and(|credential| credential.was_accepted(limits));
    if is_login || !is_known {
        limits.count_pbx_login(node, &source, &context.findings.refusers)?;
    }
    Ok(credential)
}

impl UnjudgedCredential {
    /// Reads the one credential of a request. `node`: the name of the PBX node, where there are several; what one has accepted
    /// says nothing about another.
    fn read(headers: &HeaderMap, node: Option<&str>, context: &RequestContext) -> Option<Self> {
        let mut lines = headers.get_all(AUTHORIZATION).into_iter().map(HeaderValue::as_bytes);
        let credential = lines.next().filter(|_| lines.next().is_none())?;
        let digest = match node {
            Some(node) => sha256_of([node.as_bytes(), credential]),
            None => sha256(credential),
        };
        Some(Self(LimitSource::credential(context.client(), digest)))
    }

    fn was_accepted(&self, limits: &Limits) -> bool {
        limits.pbx_accepted.has(&self.0, Instant::now())
    }

    /// Remembers a credential that the PBX accepts, and forgets one that it refuses. Some pages of the PBX need no
    /// credential: then the first answer that judges a wrong one ends its exemption.
    pub(super) fn note_answer(&self, limits: &Limits, status: StatusCode) {
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => limits.pbx_accepted.forget(&self.0),
            status if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS => {
                limits.pbx_accepted.note(&self.0, Instant::now());
            }
            _ => {}
        }
    }
}
