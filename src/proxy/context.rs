//! The context of one request: its client, its host, its id.

use std::cell::{Cell, OnceCell};
use std::net::IpAddr;
use std::rc::Rc;

use http::header::HeaderMap;
use http::{Method, Request, request};

use crate::exchange::TlsPeer;
use crate::message::forwarded_chain::ForwardedChain;
use crate::message::target::Authority;
use crate::model::limit_set::LimitSet;
use crate::observe::RequestId;
use crate::observe::access::AccessCaller;
use crate::observe::spans::RequestTrace;

/// The context of one request.
pub(super) struct RequestContext {
    /// The client, and the believed proxies between it and callgate.
    pub(super) origin: Rc<ForwardedChain>,
    /// The other end of the connection: the client, or a proxy before us.
    pub(super) end: Rc<TlsPeer>,
    /// The host that the request is for.
    pub(super) authority: Authority,
    /// The id that answers, logs and upstreams are given.
    pub(super) id: RequestId,
    /// Its place in a trace, if a collector is configured.
    pub(super) trace: Option<RequestTrace>,
    /// Whom it logs in, once that is known: for the access log.
    pub(super) caller: OnceCell<AccessCaller>,
    pub(super) findings: RequestFindings,
}

/// What is found out about a request on its way.
#[derive(Default)]
pub(super) struct RequestFindings {
    /// The limits in shadow that would have refused it.
    pub(super) refusers: Cell<LimitSet>,
    /// Whether its credential is a wrong guess.
    pub(super) has_guessed: Cell<bool>,
}

impl RequestContext {
    /// Returns the address of the client.
    pub(super) fn client(&self) -> IpAddr {
        self.origin.client
    }
}

/// The head of a request to a login endpoint.
#[derive(Clone, Copy)]
pub(super) struct LoginRequest<'r> {
    pub(super) method: &'r Method,
    pub(super) headers: &'r HeaderMap,
    pub(super) query: Option<&'r str>,
}

impl<'r> LoginRequest<'r> {
    /// Looks at a request whose body is not read.
    pub(super) fn of<B>(request: &'r Request<B>) -> Self {
        Self { method: request.method(), headers: request.headers(), query: request.uri().query() }
    }

    /// Looks at the head of a request.
    pub(super) fn of_head(head: &'r request::Parts) -> Self {
        Self { method: &head.method, headers: &head.headers, query: head.uri.query() }
    }
}
