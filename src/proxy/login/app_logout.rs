//! `PBX-Logout: 1` on an answer of the app: its user has logged out, so the sessions of the PBX end that were opened for the
//! same credential. The app is not asked who that was: it does not know the credential any more.

use super::redirect::RedirectContext;
use super::session::PbxLogins;
use crate::model::session::EndReason;
use crate::proxy::context::RequestContext;

/// Ends the sessions of the caller that an answer of the app logs out.
pub(in crate::proxy) fn end_sessions(logins: PbxLogins<'_>, asked: &RedirectContext, context: &RequestContext) {
    if !asked.logs_out() {
        return;
    }
    let gate = logins.gate;
    let ended = logins.log_out(&gate.marks_of(asked.request(), context), EndReason::App);
    tracing::debug!(id = %context.id, ended, "the app logged a user out");
}
