//! The order of a session: what a proven caller is granted, decided whole before anything is spent for it. The host that
//! the browser will be sent to is part of it, so no session is minted that could not be handed over.

use super::accepted::AcceptedLogin;
use super::landing_place::{self, LandingPlace};
use super::selectors::Selectors;
use super::session::PbxLogin;
use crate::auth::{Proof, SingleUse};
use crate::config::{Handoff, HostPattern};
use crate::model::account::{Language, Role};
use crate::model::credential_mark::CredentialMark;
use crate::model::grant::PbxGrant;
use crate::model::principal::Principal;
use crate::proxy::context::RequestContext;
use crate::proxy::error::AccountChoices;
use crate::proxy::error::Error;
use crate::proxy::gate::attempt::Attempt;
use crate::proxy::gate::audit::Facts;
use crate::proxy::gate::caller::Caller;

/// The reason of a refusal where no host is known to send the browser to.
const NO_HOST: &str = "no host of [pbx] hosts is a name to send the browser to";
/// The reason of a refusal at a host that may not be ours.
const FOREIGN_HOST: &str = "neither a certificate nor `hosts` names the host where it begins";

/// The part of a session that the caller asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    /// An address that leads a browser to it.
    Address,
    /// Its id alone.
    Id,
    /// A WebSocket that callgate opens with it.
    Socket,
}

/// A session that a caller is granted. Its credential is not spent yet.
pub(in crate::proxy) struct SessionOrder {
    principal: Principal,
    /// The credential, if it works once.
    once: Option<SingleUse>,
    pub(in crate::proxy) grant: PbxGrant,
    pub(in crate::proxy) language: Option<Language>,
    /// The PBX's host for the browser; `None` where the id alone is asked for.
    pub(in crate::proxy) host: Option<String>,
    /// The path on that host at which the login ends; `None`: the landing page.
    pub(in crate::proxy) page: Option<String>,
    /// The marks of cookies that the app gives the browser together with the session.
    new_marks: Vec<CredentialMark>,
}

impl SessionOrder {
    /// Adds the marks of cookies that the app gives the browser together with the session.
    pub(super) fn with_marks(self, new_marks: Vec<CredentialMark>) -> Self {
        Self { new_marks, ..self }
    }

    fn facts(&self) -> Facts<'_> {
        Facts::of(&self.principal).of_pbx_grant(&self.grant)
    }

    /// Returns the PBX's host for the browser.
    pub(super) fn host(&self) -> Result<&str, Error> {
        self.host.as_deref().ok_or(Error::Forbidden)
    }
}

/// Decides what a proven caller is granted.
///
/// # Errors
/// When it may have nothing of what it asks for, or a limit is used up.
pub(super) async fn decide(
    login: PbxLogin<'_>,
    proof: Proof,
    selectors: &Selectors,
    delivery: Delivery,
    attempt: &Attempt<'_>,
) -> Result<SessionOrder, Error> {
    let (is_ambient, once) = (proof.is_ambient(), proof.single_use().cloned());
    let principal = login.gate.choose(proof, &selectors.requested, attempt)?;
    let order = decide_for(login, principal, selectors, delivery, attempt).await;
    // A link of ours brings the credentials that a browser sends by itself, and no others.
    let order = order.map_err(|error| if is_ambient { error } else { error.without_links() })?;
    Ok(SessionOrder { once, ..order })
}

/// Decides what a caller with all its claims is granted, whose credential works more than once.
///
/// # Errors
/// As [`decide`].
pub(super) async fn decide_for(
    login: PbxLogin<'_>,
    principal: Principal,
    selectors: &Selectors,
    delivery: Delivery,
    attempt: &Attempt<'_>,
) -> Result<SessionOrder, Error> {
    let choices = |among| AccountChoices::PbxByLink { among, options: selectors.options.clone() };
    let grant = login.gate.grant_pbx(&principal, &selectors.requested, choices, attempt).await?;
    let language = selectors.check_language(&grant, &login.settings.languages)?;
    let order = SessionOrder { principal, once: None, grant, language, host: None, page: None, new_marks: Vec::new() };
    match delivery {
        Delivery::Id => return Ok(order),
        Delivery::Socket => {
            let host = known_host(login, &order, attempt)?;
            return Ok(SessionOrder { host: Some(host), ..order });
        }
        Delivery::Address => {}
    }
    let place = landing_place::find(login, &selectors.options, attempt.context)?;
    lead_to(login, order, place, attempt)
}

/// Lets an order lead a browser to a place at the PBX.
///
/// # Errors
/// When no host is known to send it to, or a hand-over may not begin where it is.
pub(super) fn lead_to(
    login: PbxLogin<'_>,
    order: SessionOrder,
    place: LandingPlace,
    attempt: &Attempt<'_>,
) -> Result<SessionOrder, Error> {
    let order = SessionOrder { page: place.page, ..order };
    let host = find_host(login, &order, place.host, attempt)?;
    Ok(SessionOrder { host: Some(host), ..order })
}

/// Finds the PBX's host for an account.
fn known_host(login: PbxLogin<'_>, order: &SessionOrder, attempt: &Attempt<'_>) -> Result<String, Error> {
    find_pbx_host(login, order.grant.role(), attempt.context).ok_or_else(|| {
        tracing::warn!(account = %order.grant.role(), "{NO_HOST}");
        login.gate.audit_refusal(attempt, &order.facts(), NO_HOST);
        Error::Forbidden
    })
}

/// Finds the host that the browser is sent to, and checks that a hand-over may begin where it is. `wanted`: the host that an
/// automatic login leads back to, or that a redirect of the app names.
fn find_host(
    login: PbxLogin<'_>,
    order: &SessionOrder,
    wanted: Option<String>,
    attempt: &Attempt<'_>,
) -> Result<String, Error> {
    let host = wanted.map_or_else(|| known_host(login, order, attempt), Ok)?;
    if !may_begin_here(login, order, attempt.context) {
        login.gate.audit_refusal(attempt, &order.facts(), FOREIGN_HOST);
        return Err(Error::Misdirected);
    }
    Ok(host)
}

/// Finds the host name under which the browser meets the PBX: the one it is at; else the granted domain, by which the PBX
/// picks the tenant; else the first that is configured.
fn find_pbx_host(login: PbxLogin<'_>, role: &Role, context: &RequestContext) -> Option<String> {
    let own = &context.authority.host;
    if login.gate.hosts.is_pbx_host(own) {
        return Some(own.clone());
    }
    let upstream = &login.settings.upstream;
    let domain = role.domain().as_str();
    if upstream.lists(domain) {
        return Some(domain.to_owned());
    }
    upstream.hosts.iter().find_map(HostPattern::exact).map(str::to_owned)
}

/// Tells whether a browser may begin a hand-over where it is. It goes back there, and that host vouches for it: so the
/// host must be known to be ours.
fn may_begin_here(login: PbxLogin<'_>, order: &SessionOrder, context: &RequestContext) -> bool {
    (login.settings.handoff == Handoff::Link && order.page.is_none())
        || login.gate.is_key(&order.principal.method)
        || login.gate.hosts.are_ours(&context.authority.host)
}

/// Spends the caller's credential, if it works once. To mark it takes the disk a while, so freezes are looked at again.
///
/// # Errors
/// When it was used before, cannot be marked, or the account was frozen meanwhile.
pub(in crate::proxy) async fn spend(
    login: PbxLogin<'_>,
    order: &SessionOrder,
    attempt: &Attempt<'_>,
) -> Result<(), Error> {
    let (gate, facts) = (login.gate, order.facts());
    gate.spend(order.once.as_ref(), &facts, attempt).await?;
    gate.refuse_frozen(gate.state.freezes.covers_role(order.grant.role()), &facts, attempt)
}

/// Accepts an order: spends the credential.
///
/// # Errors
/// As [`spend`].
pub(super) async fn accept(
    login: PbxLogin<'_>,
    order: SessionOrder,
    attempt: &Attempt<'_>,
) -> Result<AcceptedLogin, Error> {
    let facts = order.facts();
    let pending = login.gate.watch(attempt, &facts);
    let spent = spend(login, &order, attempt).await;
    pending.settle();
    spent?;
    let meets_at = order.host.or_else(|| find_pbx_host(login, order.grant.role(), attempt.context));
    Ok(AcceptedLogin {
        caller: Caller::of(&order.principal, attempt).with_marks(order.new_marks),
        meets_at: meets_at.map(|host| attempt.context.authority.with_host(&host)),
        grant: order.grant,
        language: order.language,
        page: order.page,
    })
}
