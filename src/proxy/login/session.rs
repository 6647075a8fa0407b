//! Sessions of the PBX: opened for a login, and exchanged for the cookie of a browser.

use std::error::Error as StdError;
use std::rc::Rc;
use std::sync::Arc;

use http::header::HeaderValue;

use crate::config::{AdminCredentials, Handoff, NodeIndex, PbxConfig, PbxNodes, PerNode};
use crate::model::account::{Language, Role};
use crate::model::credential_mark::CredentialMark;
use crate::model::secret::Secret;
use crate::model::session::{EndReason, SESSION, SessionId};
use crate::observe::Logs;
use crate::observe::metrics::Tally;
use crate::pbx::{
    self, HeldSession, IssuedSession, IssuedSessions, Pbx, SessionChecks, SessionEnd, SessionFilter, SessionLogin,
};
use crate::proxy::context::RequestContext;
use crate::proxy::gate::Gate;
use crate::proxy::shared::{NodeState, PbxState};
use crate::seal::SealKey;
use crate::upstream::Upstream;

/// The sessions that a PBX node opens for logins.
#[derive(Clone)]
pub(in crate::proxy) struct Sessions {
    pbx: Pbx,
    state: Arc<PbxState>,
    checks: SessionChecks,
    handoff: Handoff,
}

/// The parts that a login to the PBX needs before its node is known.
#[derive(Clone, Copy)]
pub(in crate::proxy) struct PbxLogins<'p> {
    pub(in crate::proxy) gate: &'p Gate,
    pub(in crate::proxy) state: &'p PbxState,
    /// `None`: callgate opens no sessions at the node.
    pub(in crate::proxy) nodes: &'p PerNode<Option<Sessions>>,
}

/// The parts that a login to a PBX node needs.
#[derive(Clone, Copy)]
pub(in crate::proxy) struct PbxLogin<'p> {
    pub(in crate::proxy) gate: &'p Gate,
    pub(in crate::proxy) node: NodeIndex,
    pub(in crate::proxy) sessions: &'p Sessions,
    pub(in crate::proxy) settings: &'p PbxConfig,
}

impl<'p> PbxLogins<'p> {
    /// Returns the parts for a node, if callgate opens sessions there.
    pub(super) fn at(self, node: NodeIndex) -> Option<PbxLogin<'p>> {
        let (sessions, settings) = (self.nodes[node].as_ref()?, &self.gate.config().pbx[node]);
        Some(PbxLogin { gate: self.gate, node, sessions, settings })
    }

    /// Returns the parts for the node whose landing page a host has.
    pub(super) fn at_host(self, host: &str) -> Option<PbxLogin<'p>> {
        self.at(self.gate.hosts.pbx_at(host)?)
    }

    /// Returns the parts for the node that answers at a path of callgate's on a host: the only one, or that of the host.
    pub(super) fn answering(self, host: &str) -> Option<PbxLogin<'p>> {
        match self.nodes.are_several() {
            true => self.at_host(host),
            false => self.all().next(),
        }
    }

    /// Returns the parts for each node where callgate opens sessions.
    pub(super) fn all(self) -> impl Iterator<Item = PbxLogin<'p>> {
        self.nodes.indexed().filter_map(move |(node, _)| self.at(node))
    }

    /// Ends all sessions of the caller whose credential has these marks. Returns how many there were.
    pub(super) fn log_out(self, marks: &[CredentialMark], reason: EndReason) -> usize {
        self.state.issued.log_out(marks, reason, &self.gate.logs).len()
    }

    /// Returns the sessions that callgate opened.
    pub(super) fn issued(self) -> &'p IssuedSessions {
        &self.state.issued
    }
}

impl<'p> PbxLogin<'p> {
    /// Returns the name of the node, where there are several.
    pub(in crate::proxy) fn label(self) -> Option<&'p str> {
        self.gate.config().pbx.label(self.node)
    }

    /// Tells whether a host has the landing page of this node.
    pub(super) fn has_host(self, host: &str) -> bool {
        self.gate.hosts.pbx_at(host) == Some(self.node)
    }

    /// Finds a session that callgate has opened at this node.
    fn issued(self, session: &str) -> Option<Arc<IssuedSession>> {
        let nodes = &self.gate.config().pbx;
        self.sessions.state.issued.find(session).filter(|one| one.login.node_in(nodes) == Some(self.node))
    }

    /// Tells whether callgate has opened a session at this node a moment ago.
    pub(super) fn has_just_opened(self, session: &str) -> bool {
        self.sessions.state.issued.is_landing(session) && self.issued(session).is_some()
    }

    /// Tells whether callgate has opened a session at this node and ended it.
    pub(super) fn has_ended(self, session: &str) -> bool {
        self.issued(session).is_some_and(|session| session.is_over())
    }
}

impl Sessions {
    /// Prepares to ask the PBX behind `upstream` with the administrator's credentials.
    pub(in crate::proxy) fn new(
        upstream: &Rc<Upstream>,
        (nodes, node): (&PbxNodes, NodeIndex),
        admin: &AdminCredentials,
        state: Arc<PbxState>,
        tally: Tally,
    ) -> Self {
        let NodeState { breaker, checks } = state.nodes[node].clone();
        let pbx = Pbx::new(Rc::clone(upstream), nodes.label(node), &nodes[node], admin, breaker, tally);
        Self { pbx, state, checks, handoff: nodes[node].handoff }
    }

    /// Opens a session, and remembers whose it is.
    ///
    /// # Errors
    /// When the PBX gives none.
    pub(super) async fn mint(
        &self,
        role: &Role,
        login: SessionLogin,
    ) -> Result<(SessionId, Arc<IssuedSession>), pbx::Error> {
        let id = self.pbx.mint(role).await?;
        // What a link hands over is the session itself.
        let cookie = (self.handoff == Handoff::Link).then(|| Secret::new(id.expose().to_owned()));
        let session = self.state.issued.note(&[id.expose()], cookie, role, login);
        self.state.issued.tell_members(&session).await;
        Ok((id, session))
    }

    /// Opens a session, exchanges its token for the PBX's cookies under the host name that the browser uses, and
    /// remembers whose they are. In the legacy dialect the session needs no exchange.
    ///
    /// # Errors
    /// When the PBX gives no token, or does not take it.
    pub(super) async fn mint_cookies(
        &self,
        role: &Role,
        host: &HeaderValue,
        login: SessionLogin,
    ) -> Result<(Vec<HeaderValue>, Arc<IssuedSession>), pbx::Error> {
        if self.handoff == Handoff::Link {
            let (id, session) = self.mint(role, login).await?;
            return Ok((cookie_of(&id).into_iter().collect(), session));
        }
        let token = self.pbx.mint(role).await?;
        let cookies = self.pbx.exchange(&token, host.clone()).await?;
        let ids: Vec<_> = cookies.iter().filter_map(session_of).collect();
        // The last one is that which the browser keeps.
        let cookie = ids.last().map(|id| Secret::new((*id).to_owned()));
        let session = self.state.issued.note(&ids, cookie, role, login);
        self.state.issued.tell_members(&session).await;
        Ok((cookies, session))
    }

    /// Ends sessions, here and at the PBX.
    pub(in crate::proxy) fn end(&self, filter: &SessionFilter, end: SessionEnd<'_>, logs: &Logs) {
        self.state.issued.end(filter, end, logs);
    }

    /// Opens a session for a WebSocket under the PBX's host. If the caller leaves meanwhile, it ends as soon as it is open.
    ///
    /// # Errors
    /// As [`Sessions::mint_cookies`].
    pub(super) async fn hold(
        &self,
        role: &Role,
        host: &HeaderValue,
        login: SessionLogin,
        logs: &Rc<Logs>,
    ) -> Result<(HeldSession, Arc<IssuedSession>), pbx::Error> {
        let (this, role, host, logs) = (self.clone(), role.clone(), host.clone(), Rc::clone(logs));
        let opening = tokio::task::spawn_local(async move {
            let (_, session) = this.mint_cookies(&role, &host, login).await?;
            Ok((HeldSession::new(Arc::clone(&session), Arc::clone(&this.state.issued), logs), session))
        });
        opening.await.unwrap_or(Err(pbx::Error::BadResponse))
    }

    /// Ends the session of a browser's cookie at the PBX, which callgate did not open.
    ///
    /// # Errors
    /// When the PBX does not confirm it.
    pub(super) async fn log_out_at_pbx(&self, session: &str, host: &HeaderValue) -> Result<(), pbx::Error> {
        self.pbx.log_out(session, host.clone()).await
    }

    /// Tells the PBX the language of the session of these cookies. If it does not take it, the session is still good.
    pub(super) async fn set_language(&self, language: &Language, cookies: &[HeaderValue], context: &RequestContext) {
        if let Err(error) = self.pbx.set_language(language, cookies, context.authority.raw.clone()).await {
            tracing::warn!(id = %context.id, error = &error as &dyn StdError, "the PBX did not take the language");
        }
    }

    /// Returns the client of the PBX.
    pub(super) const fn pbx(&self) -> &Pbx {
        &self.pbx
    }

    /// Returns what the PBX said about the sessions of browsers.
    pub(super) const fn checks(&self) -> &SessionChecks {
        &self.checks
    }

    /// Returns the key of the places that automatic logins lead back to.
    pub(super) fn seal(&self) -> &SealKey {
        &self.state.seal
    }

    /// Returns the tickets of hand-overs.
    pub(super) fn tickets(&self) -> &crate::tickets::Tickets {
        &self.state.tickets
    }
}

/// Writes the cookie as the script of the PBX's `welcome.htm` does: other scripts of its pages may read it.
fn cookie_of(session: &SessionId) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("{SESSION}={}; Path=/; Secure; SameSite=Lax", session.expose())).ok()
}

/// Returns the session id in a `Set-Cookie` line of the PBX.
fn session_of(line: &HeaderValue) -> Option<&str> {
    let (name, id) = line.to_str().ok()?.split(';').next()?.split_once('=')?;
    name.trim().eq_ignore_ascii_case(SESSION).then(|| id.trim().trim_matches('"'))
}
