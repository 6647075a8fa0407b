//! Whether the session of a browser is alive: the PBX is asked once a minute.

use http::header::{HeaderMap, HeaderValue};
use tokio::time::Instant;

use crate::message::cookies;
use crate::model::digest::{Digest, sha256_of};
use crate::model::session::SESSION;
use crate::model::session_state::SessionState;
use crate::pbx::Check;
use crate::proxy::context::RequestContext;
use crate::proxy::login::session::PbxLogin;

/// Returns the state of the browser's session; `None`: it shows none.
pub(super) async fn of(login: PbxLogin<'_>, headers: &HeaderMap, context: &RequestContext) -> Option<SessionState> {
    let cookie = cookie(headers)?;
    if cookies::values(headers, SESSION).any(|session| login.has_ended(session)) {
        return Some(SessionState::Over);
    }
    let Some(auto) = &login.settings.auto else { return Some(SessionState::Unknown) };
    let sessions = login.sessions;
    let key = key(&cookie, &context.authority.host);
    let answer = match sessions.checks().look(key, Instant::now()) {
        Check::Known(state) => return Some(state),
        Check::Asked(answer) => answer,
        Check::Ask(question, answer) => {
            let (pbx, host, markers) = (sessions.pbx().clone(), context.authority.raw.clone(), auto.markers.clone());
            let tally = login.gate.tally.clone();
            // Others may wait for the answer when this client has left.
            tokio::task::spawn_local(async move {
                let state = pbx.state_of(cookie, host, &markers).await;
                tally.session_check(state);
                question.settle(state);
            });
            answer
        }
    };
    // The question has a deadline of its own.
    Some(answer.wait().await)
}

/// Returns the cookies of the PBX's session as they were sent, and no others; `None`: there are none, or they are empty.
pub(super) fn cookie(headers: &HeaderMap) -> Option<HeaderValue> {
    let pairs = cookies::pairs(headers).filter(|pair| {
        let (name, value) = cookies::split(pair);
        name == SESSION.as_bytes() && !value.is_empty()
    });
    let pairs: Vec<_> = pairs.collect();
    HeaderValue::from_bytes(&pairs.join(&b"; "[..])).ok().filter(|line| !line.is_empty())
}

/// Tells whether callgate has opened the session of the browser.
pub(super) fn is_ours(login: PbxLogin<'_>, headers: &HeaderMap) -> bool {
    cookies::values(headers, SESSION).any(|session| login.has_just_opened(session))
}

/// Takes the browser's session for alive for a minute, whatever the PBX says.
pub(super) fn believe_alive(login: PbxLogin<'_>, headers: &HeaderMap, context: &RequestContext) {
    if let Some(cookie) = cookie(headers) {
        login.sessions.checks().set(key(&cookie, &context.authority.host), SessionState::Alive, Instant::now());
    }
}

/// Returns the digest under which the state of a session is known. One PBX may have another session under each host name.
fn key(cookie: &HeaderValue, host: &str) -> Digest {
    sha256_of([host.as_bytes(), cookie.as_bytes()])
}
