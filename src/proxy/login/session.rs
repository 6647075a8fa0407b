//! Sessions of the PBX: opened for a login, and exchanged for the cookie of a browser.

use std::error::Error as StdError;
use std::rc::Rc;
use std::sync::Arc;

use http::header::HeaderValue;
use tokio::time::Instant;

use crate::config::{AdminCredentials, PbxConfig};
use crate::model::account::{Language, Role};
use crate::model::session::{SESSION, SessionId};
use crate::observe::metrics::Tally;
use crate::pbx::{self, Pbx};
use crate::proxy::context::RequestContext;
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

    /// Opens a session, exchanges its token for the PBX's cookies under the host name that the browser uses, and
    /// remembers whose they are.
    ///
    /// # Errors
    /// When the PBX gives no token, or does not take it.
    pub(super) async fn mint_cookies(&self, role: &Role, host: &HeaderValue) -> Result<Vec<HeaderValue>, pbx::Error> {
        let token = self.mint(role).await?;
        let cookies = self.pbx.exchange(&token, host.clone()).await?;
        self.remember_cookies(&cookies, role);
        Ok(cookies)
    }

    /// Tells the PBX the language of the session of these cookies. If it does not take it, the session is still good.
    pub(super) async fn set_language(&self, language: &Language, cookies: &[HeaderValue], context: &RequestContext) {
        if let Err(error) = self.pbx.set_language(language, cookies, context.authority.raw.clone()).await {
            tracing::warn!(id = %context.id, error = &error as &dyn StdError, "the PBX did not take the language");
        }
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
