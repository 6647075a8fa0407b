//! `[pbx] shield`: refuses strangers' requests to the PBX that only callgate and the operator's own networks may make.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::timeout;

use crate::config::{NodeIndex, PbxConfig, ShieldConfig};
use crate::exchange::Exchange;
use crate::limit::LimitSource;
use crate::message::cookies;
use crate::model::session::SESSION;
use crate::model::shield::{self, Breach, ShieldVerdict};
use crate::observe::metrics;
use crate::pbx::IssuedSessions;
use crate::proxy::browser::trigger::{self, Trigger};
use crate::proxy::context::RequestContext;
use crate::proxy::error::Error;
use crate::proxy::forward::owners::SessionsAt;
use crate::proxy::gate::Gate;
use crate::upstream::RequestBody;

/// The most bytes of a login that are read before it is passed on.
const MAX_LOGIN: usize = 16 << 10;

/// Returns the shield, if this client is a stranger to it.
pub(super) fn of_stranger<'c>(pbx: &'c PbxConfig, context: &RequestContext) -> Option<&'c ShieldConfig> {
    pbx.shield.as_ref().filter(|shield| shield.is_for(context.client()))
}

/// A stranger's request to the PBX, as the shield meets it.
pub(super) struct Stranger<'f> {
    pub(super) shield: &'f ShieldConfig,
    pub(super) node: NodeIndex,
    pub(super) gate: &'f Gate,
    pub(super) issued: &'f IssuedSessions,
    pub(super) context: &'f RequestContext,
}

impl Stranger<'_> {
    /// Asks the engine for a session that a request lands with, if this member does not know it.
    pub(super) async fn learn(&self, request: &Request<RequestBody>) {
        let landing = shield::session_in_query(request.uri().path(), request.uri().query());
        if let Ok(Some(session)) = landing
            && !self.shield.any_session
        {
            self.issued.learn(session).await;
        }
    }

    /// Checks the head of a request. Returns whether it may open a session: then its body decides.
    ///
    /// # Errors
    /// When the shield refuses it.
    pub(super) fn check_head(&self, request: &Request<RequestBody>, canonical: &str) -> Result<bool, Error> {
        self.judge_head(request, canonical).map_err(|verdict| self.refuse(verdict, request))?;
        Ok(shield::opens_sessions(canonical))
    }

    /// Checks a login, whose body is read for that and goes on as it came.
    ///
    /// # Errors
    /// When the shield refuses it, or the body cannot be read.
    pub(super) async fn check_login(
        &self,
        request: &mut Request<RequestBody>,
        exchange: &mut Exchange,
    ) -> Result<(), Error> {
        if self.trigger(request) == Trigger::ForeignPage {
            return Err(Error::CrossSite);
        }
        // Over HTTP/2 the body of a CONNECT is a tunnel, which begins with the answer.
        let body =
            if request.method() == Method::CONNECT { Bytes::new() } else { self.take_body(request, exchange).await? };
        let judged = self.judge_login(request, &body).await;
        if !body.is_empty() {
            *request.body_mut() = RequestBody::Full(Some(body));
        }
        judged.map_err(|verdict| self.refuse(verdict, request))
    }

    fn judge_head(&self, request: &Request<RequestBody>, canonical: &str) -> Result<(), ShieldVerdict> {
        self.shield.protected.judge(canonical).map_err(ShieldVerdict::Breach)?;
        if let Some(administrator) = self.administrator() {
            let mut lines = request.headers().get_all(header::AUTHORIZATION).into_iter();
            lines.try_for_each(|line| shield::judge_credentials(line.as_bytes(), administrator))?;
        }
        if self.shield.any_session {
            return Ok(());
        }
        match shield::session_in_query(request.uri().path(), request.uri().query()).map_err(ShieldVerdict::Breach)? {
            Some(session) if !has_session(request.headers(), session) => self.judge_session(session),
            Some(_) | None => Ok(()),
        }
    }

    async fn judge_login(&self, request: &Request<RequestBody>, body: &[u8]) -> Result<(), ShieldVerdict> {
        check_form(request.headers())?;
        let token = shield::judge_login(request.uri().query(), body, self.administrator())?;
        match token.filter(|_| !self.shield.any_session) {
            Some(token) => {
                self.issued.learn(&token).await;
                self.judge_session(&token)
            }
            None => Ok(()),
        }
    }

    fn judge_session(&self, session: &str) -> Result<(), ShieldVerdict> {
        // A session of another node is as foreign here as one of another PBX.
        let known = SessionsAt { issued: self.issued, nodes: &self.gate.config().pbx, node: self.node };
        match self.issued.is_landing(session) && known.find(session).is_some() {
            true => Ok(()),
            false => Err(ShieldVerdict::Breach(Breach::ForeignSession)),
        }
    }

    fn administrator(&self) -> Option<&str> {
        Some(&self.gate.config().pbx[self.node].admin.as_ref()?.user)
    }

    fn trigger(&self, request: &Request<RequestBody>) -> Trigger {
        trigger::at_pbx(request.method(), request.headers(), &self.context.authority, self.gate.config(), self.node)
    }

    /// Reads the body of a login, if this client may try to log in now.
    async fn take_body(&self, request: &mut Request<RequestBody>, exchange: &mut Exchange) -> Result<Bytes, Error> {
        let payload = std::mem::take(request.body_mut());
        if matches!(payload, RequestBody::Empty) {
            return Ok(Bytes::new());
        }
        self.gate.state.limits.check_pbx_login(
            self.node,
            &LimitSource::address(self.context.client()),
            &self.context.findings.refusers,
        )?;
        exchange.set_meter(payload.meter());
        let deadline = self.gate.config().server.timeouts.header;
        let read = timeout(deadline, Limited::new(payload, MAX_LOGIN).collect()).await;
        let read = read.map_err(|_| Error::RequestTimeout)?.map_err(|error| match error.is::<LengthLimitError>() {
            true => Error::ContentTooLarge,
            false => Error::Malformed("the body broke off"),
        })?;
        Ok(read.to_bytes())
    }

    /// Refuses what strangers may not do. It counts among the client's logins at the PBX, and the audit log tells of it.
    /// A request that a page of another origin caused is counted apart, or not at all.
    fn refuse(&self, verdict: ShieldVerdict, request: &Request<RequestBody>) -> Error {
        let source = match self.trigger(request) {
            Trigger::ForeignPage => return Error::CrossSite,
            Trigger::Navigation => LimitSource::elsewhere(self.context.client()),
            Trigger::Own => LimitSource::address(self.context.client()),
        };
        self.gate.tally.kept_out(counted(&verdict));
        if let Err(limited) =
            self.gate.state.limits.count_pbx_login(self.node, &source, &self.context.findings.refusers)
        {
            return limited.into();
        }
        match verdict {
            ShieldVerdict::Breach(breach) => {
                self.gate.audit_bypass(self.context, self.node, &breach.to_string());
                Error::Blocked
            }
            ShieldVerdict::Unclear(reason) => {
                self.gate.audit_bypass(self.context, self.node, reason);
                Error::Malformed(reason)
            }
        }
    }
}

/// Returns the name under which a refusal is counted.
const fn counted(verdict: &ShieldVerdict) -> metrics::BlockedAttempt {
    match verdict {
        ShieldVerdict::Breach(Breach::AdminPath) => metrics::BlockedAttempt::AdminPath,
        ShieldVerdict::Breach(Breach::Administrator) => metrics::BlockedAttempt::Administrator,
        ShieldVerdict::Breach(Breach::ThirdParty) => metrics::BlockedAttempt::ThirdParty,
        ShieldVerdict::Breach(Breach::ForeignSession) => metrics::BlockedAttempt::ForeignSession,
        ShieldVerdict::Unclear(_) => metrics::BlockedAttempt::Unclear,
    }
}

/// Tells whether a browser has this session already: a link with the same session then changes nothing.
fn has_session(headers: &HeaderMap, session: &str) -> bool {
    cookies::values(headers, SESSION).any(|value| value == session)
}

/// Checks that a body is plain UTF-8. The PBX might unpack another coding, or read another charset, and see another login.
fn check_form(headers: &HeaderMap) -> Result<(), ShieldVerdict> {
    let is_plain = |line: &HeaderValue| line.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity");
    if !headers.get_all(header::CONTENT_ENCODING).iter().all(is_plain) {
        return Err(ShieldVerdict::Unclear("the login is packed"));
    }
    let is_utf8 = |line: &HeaderValue| {
        let line = line.as_bytes().to_ascii_lowercase();
        let line = String::from_utf8_lossy(&line).replace(['"', ' ', '\t'], "");
        line.split(';').filter_map(|part| part.strip_prefix("charset")).all(|charset| charset == "=utf-8")
    };
    if headers.get_all(header::CONTENT_TYPE).iter().all(is_utf8) {
        Ok(())
    } else {
        Err(ShieldVerdict::Unclear("the login is not in UTF-8"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &'static str, value: &'static str, expected: bool) {
        let headers = HeaderMap::from_iter([(header::HeaderName::from_static(name), HeaderValue::from_static(value))]);
        assert_eq!(check_form(&headers).is_ok(), expected, "{name}: {value}");
    }

    #[test]
    fn a_login_is_plain_text_in_utf8() {
        check("content-encoding", "identity", true);
        check("content-encoding", "gzip", false);
        check("content-encoding", "identity, gzip", false);
        for value in ["application/json", "text/plain; charset=UTF-8", "application/json;charset=\"utf-8\"", ""] {
            check("content-type", value, true);
        }
        for value in ["application/json; charset=utf-16", "text/plain;charset=utf-8;charset=utf-7", "a/b; charset*=x"] {
            check("content-type", value, false);
        }
    }

    #[test]
    fn a_browser_has_the_session_of_its_cookie() {
        let headers = HeaderMap::from_iter([(header::COOKIE, HeaderValue::from_static("a=1; session=abc; b=2"))]);
        assert!(has_session(&headers, "abc"));
        assert!(!has_session(&headers, "ab"));
        assert!(!has_session(&HeaderMap::new(), "abc"));
    }
}
