//! `callgate explain`: tells which account a caller would get, and why. It takes the login's own decision with dry effects:
//! no session is opened, no credential is marked as used, no limit counts, no audit line is written.

mod explanation;

use std::cell::OnceCell;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;

use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri, Version};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

pub(crate) use self::explanation::Explanation;
use self::explanation::{GrantedLogin, RefusedLogin};

use super::context::{LoginRequest, RequestContext, RequestFindings};
use super::error::Error;
use super::gate::effects::{Effects, Notes};
use super::gate::{self, Gate};
use super::hosts::upstreams;
use super::login::link::{self, LinkStep};
use super::login::order;
use super::login::ott::{self, Asker, KeyRequest};
use super::login::session::PbxLogins;
use crate::config::{HostPattern, MethodKind};
use crate::exchange::TlsPeer;
use crate::message::cookies;
use crate::message::forwarded_chain::{Contradiction, ForwardedChain};
use crate::message::target;
use crate::model::login::LoginKind;
use crate::model::path::{PBX_PATH, PathClass, Reserved};
use crate::observe::RequestId;
use crate::tls::server::TlsPolicies;

/// A login that `callgate explain` asks about.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LoginQuestion {
    /// The kind of login.
    pub act: LoginKind,
    /// The host of the request; `None`: the first that is configured.
    pub host: Option<String>,
    /// The address at the other end of the connection; `None`: 127.0.0.1.
    pub from: Option<IpAddr>,
    /// The header fields: cookies, bearer credentials and others.
    pub headers: Vec<(String, String)>,
    /// The path of the request, and its query: selectors, or a signed link; `None`: the path of `act` alone.
    pub target: Option<String>,
    /// The client certificate in PEM, and perhaps those between it and its authority.
    pub certificate: Option<String>,
    /// The Voximplant user that the caller asks for.
    pub user: Option<String>,
}

impl LoginQuestion {
    fn path(&self) -> Option<&str> {
        self.target.as_deref()?.split('?').next()
    }

    fn query(&self) -> Option<&str> {
        Some(self.target.as_deref()?.split_once('?')?.1)
    }
}

/// An error in a question: no request can be like it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswerable {
    /// A header field has an invalid name or value.
    #[error("no header field can be named {0:?}, or have such a value")]
    Field(String),
    /// The host is not a host name.
    #[error("the host is not a valid host name")]
    Host(#[from] target::NoHost),
    /// No such login is answered at the path.
    #[error("the path of the link is not {PBX_PATH} or one of [pbx] aliases: {0:?}")]
    Path(String),
    /// Connections for the host are passed on before TLS.
    #[error("connections for this host are passed on, by [[passthrough]], so no login takes place there")]
    PassedOn,
    /// The text contains no certificate.
    #[error("there is no certificate in PEM in that file")]
    Certificate,
    /// The fields name two clients.
    #[error(transparent)]
    Origin(#[from] Contradiction),
}

/// A question as a request.
struct DryRequest {
    headers: HeaderMap,
    context: RequestContext,
    /// The error by which the handshake would end the connection.
    handshake_error: Option<String>,
}

/// Tells which account a caller would get, and why. `logins`: the PBX, where callgate opens sessions. `tls`: the policies of
/// the caller's handshake.
///
/// # Errors
/// When no request can be as the question says.
pub(super) async fn explain(
    gate: &Gate,
    logins: Option<PbxLogins<'_>>,
    question: &LoginQuestion,
    tls: &TlsPolicies,
) -> Result<Explanation, Unanswerable> {
    let dry = prepare(gate, question, tls)?;
    let (context, notes) = (&dry.context, Notes::default());
    let method = if question.act == LoginKind::Pbx { Method::GET } else { Method::POST };
    let request = LoginRequest { method: &method, headers: &dry.headers, query: question.query() };
    let mut explanation = Explanation::new(question.act, &context.authority.host, context.client(), context.id);
    if let Some(error) = &dry.handshake_error {
        return Ok(explanation.refused(RefusedLogin::by_handshake(error)));
    }
    explanation.shown = gate.chain.shown_kinds(&gate::ask_of(question.act, request, context));
    let decided = match question.act {
        LoginKind::Pbx => explain_link(logins, request, context, &notes).await,
        LoginKind::Ott => explain_key(gate, question.user.as_deref(), request, context, &notes).await,
    };
    Ok(explanation.tell(decided, notes.into_findings(), || overlooked(gate, question, &dry)))
}

/// Decides on a link, as far as the session that would be opened.
async fn explain_link(
    logins: Option<PbxLogins<'_>>,
    link: LoginRequest<'_>,
    context: &RequestContext,
    notes: &Notes,
) -> Result<GrantedLogin, Error> {
    let logins = logins.ok_or(Error::NotFound)?;
    let LinkStep::Granted(order, attempt) = link::decide(logins, link, context, Effects::Dry(notes)).await? else {
        // Dry effects go past the pages that come before a session.
        return Err(logins.gate.unauthenticated(context));
    };
    order::spend(&order, &attempt).await?;
    let role = order.grant.role();
    Ok(GrantedLogin::Pbx {
        rule: order.grant.rule().to_owned(),
        account: role.to_string(),
        level: role.level().as_str().to_owned(),
        language: order.language.as_ref().map(|language| language.as_str().to_owned()),
        pbx: order.login.label().map(str::to_owned),
        host: order.host.unwrap_or_default(),
        page: order.page,
    })
}

/// Decides on a Voximplant key, as far as the answer that would be computed.
async fn explain_key(
    gate: &Gate,
    user: Option<&str>,
    request: LoginRequest<'_>,
    context: &RequestContext,
    notes: &Notes,
) -> Result<GrantedLogin, Error> {
    let voximplant = gate.config().voximplant.as_ref().ok_or(Error::NotFound)?;
    let initiator = gate.hosts.initiator(request.headers, &context.authority, &voximplant.origins);
    let asker = Asker { request, initiator: &initiator, context };
    let read = async || KeyRequest::without_key(user, voximplant);
    let (order, attempt) = ott::decide(gate, voximplant, asker, read, Effects::Dry(notes)).await?;
    ott::spend(gate, &order, &attempt).await?;
    let (rule, user) = (order.grant.rule().to_owned(), order.grant.user().to_string());
    Ok(GrantedLogin::Voximplant { rule, user, is_new: order.is_new })
}

// === The question as a request ===

fn prepare(gate: &Gate, question: &LoginQuestion, tls: &TlsPolicies) -> Result<DryRequest, Unanswerable> {
    let headers = headers(gate, question)?;
    let authority = target::authority(Version::HTTP_11, &Uri::from_static("/"), &headers)?;
    check_path(gate, question, &authority.host)?;
    if gate.hosts.are_passed_on(&authority.host) {
        return Err(Unanswerable::PassedOn);
    }
    let address = question.from.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)).to_canonical();
    let origin = gate.identify(&headers, &Rc::new(ForwardedChain::direct(address)))?;
    let (certificate, handshake_error) = match tls.verify_client(&authority.host, &certificates(question)?) {
        Ok(certificate) => (certificate, None),
        Err(error) => (None, Some(error.to_string())),
    };
    let end = Rc::new(TlsPeer { address, certificate, client_ca: tls.client_ca(&authority.host) });
    let context = RequestContext {
        origin,
        end,
        authority,
        id: RequestId::next(),
        trace: None,
        caller: OnceCell::new(),
        findings: RequestFindings::default(),
    };
    Ok(DryRequest { headers, context, handshake_error })
}

/// Checks that such logins are answered at the path, on this host.
fn check_path(gate: &Gate, question: &LoginQuestion, host: &str) -> Result<(), Unanswerable> {
    let answered = match question.act {
        LoginKind::Pbx => Reserved::Pbx,
        LoginKind::Ott => Reserved::Ott,
    };
    match question.path().filter(|path| gate.hosts.classify(host, path) != PathClass::Reserved(answered)) {
        Some(path) => Err(Unanswerable::Path(path.to_owned())),
        None => Ok(()),
    }
}

/// Makes the fields of the request, which is for the first host that is configured unless it names another.
fn headers(gate: &Gate, question: &LoginQuestion) -> Result<HeaderMap, Unanswerable> {
    let mut headers = HeaderMap::new();
    for (name, value) in &question.headers {
        let field = (name.parse::<HeaderName>(), HeaderValue::from_str(value));
        let (Ok(name), Ok(value)) = field else { return Err(Unanswerable::Field(name.clone())) };
        headers.append(name, value);
    }
    let mut hosts = upstreams(gate.config()).flat_map(|upstream| upstream.hosts.iter().filter_map(HostPattern::exact));
    if let Some(host) = question.host.as_deref().or_else(|| hosts.next().filter(|_| !headers.contains_key(HOST))) {
        headers.insert(HOST, HeaderValue::from_str(host).map_err(|_| Unanswerable::Field("host".to_owned()))?);
    }
    headers.entry(HOST).or_insert(HeaderValue::from_static("localhost"));
    Ok(headers)
}

/// Tells why nothing that the request shows is a credential.
fn overlooked(gate: &Gate, question: &LoginQuestion, dry: &DryRequest) -> String {
    let (headers, asked) = (&dry.headers, dry.context.end.client_ca.is_some());
    let methods = gate.config().methods.iter();
    let reasons = methods.filter_map(|method| match &method.kind {
        MethodKind::Oidc(_) if cookies::values(headers, cookies::PREFIX).next().is_some() => {
            Some("; its cookie of a login opens only at the host of that login, with the same key and rules, and not for ever".to_owned())
        }
        MethodKind::Header(settings) if headers.contains_key(&settings.user) => {
            Some(format!("; {:?} counts only from the addresses of method {:?}", settings.user.as_str(), method.name))
        }
        MethodKind::Mtls(_) if asked && question.certificate.is_none() => {
            Some("; the client shows no certificate, which is optional at this host".to_owned())
        }
        MethodKind::Mtls(_) if !asked && question.certificate.is_some() => {
            Some("; no client is asked for a certificate at this host".to_owned())
        }
        _ => None,
    });
    let mut all: Vec<_> = reasons.collect();
    all.dedup();
    format!("the request shows no credential that a method looks for{}", all.concat())
}

/// Reads the certificates that the other end shows.
fn certificates(question: &LoginQuestion) -> Result<Vec<CertificateDer<'static>>, Unanswerable> {
    let Some(pem) = &question.certificate else { return Ok(Vec::new()) };
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    certificates.ok().filter(|all| !all.is_empty()).ok_or(Unanswerable::Certificate)
}
