//! Sessions of the PBX: opened for a login, and exchanged for the cookie of a browser.

use std::error::Error as StdError;
use std::rc::Rc;
use std::sync::Arc;

use http::Response;
use http::header::{self, HeaderValue};
use tokio::time::Instant;

use crate::config::{AdminCredentials, PbxConfig};
use crate::exchange::Body;
use crate::model::account::{Language, Role};
use crate::model::freeze_target::FreezeTarget;
use crate::model::session::{SESSION, SessionId};
use crate::observe::metrics::Tally;
use crate::pbx::{self, Pbx};
use crate::proxy::answer::page;
use crate::proxy::context::RequestContext;
use crate::proxy::error::Error;
use crate::proxy::gate::Gate;
use crate::proxy::shared::PbxState;
use crate::upstream::Upstream;

/// The sessions that the PBX opens for logins.
pub(in crate::proxy) struct Sessions {
    pbx: Pbx,
    state: Arc<PbxState>,
}

/// The parts that a login to the PBX needs.
#[derive(Clone, Copy)]
pub(in crate::proxy) struct PbxLogin<'p> {
    pub(in crate::proxy) gate: &'p Gate,
    pub(in crate::proxy) sessions: &'p Sessions,
    pub(in crate::proxy) settings: &'p PbxConfig,
}

/// A session with what its hand-over needs.
pub(super) struct MintedSession {
    pub(super) id: SessionId,
    pub(super) role: Role,
    pub(super) language: Option<Language>,
    /// The PBX's host for the browser; `None` where the id alone was asked for.
    pub(super) host: Option<String>,
    /// Whether a server with a key asked, which answers for the browser that it sends.
    pub(super) is_by_key: bool,
}

impl MintedSession {
    /// Returns the PBX's host for the browser.
    pub(super) fn host(&self) -> Result<&str, Error> {
        self.host.as_deref().ok_or(Error::Forbidden)
    }
}

impl Sessions {
    /// Prepares to ask the PBX behind `upstream` with the administrator's credentials.
    pub(in crate::proxy) fn new(
        upstream: &Rc<Upstream>,
        settings: &PbxConfig,
        admin: &AdminCredentials,
        state: Arc<PbxState>,
        tally: Tally,
    ) -> Self {
        let pbx = Pbx::new(Rc::clone(upstream), settings, admin, Arc::clone(&state.breaker), tally);
        Self { pbx, state }
    }

    /// Opens a session, and remembers whose it is.
    ///
    /// # Errors
    /// When the PBX gives none.
    pub(super) async fn mint(&self, role: &Role) -> Result<SessionId, pbx::Error> {
        let session = self.pbx.mint(role).await?;
        self.state.issued.note(&session, role, Instant::now());
        Ok(session)
    }

    /// Exchanges a token for the PBX's cookies under the host name that the browser uses, and remembers whose they are.
    ///
    /// # Errors
    /// When the PBX does not take the token.
    async fn exchange(
        &self,
        token: &SessionId,
        owner: &FreezeTarget,
        host: &HeaderValue,
    ) -> Result<Vec<HeaderValue>, pbx::Error> {
        let owner = self.state.issued.account(token.expose(), Instant::now()).or_else(|| match owner {
            FreezeTarget::Account(account) => Some(Role::User(account.clone())),
            FreezeTarget::Domain(_) | FreezeTarget::User(_) => None,
        });
        let cookies = self.pbx.exchange(token, host.clone()).await?;
        if let Some(owner) = &owner {
            self.remember_cookies(&cookies, owner);
        }
        Ok(cookies)
    }

    /// Remembers whose the sessions are that the PBX opens for a token.
    fn remember_cookies(&self, cookies: &[HeaderValue], owner: &Role) {
        let pairs = cookies.iter().filter_map(|line| line.to_str().ok()?.split(';').next()?.split_once('='));
        for (_, session) in pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case(SESSION)) {
            self.state.issued.note_text(session.trim().trim_matches('"'), owner, Instant::now());
        }
    }

    /// Returns the tickets of hand-overs.
    pub(super) fn tickets(&self) -> &crate::tickets::Tickets {
        &self.state.tickets
    }
}

/// Exchanges the token for the PBX's cookie, and lets the browser go on to the landing page with it.
///
/// That page takes no language from its address, so the PBX is told the language of the session. If it does not take the
/// language, the session is still good.
pub(super) async fn land(
    login: PbxLogin<'_>,
    token: &SessionId,
    language: Option<&Language>,
    owner: &FreezeTarget,
    context: &RequestContext,
) -> Result<Response<Body>, Error> {
    let PbxLogin { gate, sessions, settings } = login;
    if gate.state.freezes.covers(owner) {
        return Err(Error::Forbidden);
    }
    let host = &context.authority.raw;
    let cookies = sessions.exchange(token, owner, host).await?;
    if let Some(language) = language
        && let Err(error) = sessions.pbx.set_language(language, &cookies, host.clone()).await
    {
        tracing::warn!(id = %context.id, error = &error as &dyn StdError, "the PBX did not take the language");
    }
    let mut response = page::continue_to(&settings.landing).respond();
    for cookie in cookies {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}
