//! The order of a session: what a proven caller is granted, decided whole before anything is spent for it. The host that
//! the browser will be sent to is part of it, so no session is minted that could not be handed over.

use super::accepted::AcceptedLogin;
use super::auto;
use super::landing_place::{self, LandingPlace};
use super::selectors::Selectors;
use super::session::{PbxLogin, PbxLogins};
use crate::auth::{Proof, SingleUse};
use crate::config::{Handoff, HostPattern, NodeIndex};
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
use crate::proxy::gate::node::WantedNode;

/// The reason of a refusal where no host is known to send the browser to.
const NO_HOST: &str = "no host of [pbx] hosts is a name to send the browser to";
/// The reason of a refusal at a host that may not be ours.
const FOREIGN_HOST: &str = "neither a certificate nor `hosts` names the host where it begins";

/// The part of a session that the caller asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    /// Its browser is led to it.
    Browser,
    /// Its browser is led to it from the app, to a place that is found later.
    Redirect,
    /// An address that leads a browser to it, beside the id.
    Address,
    /// Its id alone.
    Id,
    /// A WebSocket that callgate opens with it.
    Socket,
}

impl Delivery {
    /// Returns the nodes to which the login is bound. `here`: that of the host. `back`: that of the page to come back to.
    const fn bounds(self, here: Option<NodeIndex>, back: Option<NodeIndex>) -> [Option<NodeIndex>; 2] {
        match self {
            Self::Redirect => [None, None],
            Self::Browser => [None, back],
            // What a page or a program gets itself stays at the node of its host.
            Self::Id | Self::Socket => [here, None],
            Self::Address => [here, back],
        }
    }
}

/// A session that a caller is granted. Its credential is not spent yet.
pub(in crate::proxy) struct SessionOrder<'p> {
    /// The node that opens it.
    pub(in crate::proxy) login: PbxLogin<'p>,
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

impl SessionOrder<'_> {
    /// Adds the marks of cookies that the app gives the browser together with the session.
    pub(super) fn with_marks(self, new_marks: Vec<CredentialMark>) -> Self {
        Self { new_marks, ..self }
    }

    fn facts(&self) -> Facts<'_> {
        Facts::of(&self.principal).of_pbx_grant(&self.grant).at_node(self.login.label())
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
pub(super) async fn decide<'p>(
    logins: PbxLogins<'p>,
    proof: Proof,
    selectors: &Selectors,
    delivery: Delivery,
    attempt: &Attempt<'_>,
) -> Result<SessionOrder<'p>, Error> {
    let (is_ambient, once) = (proof.is_ambient(), proof.single_use().cloned());
    let principal = logins.gate.choose(proof, &selectors.requested, attempt)?;
    let order = decide_for(logins, principal, selectors, delivery, None, attempt).await;
    // A link of ours brings the credentials that a browser sends by itself, and no others.
    let order = order.map_err(|error| if is_ambient { error } else { error.without_links() })?;
    Ok(SessionOrder { once, ..order })
}

/// Decides what a caller with all its claims is granted, whose credential works more than once. `named`: the node that a
/// redirect of the app names.
///
/// # Errors
/// As [`decide`].
pub(super) async fn decide_for<'p>(
    logins: PbxLogins<'p>,
    principal: Principal,
    selectors: &Selectors,
    delivery: Delivery,
    named: Option<NodeIndex>,
    attempt: &Attempt<'_>,
) -> Result<SessionOrder<'p>, Error> {
    let (gate, options, context) = (logins.gate, &selectors.options, attempt.context);
    let choices = |among| AccountChoices::PbxByLink { among, options: options.clone() };
    let here = gate.hosts.pbx_at(&context.authority.host);
    let back = auto::place_of(logins, options.back.as_deref(), context);
    let back_at = back.as_ref().map(|(at, _)| at.node);
    let wanted = WantedNode { named: named.or(back_at).or(here), bounds: delivery.bounds(here, back_at) };
    let (grant, node) = gate.grant_pbx(&principal, &selectors.requested, choices, wanted, attempt).await?;
    let login = logins.at(node).ok_or(Error::NotFound)?;
    let language = match &options.language {
        // The app's page may know more languages than the PBX.
        Some(language) if delivery == Delivery::Redirect && !login.settings.languages.contains(language) => None,
        _ => selectors.check_language(&grant, &login.settings.languages)?,
    };
    let order =
        SessionOrder { login, principal, once: None, grant, language, host: None, page: None, new_marks: Vec::new() };
    match delivery {
        Delivery::Redirect | Delivery::Id => return Ok(order),
        Delivery::Socket => {
            let host = known_host(&order, attempt)?;
            return Ok(SessionOrder { host: Some(host), ..order });
        }
        Delivery::Browser | Delivery::Address => {}
    }
    let place = landing_place::find(login, options, back.map(|(_, place)| place))?;
    lead_to(order, place, attempt)
}

/// Refuses an order, and audits that.
pub(super) fn refuse(order: &SessionOrder<'_>, reason: &str, error: Error, attempt: &Attempt<'_>) -> Error {
    order.login.gate.audit_refusal(attempt, &order.facts(), reason);
    error
}

/// Lets an order lead a browser to a place at its node.
///
/// # Errors
/// When no host is known to send it to, or a hand-over may not begin where it is.
pub(super) fn lead_to<'p>(
    order: SessionOrder<'p>,
    place: LandingPlace,
    attempt: &Attempt<'_>,
) -> Result<SessionOrder<'p>, Error> {
    let order = SessionOrder { page: place.page, ..order };
    let host = find_host(&order, place.host, attempt)?;
    Ok(SessionOrder { host: Some(host), ..order })
}

/// Finds the host of an order's node for its account.
fn known_host(order: &SessionOrder<'_>, attempt: &Attempt<'_>) -> Result<String, Error> {
    find_pbx_host(order.login, order.grant.role(), attempt.context).ok_or_else(|| {
        tracing::warn!(account = %order.grant.role(), pbx = order.login.label(), "{NO_HOST}");
        refuse(order, NO_HOST, Error::Forbidden, attempt)
    })
}

/// Finds the host that the browser is sent to, and checks that a hand-over may begin where it is. `wanted`: the host that an
/// automatic login leads back to, or that a redirect of the app names.
fn find_host(order: &SessionOrder<'_>, wanted: Option<String>, attempt: &Attempt<'_>) -> Result<String, Error> {
    let host = wanted.map_or_else(|| known_host(order, attempt), Ok)?;
    if !may_begin_here(order, attempt.context) {
        return Err(refuse(order, FOREIGN_HOST, Error::Misdirected, attempt));
    }
    Ok(host)
}

/// Finds the host name under which the browser meets the node: the one it is at; else the granted domain, by which the PBX
/// picks the tenant; else the first that is configured.
fn find_pbx_host(login: PbxLogin<'_>, role: &Role, context: &RequestContext) -> Option<String> {
    let own = &context.authority.host;
    if login.has_host(own) {
        return Some(own.clone());
    }
    let domain = role.domain().as_str();
    if login.settings.upstream.lists(domain) && is_at(login, domain) {
        return Some(domain.to_owned());
    }
    login.settings.upstream.hosts.iter().find_map(HostPattern::exact).map(str::to_owned)
}

/// Tells whether no other node has a host: one of two wildcards may cover a part of the other.
pub(super) fn is_at(login: PbxLogin<'_>, host: &str) -> bool {
    !login.gate.config().pbx.are_several() || login.has_host(host)
}

/// Tells whether a browser may begin a hand-over where it is. It goes back there, and that host vouches for it: so the
/// host must be known to be ours.
fn may_begin_here(order: &SessionOrder<'_>, context: &RequestContext) -> bool {
    let gate = order.login.gate;
    (order.login.settings.handoff == Handoff::Link && order.page.is_none())
        || gate.is_key(&order.principal.method)
        || gate.hosts.are_ours(&context.authority.host)
}

/// Spends the caller's credential, if it works once. To mark it takes the disk a while, so freezes are looked at again.
///
/// # Errors
/// When it was used before, cannot be marked, or the account was frozen meanwhile.
pub(in crate::proxy) async fn spend(order: &SessionOrder<'_>, attempt: &Attempt<'_>) -> Result<(), Error> {
    let (gate, facts) = (order.login.gate, order.facts());
    gate.spend(order.once.as_ref(), &facts, attempt).await?;
    gate.refuse_frozen(gate.state.freezes.covers_role(order.grant.role()), &facts, attempt)
}

/// Accepts an order: spends the credential.
///
/// # Errors
/// As [`spend`].
pub(super) async fn accept(order: SessionOrder<'_>, attempt: &Attempt<'_>) -> Result<AcceptedLogin, Error> {
    let (login, facts) = (order.login, order.facts());
    let pending = login.gate.watch(attempt, &facts);
    let spent = spend(&order, attempt).await;
    pending.settle();
    spent?;
    let meets_at = order.host.or_else(|| find_pbx_host(login, order.grant.role(), attempt.context));
    Ok(AcceptedLogin {
        caller: Caller::of(&order.principal, attempt).with_marks(order.new_marks),
        meets_at: meets_at.map(|host| attempt.context.authority.with_host(&host)),
        grant: order.grant,
        language: order.language,
        page: order.page,
        node: login.label().map(str::to_owned),
    })
}
