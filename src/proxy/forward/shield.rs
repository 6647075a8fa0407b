//! `[pbx] shield`: keeps strangers from what only callgate and the operator's own networks may do at the PBX.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::{Instant, timeout};

use crate::config::ShieldConfig;
use crate::exchange::Exchange;
use crate::limit::Source;
use crate::message::cookies;
use crate::model::path;
use crate::model::session::SESSION;
use crate::model::shield::{self, Breach, ShieldVerdict};
use crate::model::upstream_name::UpstreamName;
use crate::observe::metrics;
use crate::proxy::browser::trigger::{self, Trigger};
use crate::proxy::error::Error;
use crate::proxy::{Caller, Proxy};
use crate::upstream::RequestBody;

/// The longest login that is read before it is passed on.
const MAX_LOGIN: usize = 16 << 10;

impl Proxy {
    /// Returns the shield, if it keeps this caller from something.
    pub(in crate::proxy) fn shield(&self, caller: &Caller) -> Option<&ShieldConfig> {
        self.config.pbx.as_ref()?.shield.as_ref().filter(|shield| shield.is_for(caller.origin.client))
    }

    /// Judges a request of a stranger, if it is for the PBX. The body of a login is read for that, and goes on as it came.
    pub(in crate::proxy) async fn judge_stranger(
        &self,
        shield: &ShieldConfig,
        request: &mut Request<RequestBody>,
        caller: &Caller,
        exchange: &mut Exchange,
    ) -> Result<(), Error> {
        let canonical = path::canonical(request.uri().path());
        let (to, _) = self.route(&caller.authority, &canonical)?;
        if to == UpstreamName::App {
            return Ok(());
        }
        exchange.goes_to(to);
        let is_login = shield::opens_sessions(&canonical);
        if let Err(refusal) = self.judge_head(shield, request, &canonical) {
            return Err(self.keep_out(refusal, request, caller));
        }
        drop(canonical);
        if !is_login {
            return Ok(());
        }
        if trigger::at_pbx(request.method(), request.headers(), &caller.authority, &self.config) == Trigger::ForeignPage
        {
            return Err(Error::CrossSite);
        }
        // Over HTTP/2 the body of a CONNECT is a tunnel, which begins with the answer.
        let body = if request.method() == Method::CONNECT {
            Bytes::new()
        } else {
            self.take_body(request, caller, exchange).await?
        };
        let judged = self.judge_login(shield, request, &body);
        if !body.is_empty() {
            *request.body_mut() = RequestBody::Full(Some(body));
        }
        judged.map_err(|refusal| self.keep_out(refusal, request, caller))
    }

    fn judge_head(
        &self,
        shield: &ShieldConfig,
        request: &Request<RequestBody>,
        canonical: &str,
    ) -> Result<(), ShieldVerdict> {
        shield.doors.judge(canonical).map_err(ShieldVerdict::Breach)?;
        if let Some(administrator) = self.administrator() {
            let mut lines = request.headers().get_all(header::AUTHORIZATION).into_iter();
            lines.try_for_each(|line| shield::judge_credentials(line.as_bytes(), administrator))?;
        }
        if shield.any_session {
            return Ok(());
        }
        match shield::carried(request.uri().path(), request.uri().query()).map_err(ShieldVerdict::Breach)? {
            Some(session) if !has_session(request.headers(), session) => self.judge_session(session),
            Some(_) | None => Ok(()),
        }
    }

    fn judge_login(
        &self,
        shield: &ShieldConfig,
        request: &Request<RequestBody>,
        body: &[u8],
    ) -> Result<(), ShieldVerdict> {
        check_form(request.headers())?;
        let token = shield::judge_login(request.uri().query(), body, self.administrator())?;
        match token.filter(|_| !shield.any_session) {
            Some(token) => self.judge_session(&token),
            None => Ok(()),
        }
    }

    fn judge_session(&self, session: &str) -> Result<(), ShieldVerdict> {
        match self.shared.issued.is_landing(session, Instant::now()) {
            true => Ok(()),
            false => Err(ShieldVerdict::Breach(Breach::ForeignSession)),
        }
    }

    fn administrator(&self) -> Option<&str> {
        Some(&self.config.pbx.as_ref()?.admin.as_ref()?.user)
    }

    /// Reads the body of a login, if this client may try to log in now.
    async fn take_body(
        &self,
        request: &mut Request<RequestBody>,
        caller: &Caller,
        exchange: &mut Exchange,
    ) -> Result<Bytes, Error> {
        let payload = std::mem::take(request.body_mut());
        if matches!(payload, RequestBody::Empty) {
            return Ok(Bytes::new());
        }
        self.within(self.shared.limits.pbx_logins.peek_source(&Source::address(caller.origin.client)))?;
        exchange.receives(payload.meter());
        let read = timeout(self.config.server.timeouts.header, Limited::new(payload, MAX_LOGIN).collect()).await;
        let read = read.map_err(|_| Error::RequestTimeout)?.map_err(|error| match error.is::<LengthLimitError>() {
            true => Error::ContentTooLarge,
            false => Error::Malformed("the body broke off"),
        })?;
        Ok(read.to_bytes())
    }

    /// Refuses what strangers may not do: counted among the client's logins at the PBX, told to the audit log. What a page
    /// of another origin does is counted apart, or not at all.
    fn keep_out(&self, refusal: ShieldVerdict, request: &Request<RequestBody>, caller: &Caller) -> Error {
        let source = match trigger::at_pbx(request.method(), request.headers(), &caller.authority, &self.config) {
            Trigger::ForeignPage => return Error::CrossSite,
            Trigger::Navigation => Source::elsewhere(caller.origin.client),
            Trigger::Own => Source::address(caller.origin.client),
        };
        self.tally.kept_out(match refusal {
            ShieldVerdict::Breach(Breach::AdminPath) => metrics::Attempt::AdminPath,
            ShieldVerdict::Breach(Breach::Administrator) => metrics::Attempt::Administrator,
            ShieldVerdict::Breach(Breach::ThirdParty) => metrics::Attempt::ThirdParty,
            ShieldVerdict::Breach(Breach::ForeignSession) => metrics::Attempt::ForeignSession,
            ShieldVerdict::Unclear(_) => metrics::Attempt::Unclear,
        });
        if let Err(limited) = self.within(self.shared.limits.pbx_logins.admit_source(&source)) {
            return limited;
        }
        match refusal {
            ShieldVerdict::Breach(breach) => {
                self.kept_out(caller, &breach.to_string());
                Error::Blocked
            }
            ShieldVerdict::Unclear(reason) => {
                self.kept_out(caller, reason);
                Error::Malformed(reason)
            }
        }
    }
}

/// Tells whether a browser has this session already: then its link changes nothing.
fn has_session(headers: &HeaderMap, session: &str) -> bool {
    cookies::values(headers, SESSION).any(|value| value == session)
}

/// Checks that a body is what it looks like: nothing that somebody else would unpack or read in other letters.
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
