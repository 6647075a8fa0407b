//! Who is frozen, as the path of a request asks.

use std::sync::Arc;

use http::Uri;
use http::header::{COOKIE, HeaderMap, HeaderValue};
use tokio::time::Instant;

use super::Proxy;
use super::error::Error;
use crate::freeze::{Leash, Owners};
use crate::model::account::Role;
use crate::model::freeze_target::FreezeTarget;
use crate::model::mentions::AccountMentions;
use crate::model::session::SESSION;

impl Proxy {
    /// Refuses a login to a frozen account.
    pub(super) fn thawed(&self, whom: &FreezeTarget) -> Result<(), Error> {
        if self.shared.frozen.has_whom(whom) { Err(Error::Forbidden) } else { Ok(()) }
    }

    /// Refuses a request to the PBX with the session of somebody who is frozen: with it, calls could be made.
    pub(super) fn refuse_frozen(&self, headers: &HeaderMap, uri: &Uri, host: &str) -> Result<(), Error> {
        let frozen = &self.shared.frozen;
        if frozen.is_any() && frozen.has_owner(&self.owners(headers, uri, host)) {
            return Err(Error::Forbidden);
        }
        Ok(())
    }

    /// Remembers whose the sessions are that the PBX opens for a token.
    pub(super) fn note_sessions(&self, set: &[HeaderValue], owner: &Role) {
        let pairs = set.iter().filter_map(|line| line.to_str().ok()?.split(';').next()?.split_once('='));
        for (_, session) in pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case(SESSION)) {
            self.shared.issued.note_text(session.trim().trim_matches('"'), owner, Instant::now());
        }
    }

    /// Binds a tunnel to those it is for.
    pub(super) fn leash(&self, owners: Owners) -> Leash {
        Leash::new(Arc::clone(&self.shared.frozen), owners)
    }

    /// Finds the accounts behind a request to the PBX: those its sessions went out to, and those that it may name.
    pub(super) fn owners(&self, headers: &HeaderMap, uri: &Uri, host: &str) -> Owners {
        let cookies = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
        let spelled = AccountMentions::read(uri.path(), uri.query(), cookies, host);
        let now = Instant::now();
        let known = spelled.sessions().filter_map(|session| self.shared.issued.account(session, now)).collect();
        Owners { known, named: spelled.meant() }
    }
}
