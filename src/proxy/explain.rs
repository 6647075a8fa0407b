//! Who would this caller become, and why? The way of a login, told step by step. It asks and judges as the gate does;
//! nobody is let in: no session is opened, nothing is marked as used, nothing is counted.

mod explanation;

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;

use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri, Version};
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

pub use self::explanation::Story;
use self::explanation::{Granted, Refused};
use super::browser::cors::{self, Initiator};
use super::browser::fetch_metadata;
use super::error::Error;
use super::form::Fields;
use super::gate::Unproven;
use super::login::confirm;
use super::login::ott;
use super::login::pbx::{self, Selectors};
use super::shared::{app_upstream, pbx_upstream};
use super::{Caller, Proxy, gate};
use crate::auth::Ask;
use crate::config::{HostPattern, MethodKind};
use crate::exchange::FarEnd;
use crate::limit::Source;
use crate::message::cookies;
use crate::message::forwarded_chain::{Contradiction, ForwardedChain};
use crate::message::target;
use crate::model::grant::{self, Requested};
use crate::model::login::LoginKind;
use crate::model::principal::Principal;
use crate::observe::RequestId;
use crate::tls::server::TlsPolicies;

/// A request to a login endpoint, as far as it matters who would become whom.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// What is asked for.
    pub act: LoginKind,
    /// The host it is asked for at; none: the first that is configured.
    pub host: Option<String>,
    /// The address at the other end of the connection; none: this machine's own.
    pub from: Option<IpAddr>,
    /// Header fields: cookies, bearer credentials and others.
    pub headers: Vec<(String, String)>,
    /// The query of the address, with selectors or a signed link.
    pub query: Option<String>,
    /// The certificate that the other end shows, and perhaps those between it and its authority, in PEM.
    pub certificate: Option<String>,
    /// The Voximplant user that is asked for.
    pub user: Option<String>,
}

/// Why a question cannot be answered: no request can be like that.
#[derive(Debug, thiserror::Error)]
pub enum Unanswerable {
    /// A header field is none.
    #[error("no header field can be named {0:?}, or have such a value")]
    Field(String),
    /// The host is none.
    #[error("the host is none")]
    Host(#[from] target::NoHost),
    /// The certificate is none.
    #[error("there is no certificate in PEM in that file")]
    Certificate,
    /// Nobody can tell who asks.
    #[error(transparent)]
    Origin(#[from] Contradiction),
}

/// A question as the gate sees requests.
struct Rehearsal<'q> {
    question: &'q Question,
    headers: HeaderMap,
    caller: Caller,
    /// Why the handshake would end the connection.
    turned_away: Option<String>,
}

impl Proxy {
    /// Tells who a caller would become, and why. `tls`: the policies that its handshake would go through.
    ///
    /// # Errors
    /// When no request can be as the question says.
    pub async fn rehearse(&self, question: &Question, tls: &TlsPolicies) -> Result<Story, Unanswerable> {
        let rehearsal = self.prepare(question, tls)?;
        let caller = &rehearsal.caller;
        let mut story = Story::new(question.act, &caller.authority.host, caller.origin.client, caller.id);
        story.outcome = self.go(&rehearsal, &mut story).await.into();
        Ok(story)
    }

    fn prepare<'q>(&self, question: &'q Question, tls: &TlsPolicies) -> Result<Rehearsal<'q>, Unanswerable> {
        let headers = self.headers(question)?;
        let authority = target::authority(Version::HTTP_11, &Uri::from_static("/"), &headers)?;
        let address = question.from.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)).to_canonical();
        let origin = self.origin(&headers, &Rc::new(ForwardedChain::direct(address)))?;
        let (certificate, turned_away) = match tls.verify_client(&authority.host, &certificates(question)?) {
            Ok(certificate) => (certificate, None),
            Err(why) => (None, Some(why.to_string())),
        };
        let end = Rc::new(FarEnd { address, certificate, client_ca: tls.client_ca(&authority.host) });
        let caller = Caller { origin, end, authority, id: RequestId::next(), attempt: Cell::default() };
        Ok(Rehearsal { question, headers, caller, turned_away })
    }

    /// Makes the fields of the request, which is for the first host that is configured unless it says another.
    fn headers(&self, question: &Question) -> Result<HeaderMap, Unanswerable> {
        let mut headers = HeaderMap::new();
        for (name, value) in &question.headers {
            let field = (name.parse::<HeaderName>(), HeaderValue::from_str(value));
            let (Ok(name), Ok(value)) = field else { return Err(Unanswerable::Field(name.clone())) };
            headers.append(name, value);
        }
        let upstreams = [app_upstream(&self.config), pbx_upstream(&self.config)].into_iter().flatten();
        let mut hosts = upstreams.flat_map(|upstream| upstream.hosts.iter().filter_map(HostPattern::exact));
        if let Some(host) = question.host.as_deref().or_else(|| hosts.next().filter(|_| !headers.contains_key(HOST))) {
            headers.insert(HOST, HeaderValue::from_str(host).map_err(|_| Unanswerable::Field("host".to_owned()))?);
        }
        headers.entry(HOST).or_insert(HeaderValue::from_static("localhost"));
        Ok(headers)
    }

    /// Goes the way of a login as far as the grant.
    async fn go(&self, rehearsal: &Rehearsal<'_>, story: &mut Story) -> Result<Granted, Refused> {
        let Rehearsal { question, headers, caller, turned_away } = rehearsal;
        if let Some(why) = turned_away {
            return Err(Refused::unheard(why));
        }
        let (limits, client) = (&self.shared.limits, Source::address(caller.origin.client));
        story.note_limit(limits.failures.peek_source(&client));
        story.note_limit(limits.stale_cookies.peek_source(&client));
        story.note_limit(limits.client.peek_source(&client));
        let (selectors, initiator) = self.asked(rehearsal)?;
        let ask = Ask { rehearsal: true, ..gate::asking(question.act, headers, question.query.as_deref(), caller) };
        story.shown = self.chain.shows(&ask);
        let verdict = self.chain.ask(&ask).await.map_err(Error::from)?;
        let proof = gate::prove(verdict, &initiator).map_err(|unproven| match unproven {
            Unproven::Nobody => Refused::nobody(&self.overlooked(headers)),
            other => story.unproven(other),
        })?;
        story.prove(proof.principal());
        let once = proof.spends().cloned();
        story.asks_first = question.act == LoginKind::Pbx && confirm::is_needed(&proof, headers);
        let principal = proof.choose(&selectors.wish).ok_or_else(|| Refused::forbidden(&gate::FOREIGN))?;
        story.prove(&principal);
        story.peek(&limits.caller, &(&principal.method, &principal.subject, false));
        let granted = match question.act {
            LoginKind::Pbx => self.rehearse_pbx(&principal, &selectors, caller, story)?,
            LoginKind::Ott => self.rehearse_ott(&principal, &selectors.wish, story)?,
        };
        story.works_once = once.is_some();
        match once.filter(|once| self.shared.store.is_marked(&once.scope, &once.id)) {
            Some(_) => Err(Refused::nobody(gate::USED)),
            None => Ok(granted),
        }
    }

    /// Tells why nothing that the request shows is a credential.
    fn overlooked(&self, headers: &HeaderMap) -> String {
        let methods = self.config.methods.iter();
        let reasons = methods.filter_map(|method| match &method.kind {
            MethodKind::Oidc(_) if cookies::values(headers, cookies::PREFIX).next().is_some() => {
                Some("; its cookie of a login opens only at the host of that login, with the same key and rules, and not for ever".to_owned())
            }
            MethodKind::Header(settings) if headers.contains_key(&settings.user) => {
                Some(format!("; {:?} counts only from the addresses of method {:?}", settings.user.as_str(), method.name))
            }
            _ => None,
        });
        let mut all: Vec<_> = reasons.collect();
        all.dedup();
        format!("{}{}", explanation::NOTHING, all.concat())
    }

    /// Finds what is asked for, and by which page.
    fn asked(&self, rehearsal: &Rehearsal<'_>) -> Result<(Selectors, Initiator), Error> {
        let Rehearsal { question, headers, caller, .. } = rehearsal;
        match question.act {
            LoginKind::Pbx => {
                self.pbx_side().ok_or(Error::NotFound)?;
                if fetch_metadata::looks_ahead(&Method::GET, headers) {
                    return Err(Error::Prefetch);
                }
                let query = question.query.as_deref().unwrap_or_default();
                let selectors = Selectors::read(Fields::of_form(query.as_bytes())?)?;
                Ok((selectors, self.page(headers, caller)))
            }
            LoginKind::Ott => {
                let voximplant = self.config.voximplant.as_ref().ok_or(Error::NotFound)?;
                let user = question.user.as_deref().map(|name| ott::short_name(name, voximplant)).transpose()?;
                let wish = Requested { user, ..Requested::default() };
                let initiator = cors::initiator(headers, &caller.authority, &voximplant.origins);
                Ok((Selectors::of(wish), initiator))
            }
        }
    }

    fn rehearse_pbx(
        &self,
        principal: &Principal,
        selectors: &Selectors,
        caller: &Caller,
        story: &mut Story,
    ) -> Result<Granted, Refused> {
        let now = Timestamp::now();
        let grant = story.decide(grant::explain_pbx(&self.config.rules, principal, &selectors.wish, now))?;
        let role = grant.role();
        if self.shared.frozen.has(role) {
            return Err(Refused::forbidden(&gate::FROZEN));
        }
        story.peek(self.shared.limits.sessions(role.level()), &(role.level().as_str(), role.limit_key(), false));
        let pbx = self.pbx_side().ok_or(Error::NotFound)?;
        let language = pbx::language(selectors.language.as_ref(), &grant, pbx.settings)?;
        let host = self.pbx_host(role, pbx, caller)?;
        Ok(Granted::Pbx {
            rule: grant.rule().to_owned(),
            account: role.to_string(),
            level: role.level().as_str().to_owned(),
            language: language.map(|language| language.as_str().to_owned()),
            host,
        })
    }

    fn rehearse_ott(&self, principal: &Principal, wish: &Requested, story: &mut Story) -> Result<Granted, Refused> {
        let now = Timestamp::now();
        let grant = story.decide(grant::explain_voximplant(&self.config.rules, principal, wish, now))?;
        let user = grant.user();
        let voximplant = self.config.voximplant.as_ref().ok_or_else(|| Refused::forbidden(&ott::UNKNOWN_USER))?;
        if self.shared.frozen.has_user(user, voximplant.application.as_deref()) {
            return Err(Refused::forbidden(&gate::FROZEN));
        }
        story.peek(&self.shared.limits.account, &("voximplant", user.as_str()));
        if voximplant.ha1(user).is_none() {
            return Err(Refused::forbidden(&format_args!("{}: {user}", ott::UNKNOWN_USER)));
        }
        Ok(Granted::Voximplant { rule: grant.rule().to_owned(), user: user.to_string() })
    }
}

/// Reads the certificates that the other end shows.
fn certificates(question: &Question) -> Result<Vec<CertificateDer<'static>>, Unanswerable> {
    let Some(pem) = &question.certificate else { return Ok(Vec::new()) };
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    certificates.ok().filter(|all| !all.is_empty()).ok_or(Unanswerable::Certificate)
}
