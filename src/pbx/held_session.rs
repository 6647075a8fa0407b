//! Sessions that callgate keeps to itself, each for one WebSocket.

use std::rc::Rc;
use std::sync::Arc;

use http::HeaderValue;

use super::{Error, IssuedSession, IssuedSessions, SessionFilter};
use crate::model::session::{EndReason, SESSION};
use crate::observe::Logs;

/// A session of one WebSocket. It is ended when this is dropped.
#[derive(Debug)]
pub(crate) struct HeldSession {
    session: Arc<IssuedSession>,
    issued: Arc<IssuedSessions>,
    logs: Rc<Logs>,
}

impl HeldSession {
    /// Takes care of a session that was just opened.
    #[must_use]
    pub(crate) fn new(session: Arc<IssuedSession>, issued: Arc<IssuedSessions>, logs: Rc<Logs>) -> Self {
        session.hold();
        Self { session, issued, logs }
    }

    /// Returns the session as the table knows it.
    #[must_use]
    pub(crate) const fn session(&self) -> &Arc<IssuedSession> {
        &self.session
    }

    /// Returns the value of `Cookie` by which the PBX knows the session.
    ///
    /// # Errors
    /// When it is not known, or no text of a field.
    pub(crate) fn cookie(&self) -> Result<HeaderValue, Error> {
        let cookie = self.session.cookie().ok_or(Error::BadResponse)?;
        let cookie = HeaderValue::try_from(format!("{SESSION}={}", cookie.expose()));
        let mut cookie = cookie.map_err(|_| Error::BadResponse)?;
        cookie.set_sensitive(true);
        Ok(cookie)
    }
}

impl Drop for HeldSession {
    fn drop(&mut self) {
        self.issued.end(&SessionFilter::number(self.session.number), EndReason::Socket.into(), &self.logs);
    }
}
