//! The accounts behind a request to the PBX: those that its sessions went out to, and those that it may name.

use std::sync::Arc;

use http::header::{COOKIE, HeaderMap, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{Method, Request, StatusCode, Uri};

use crate::config::{NodeIndex, PbxNodes};
use crate::freeze::{Freezes, Owners};
use crate::message::cookies;
use crate::model::landing;
use crate::model::mentions::AccountMentions;
use crate::model::path;
use crate::model::secret::Secret;
use crate::model::session::{EndReason, SESSION};
use crate::observe::Logs;
use crate::pbx::{IssuedSession, IssuedSessions, SessionFilter, UnissuedSession};
use crate::proxy::error::Error;
use crate::upstream::RequestBody;

/// The most sessions of one request that are watched for a tunnel, or that the engine is asked for. A browser shows one.
const MAX_UNISSUED: usize = 4;

/// The sessions that callgate opened, as a PBX node meets them: it accepts those of its own alone.
pub(super) struct SessionsAt<'f> {
    pub(super) issued: &'f IssuedSessions,
    pub(super) nodes: &'f PbxNodes,
    pub(super) node: NodeIndex,
}

impl SessionsAt<'_> {
    /// Finds a session of this node by its id, token or cookie.
    pub(super) fn find(&self, id: &str) -> Option<Arc<IssuedSession>> {
        self.issued.find(id).filter(|session| self.is_here(session))
    }

    /// Tells whether this node opened a session.
    fn is_here(&self, session: &IssuedSession) -> bool {
        let node = session.login.node_in(self.nodes);
        if node.is_none() {
            self.issued.note_orphan(session);
        }
        node == Some(self.node)
    }

    /// Tells whether another node opened the session with an id.
    fn is_elsewhere(&self, id: &str) -> bool {
        self.issued.find(id).is_some_and(|session| !self.is_here(&session))
    }
}

/// Refuses a request with the session of a frozen account: with it, calls could be made.
///
/// # Errors
/// When an account behind the request is frozen.
pub(super) fn refuse_frozen(
    freezes: &Freezes,
    issued: &IssuedSessions,
    request: &Request<RequestBody>,
    host: &str,
) -> Result<(), Error> {
    if freezes.has_any() && freezes.covers_any(&of(issued, request.headers(), request.uri(), host).owners) {
        return Err(Error::Forbidden);
    }
    Ok(())
}

/// Asks the engine for the sessions of a request that this member does not know, so that a freeze of their accounts holds.
///
/// # Errors
/// When it shows more of them than the engine is asked for: one of them may be that of a frozen account.
pub(super) async fn learn(issued: &IssuedSessions, request: &Request<RequestBody>, host: &str) -> Result<(), Error> {
    let shown = mentions(request.headers(), request.uri(), host);
    let unknown: Vec<_> = shown.sessions().filter(|id| issued.find(id).is_none()).collect();
    if unknown.len() > MAX_UNISSUED {
        return Err(Error::Forbidden);
    }
    for session in unknown {
        issued.learn(session).await;
    }
    Ok(())
}

/// Asks for the session of a request in the background, for the access lines of later ones.
pub(super) fn learn_behind(issued: &Arc<IssuedSessions>, headers: &HeaderMap) {
    let Some(session) = cookies::values(headers, SESSION).next().filter(|id| issued.find(id).is_none()) else { return };
    let (issued, session) = (Arc::clone(issued), Secret::new(session.to_owned()));
    drop(tokio::task::spawn_local(async move { issued.learn(session.expose()).await }));
}

/// Whom a request to the PBX acts for.
#[derive(Debug, Default)]
pub(super) struct Behind {
    pub(super) owners: Owners,
    /// The sessions that it shows, of those that callgate opened.
    pub(super) sessions: Vec<Arc<IssuedSession>>,
    /// Those that callgate did not open, if it may begin a tunnel or is the PBX's own logout.
    pub(super) unissued: Vec<Arc<UnissuedSession>>,
    /// The first sessions that it shows, if it is the PBX's own logout.
    logged_out: Vec<SessionFilter>,
    /// The numbers of those of this node, if it is the PBX's own logout.
    numbers: Vec<u64>,
    /// Whether it is the PBX's own logout.
    logs_out: bool,
}

impl Behind {
    /// Ends the sessions that the PBX has ended, if its own logout succeeded.
    pub(super) fn note_answer(&self, status: StatusCode, issued: &IssuedSessions, logs: &Logs) {
        if self.logs_out && status.is_success() {
            for filter in &self.logged_out {
                issued.end_everywhere(filter.clone(), EndReason::Pbx.into(), logs);
            }
            for number in &self.numbers {
                issued.end(&SessionFilter::number(*number), EndReason::Pbx.into(), logs);
            }
        }
    }
}

/// Finds out whom a request acts for, if it may begin a tunnel, or is the PBX's own logout.
pub(super) fn behind(known: &SessionsAt<'_>, head: &Parts, host: &str) -> Behind {
    let issued = known.issued;
    let may_switch = head.method == Method::CONNECT || head.headers.contains_key(UPGRADE);
    let logs_out = head.method == Method::DELETE && path::is_session(&path::canonical(head.uri.path()));
    match may_switch || logs_out {
        true => {
            let shown = mentions(&head.headers, &head.uri, host);
            let unissued = shown.sessions().filter(|id| issued.find(id).is_none()).take(MAX_UNISSUED);
            let unissued = unissued.map(|id| issued.watch_unissued(id)).collect();
            // No answer of this node ends a session of another one.
            let logged_out = shown.sessions().filter(|id| logs_out && !known.is_elsewhere(id)).take(MAX_UNISSUED);
            let logged_out = logged_out.map(SessionFilter::id).collect();
            let of = of(issued, &head.headers, &head.uri, host);
            let here = of.sessions.iter().filter(|session| known.is_here(session)).map(|session| session.number);
            let numbers = here.filter(|_| logs_out).collect();
            Behind { unissued, logged_out, numbers, logs_out, ..of }
        }
        false => Behind::default(),
    }
}

/// Finds the account of the session that a request shows, for the access log. Takes the cookie of a session that is over
/// away: the PBX may not know yet that it is.
///
/// # Errors
/// When the request shows such a session in another way, while the PBX may accept it.
pub(super) fn recognize(
    known: &SessionsAt<'_>,
    request: &mut Request<RequestBody>,
    host: &str,
) -> Result<Option<String>, Error> {
    let issued = known.issued;
    if issued.are_none() {
        return Ok(None);
    }
    let headers = request.headers();
    let parameters = landing::sessions_of(request.uri().query().unwrap_or_default());
    let shown = cookies::values(headers, SESSION).chain(parameters).find_map(|id| known.find(id));
    let is_over = |pair: &[u8]| {
        let (name, id) = cookies::split(pair);
        name == SESSION.as_bytes()
            && str::from_utf8(id).is_ok_and(|id| issued.find(id).is_some_and(|one| one.is_over()))
    };
    if cookies::pairs(headers).any(is_over) {
        cookies::cut_pairs(request.headers_mut(), |pair| is_over(pair.trim_ascii()));
    }
    let may_show_more = issued.has_unconfirmed();
    if may_show_more {
        let behind = of(issued, request.headers(), request.uri(), host);
        if behind.sessions.iter().any(|session| session.is_unconfirmed()) {
            return Err(Error::Forbidden);
        }
    }
    Ok(shown.map(|session| session.role.to_string()))
}

/// Finds the sessions and accounts behind a request.
fn of(issued: &IssuedSessions, headers: &HeaderMap, uri: &Uri, host: &str) -> Behind {
    let mentions = mentions(headers, uri, host);
    let sessions: Vec<_> = mentions.sessions().filter_map(|session| issued.find(session)).collect();
    let known = sessions.iter().map(|session| session.role.clone()).collect();
    let owners = Owners { known, named: mentions.mentioned() };
    Behind { owners, sessions, ..Behind::default() }
}

fn mentions(headers: &HeaderMap, uri: &Uri, host: &str) -> AccountMentions {
    let cookies = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
    AccountMentions::read(uri.path(), uri.query(), cookies, host)
}
