//! Passes requests on to an upstream, and the answers back. Neither is changed beyond what RFC 9110 asks of a proxy.

pub(super) mod handshake;
mod next_hop;
mod owners;
mod password_login;
pub(super) mod route;
mod shield;

use std::cell::Cell;
use std::mem;
use std::rc::Rc;
use std::sync::Arc;

use http::{Request, Response, Version};

use self::next_hop::{AddedFields, Expected, keep_apart, may_be_empty, prepare, receive, switch};
use self::owners::{Behind, SessionsAt};
use self::password_login::UnjudgedCredential;
use self::route::Destination;
use self::shield::Stranger;
use super::context::RequestContext;
use super::error::Error;
use super::gate::Gate;
use super::hosts::{Hosts, app_upstream};
use super::login::redirect::RedirectContext;
use super::shared::{self, SharedState};
use crate::config::{NodeIndex, PbxConfig, PerNode, UpstreamConfig};
use crate::exchange::{Body, ClientConnection, Exchange, TunnelGuard};
use crate::freeze::FreezeGuard;
use crate::limit::client_key;
use crate::message::cookies;
use crate::message::target::Authority;
use crate::model::path;
use crate::model::upstream_name::UpstreamName;
use crate::observe::metrics::Tally;
use crate::pbx::IssuedSessions;
use crate::tls::current::PolicyGuard;
use crate::upstream::{self, Connector, RequestBody, Requester, Upstream, UpstreamResponse};

/// The upstreams, and the routes to them.
pub(super) struct Forward {
    hosts: Rc<Hosts>,
    app: Option<Rc<Upstream>>,
    pbx: PerNode<Rc<Upstream>>,
    /// The PBX nodes again, for callgate's own requests: the administrator's password and a client's request never share a
    /// connection.
    pbx_logins: PerNode<Rc<Upstream>>,
    /// The sessions that went out, by which the owner of a request to the PBX is found.
    issued: Arc<IssuedSessions>,
}

/// A request on its way to an upstream.
struct Outbound<'f> {
    upstream: &'f Rc<Upstream>,
    request: Request<RequestBody>,
    added: AddedFields,
    expected: Expected,
    /// The sessions and accounts that a tunnel would be for.
    behind: Behind,
    /// The credential for the PBX that its answer judges.
    credential: Option<UnjudgedCredential>,
    redirect: Option<Box<RedirectContext>>,
}

/// The answer of an upstream, and what a redirect of the app needs to be given a session.
pub(super) type Forwarded = (Response<Body>, Option<Box<RedirectContext>>);

impl Forward {
    /// Connects a configuration's upstreams. Those that are configured as `before` keep their idle connections.
    pub(super) fn new(hosts: &Rc<Hosts>, shared: &SharedState, before: Option<&Self>, tally: &Tally) -> Self {
        let config = &*hosts.config;
        let idle = config.server.timeouts.body_idle;
        let new = |connector: &Connector, upstream: &UpstreamConfig, side| {
            Upstream::new(connector.clone(), upstream.timeouts, idle, side, tally)
        };
        let may_keep = |before: &Self, known: &UpstreamConfig, upstream| {
            shared::is_same((&before.hosts.config, known), (config, upstream))
        };
        let app = app_upstream(config).zip(shared.connectors.app.as_ref()).map(|(app, connector)| {
            let kept = before.and_then(|before| {
                let known = app_upstream(&before.hosts.config)?;
                before.app.as_ref().filter(|_| may_keep(before, known, app))
            });
            kept.map_or_else(|| new(connector, app, UpstreamName::App), Rc::clone)
        });
        let pbx_nodes = |of: fn(&Self) -> &PerNode<Rc<Upstream>>| {
            let nodes = config.pbx.indexed().map(|(node, PbxConfig { name, upstream, .. })| {
                let kept = before.and_then(|before| {
                    let (known, nodes) = (before.hosts.config.pbx.named(name)?, &before.hosts.config.pbx);
                    may_keep(before, &nodes[known].upstream, upstream).then(|| &of(before)[known])
                });
                kept.map_or_else(|| new(&shared.connectors.pbx[node], upstream, UpstreamName::Pbx), Rc::clone)
            });
            nodes.collect()
        };
        let (pbx, pbx_logins) = (pbx_nodes(|one| &one.pbx), pbx_nodes(|one| &one.pbx_logins));
        Self { app, pbx, pbx_logins, hosts: Rc::clone(hosts), issued: Arc::clone(&shared.pbx.issued) }
    }

    /// Returns the upstream of the app.
    pub(super) const fn app(&self) -> Option<&Rc<Upstream>> {
        self.app.as_ref()
    }

    /// Returns the upstreams of the PBX nodes.
    pub(super) const fn pbx(&self) -> &PerNode<Rc<Upstream>> {
        &self.pbx
    }

    /// Returns the upstreams of the PBX nodes for callgate's own requests.
    pub(super) const fn pbx_logins(&self) -> &PerNode<Rc<Upstream>> {
        &self.pbx_logins
    }

    /// Closes the upstream connections that no request will be sent over, once a `successor` is in its place.
    pub(super) fn retire(&self, successor: &Self) {
        let is_kept = |upstream: &&Rc<Upstream>| successor.upstreams().any(|kept| Rc::ptr_eq(kept, upstream));
        for upstream in self.upstreams().filter(|upstream| !is_kept(upstream)) {
            upstream.retire();
        }
    }

    /// Closes upstream connections that have been idle for too long.
    pub(super) fn sweep(&self) {
        for upstream in self.upstreams() {
            upstream.sweep();
        }
    }

    fn upstreams(&self) -> impl Iterator<Item = &Rc<Upstream>> {
        self.app.iter().chain(&self.pbx).chain(&self.pbx_logins)
    }

    /// Finds the upstream of a request by its host and the canonical copy of its path.
    fn route(&self, authority: &Authority, path: &str) -> Result<(Destination, &Rc<Upstream>), Error> {
        let to = self.hosts.route(&authority.host, path).ok_or(Error::Misdirected)?;
        let upstream = match to {
            Destination::App => self.app.as_ref(),
            Destination::Pbx(node) => Some(&self.pbx[node]),
        };
        upstream.map(|upstream| (to, upstream)).ok_or(Error::Misdirected)
    }

    /// Passes a request on, and the answer back. `gives_sessions`: a redirect to the landing page may be given one.
    ///
    /// # Errors
    /// When the request is refused, or the upstream gives no answer.
    pub(super) async fn pass(
        &self,
        gate: &Gate,
        request: &mut Request<RequestBody>,
        connection: &ClientConnection,
        context: &RequestContext,
        exchange: &mut Exchange,
        gives_sessions: bool,
    ) -> Result<Forwarded, Error> {
        // HTTP/1.0 has no interim answers (RFC 9110 §15.2), and hyper writes none in HTTP/2.
        let hears = request.version() == Version::HTTP_11;
        if self.hosts.config.pbx.iter().any(|pbx| shield::of_stranger(pbx, context).is_some()) {
            Box::pin(self.check_stranger(gate, request, context, exchange)).await?;
        }
        if request.version() == Version::HTTP_2 && may_be_empty(request) {
            Box::pin(request.body_mut().begin()).await;
        }
        if gate.state.freezes.has_any() && self.issued.has_members() {
            Box::pin(self.learn_owners(request, context)).await?;
        }
        let Outbound { upstream, request, added, expected, behind, credential, redirect } =
            self.outbound(gate, request, context, exchange, gives_sessions)?;
        let relay = |interim| connection.side_channel.interims.put(interim);
        // The connection of a proxy carries many clients, which must not share an upstream connection.
        let bound = Rc::ptr_eq(&context.origin, &connection.origin).then_some(&connection.bound);
        let sent = Cell::default();
        let client = upstream::SendContext {
            requester: requester(connection, context),
            ledger: Some(Arc::clone(&connection.ledger)),
            on_interim: if hears { Some(&relay) } else { None },
            bound,
            sent: Some(&sent),
            added: &added,
        };
        let answer = upstream.send_for(client, request).await?;
        exchange.set_sent_upstream(sent.get());
        if let Some(credential) = credential {
            credential.note_answer(&gate.state.limits, answer.status());
        }
        if let UpstreamResponse::Final(response) = &answer {
            behind.note_answer(response.status(), &self.issued, &gate.logs);
        }
        let response = match answer {
            UpstreamResponse::Final(response) => response,
            UpstreamResponse::Upgraded(head, upgraded) => {
                let freeze = FreezeGuard::new(Arc::clone(&gate.state.freezes), behind.owners);
                let policy = PolicyGuard::new(&gate.tls, &connection.tls.policy, &context.authority.host);
                let (sessions, unissued) = (behind.sessions, behind.unissued);
                let guard = TunnelGuard { freeze, policy, sessions, unissued, held: None };
                return Ok((switch(head, upgraded, &expected, guard, connection, exchange)?, None));
            }
        };
        if matches!(expected, Expected::Connect(_)) && response.status().is_success() {
            // To the client that would mean that its stream is a WebSocket now (RFC 9113 §8.5).
            return Err(upstream::Error::BadResponse("it answered 2xx to a request for a WebSocket").into());
        }
        let (mut head, relay) = response.into_parts();
        let hints = receive(&mut head)?;
        let response = Response::from_parts(head, Body::relay(relay));
        Ok((response, redirect.map(|redirect| redirect.with(hints))))
    }

    /// Refuses a stranger's request to the PBX that the shield of its node does not let through.
    async fn check_stranger(
        &self,
        gate: &Gate,
        request: &mut Request<RequestBody>,
        context: &RequestContext,
        exchange: &mut Exchange,
    ) -> Result<(), Error> {
        let canonical = path::canonical(request.uri().path());
        let (to, _) = self.route(&context.authority, &canonical)?;
        let Some(node) = to.node() else { return Ok(()) };
        let Some(shield) = shield::of_stranger(&self.hosts.config.pbx[node], context) else { return Ok(()) };
        exchange.set_upstream(to.upstream());
        let stranger = Stranger { shield, node, gate, issued: &self.issued, context };
        stranger.learn(request).await;
        let opens_sessions = stranger.check_head(request, &canonical)?;
        drop(canonical);
        if opens_sessions { stranger.check_login(request, exchange).await } else { Ok(()) }
    }

    /// Asks the engine for the sessions of a request to the PBX, while an account may be frozen that another member has opened
    /// one for.
    ///
    /// # Errors
    /// When the request shows too many of them.
    async fn learn_owners(&self, request: &Request<RequestBody>, context: &RequestContext) -> Result<(), Error> {
        let to = self.route(&context.authority, &path::canonical(request.uri().path()));
        match to {
            Ok((Destination::Pbx(_), _)) => owners::learn(&self.issued, request, &context.authority.host).await,
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Returns the sessions as a node knows them.
    fn known_at(&self, node: NodeIndex) -> SessionsAt<'_> {
        SessionsAt { issued: &self.issued, nodes: &self.hosts.config.pbx, node }
    }

    /// Finds the upstream of a request and prepares it for that hop, without waiting.
    fn outbound(
        &self,
        gate: &Gate,
        request: &mut Request<RequestBody>,
        context: &RequestContext,
        exchange: &mut Exchange,
        gives_sessions: bool,
    ) -> Result<Outbound<'_>, Error> {
        let canonical = path::canonical(request.uri().path());
        let (to, upstream) = self.route(&context.authority, &canonical)?;
        exchange.set_upstream(to.upstream());
        let (host, node) = (&context.authority.host, to.node());
        let mut credential = None;
        if let Some(node) = node {
            if let Some(name) = self.hosts.config.pbx.label(node) {
                exchange.set_pbx_node(name);
            }
            credential = password_login::count(gate, node, request.method(), &canonical, request.headers(), context)?;
            owners::refuse_frozen(&gate.state.freezes, &self.issued, request, host)?;
        }
        drop(canonical);
        if let Some(node) = node {
            match owners::recognize(&self.known_at(node), request, host)? {
                Some(account) => exchange.set_account(account),
                None if self.issued.has_members() => owners::learn_behind(&self.issued, request.headers()),
                None => {}
            }
        }
        let (mut head, mut payload) = mem::take(request).into_parts();
        let redirect = (gives_sessions && to == Destination::App)
            .then(|| Box::new(RedirectContext::of(&head.method, head.uri.path(), &head.headers)));
        let vouched = keep_apart(&gate.chain, &mut head.headers, &mut payload, context)?;
        if gate.keeps_cookies() {
            cookies::cut(&mut head.headers);
        }
        let behind = match to {
            Destination::Pbx(node) => owners::behind(&self.known_at(node), &head, host),
            Destination::App => Behind::default(),
        };
        let (expected, mut added) = prepare(&mut head, &payload, context)?;
        for (name, value) in vouched {
            added.retain(|(added, _)| *added != name);
            head.headers.insert(name, value);
        }
        exchange.set_meter(payload.meter());
        let target = head.uri.path_and_query().cloned().map_or_else(Default::default, http::Uri::from);
        let request = upstream::request(head.method, target, head.headers, payload);
        Ok(Outbound { upstream, request, added, expected, behind, credential, redirect })
    }
}

/// Returns whose share of the upstream's connections a request uses.
fn requester(connection: &ClientConnection, context: &RequestContext) -> Requester {
    Requester::client(connection.ledger.client_at(client_key(context.client())), &connection.ledger)
}
