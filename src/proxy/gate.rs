//! The gate before every login. A login's steps are, in this order:
//!
//! 1. [`Gate::admit`]: no page of another origin, an audit log that takes lines, failures, the limit of the client
//! 2. [`Gate::ask`] and [`Gate::prove`]: the credential, failures again, the limit of the caller
//! 3. [`Gate::choose`]: the account that a key names
//! 4. [`Gate::grant_pbx`] or [`Gate::grant_voximplant`]: the rules, freezes and the PBX node; the limits of what was asked for
//!    and of the account, in one question
//! 5. what the login itself needs: a language, a host for the browser, an entry of the users file
//! 6. [`Gate::spend`]: a credential that works once is marked as used
//! 7. [`Gate::audit_grant`], before the caller is given anything
//!
//! `callgate explain` takes the same steps with [`effects::Effects::Dry`].

mod admit;
pub(super) mod attempt;
pub(super) mod audit;
pub(super) mod caller;
pub(super) mod effects;
mod grant;
pub(super) mod node;
mod prove;

use std::rc::Rc;
use std::sync::Arc;

use http::HeaderMap;

use super::answer::reader::{Reader, wanted_language};
use super::context::{LoginRequest, RequestContext};
use super::error::Error;
use super::hosts::Hosts;
use super::shared::LoginState;
use crate::auth::{AuthRequest, Chain};
use crate::config::{Config, Handoff, MethodKind, PbxConfig};
use crate::message::forwarded_chain::{Contradiction, ForwardedChain};
use crate::model::login::LoginKind;
use crate::model::path::LOGIN_PATH;
use crate::observe::Logs;
use crate::observe::metrics::Tally;
use crate::tls::current::CurrentPolicies;

/// The checks that every login of one worker passes.
pub(super) struct Gate {
    pub(super) hosts: Rc<Hosts>,
    /// What the handshakes of each host ask of clients.
    pub(super) tls: Rc<CurrentPolicies>,
    /// Limits, marks and freezes, which all workers share.
    pub(super) state: Arc<LoginState>,
    pub(super) chain: Chain,
    pub(super) logs: Rc<Logs>,
    pub(super) tally: Tally,
}

impl Gate {
    /// Returns the configuration.
    pub(super) fn config(&self) -> &Config {
        &self.hosts.config
    }

    /// Finds the client of a request. Only believed peers may name another than themselves.
    ///
    /// # Errors
    /// When a believed peer names two clients.
    pub(super) fn identify(
        &self,
        headers: &HeaderMap,
        peer: &Rc<ForwardedChain>,
    ) -> Result<Rc<ForwardedChain>, Contradiction> {
        let (client, server) = (peer.client, &self.config().server);
        if !server.believes(client) {
            return Ok(Rc::clone(peer));
        }
        ForwardedChain::from_headers(client, headers, |hop| server.believes(hop)).map(Rc::new)
    }

    /// Returns the person that a page is for, who asked for it with a query and header fields.
    pub(super) fn reader(&self, query: Option<&str>, headers: &HeaderMap) -> Reader<'_> {
        Reader::new(&self.config().pages, wanted_language(query, headers), self.has_providers())
    }

    // === What the configuration says ===

    /// Tells whether a method is a server's key: an account that it names outside its lists is no guess.
    pub(super) fn is_key(&self, method: &str) -> bool {
        self.config().methods.iter().any(|one| one.name == method && matches!(one.kind, MethodKind::Key(_)))
    }

    /// Tells whether people can log in at an identity provider: then their browsers keep cookies of ours.
    pub(super) fn has_providers(&self) -> bool {
        !self.chain.providers().is_empty()
    }

    /// Tells whether browsers keep cookies of ours, which no upstream shall see.
    pub(super) fn keeps_cookies(&self) -> bool {
        let leads = |pbx: &PbxConfig| pbx.handoff == Handoff::Cookie || pbx.auto.is_some() || !pbx.landings.is_empty();
        self.has_providers() || self.config().pbx.iter().any(leads)
    }

    // === Where to log in ===

    /// Returns the error of a caller that is not proven, with the place to log in.
    pub(super) fn unauthenticated(&self, context: &RequestContext) -> Error {
        Error::Unauthenticated { login: self.login_location(context) }
    }

    /// Returns where a person logs in at an identity provider, if there is one.
    pub(super) fn provider_login(&self, context: &RequestContext) -> Option<String> {
        self.has_providers().then(|| format!("{}{LOGIN_PATH}", context.authority.origin()))
    }

    /// Returns where a person logs in.
    fn login_location(&self, context: &RequestContext) -> Option<String> {
        match self.config().app.as_ref().filter(|app| app.login.is_some()) {
            Some(_) => self.hosts.app_login(&context.authority),
            None => self.provider_login(context),
        }
    }
}

/// Prepares the question to the auth methods.
pub(super) fn ask_of<'a>(kind: LoginKind, request: LoginRequest<'a>, context: &'a RequestContext) -> AuthRequest<'a> {
    AuthRequest {
        login: kind,
        headers: request.headers,
        query: request.query,
        host: &context.authority.raw,
        origin: &context.origin,
        peer: context.end.address,
        certificate: context.end.certificate.as_ref(),
        client_ca: context.end.client_ca.as_ref(),
        id: context.id.header_value(),
        rehearsal: false,
    }
}
