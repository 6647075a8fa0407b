//! `/auth/callgate/ticket`: the two-host hand-over. A ticket leads a browser, and only the one that began, from the host
//! where it was proven to the PBX's.
//!
//! The two hosts may be two sites, which share no cookie. So the browser goes to and fro once: the ticket leads it to the
//! PBX's host, which gives it a cookie and sends it back; the first host knows it by a cookie of the beginning, and sends
//! it there again with a ticket for that cookie. No page can put its visitor into another's session: it cannot set
//! `__Host-` cookies, and no ticket works without them.

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};

use crate::config::{self, Handoff};
use crate::exchange::Body;
use crate::message::cookies;
use crate::model::account::Language;
use crate::model::digest::sha256;
use crate::model::freeze_target::FreezeTarget;
use crate::model::login::LoginKind;
use crate::model::path::TICKET_PATH;
use crate::model::principal::Principal;
use crate::model::secret::Secret;
use crate::model::session::SessionId;
use crate::proxy::answer::response;
use crate::proxy::browser::fetch_metadata;
use crate::proxy::error::Error;
use crate::proxy::form::Fields;
use crate::proxy::gate::Facts;
use crate::proxy::login::pbx::Minted;
use crate::proxy::{Caller, Proxy};
use crate::random;
use crate::upstream::RequestBody;

/// The cookie by which a host knows the browser again, on its way through a hand-over.
const BROWSER: &str = "__Host-callgate.browser";
/// How long a browser keeps it, in seconds: longer than the tickets of a hand-over.
const KEPT: u64 = 60;
/// How many characters it has: 256 bits.
const LENGTH: usize = 43;

/// What a ticket stands for.
struct Handed {
    token: SessionId,
    language: Option<Language>,
    /// The host the ticket is for, without port.
    host: String,
    step: Step,
    /// Whose it is: a freeze holds also where a restart has forgotten that.
    whom: FreezeTarget,
}

/// How far a hand-over has come. Browsers are told apart by the SHA-256 of their cookie, in hexadecimal.
enum Step {
    /// A server with a key sends a browser that it answers for.
    Sent,
    /// A browser began at a host, which knows it.
    Begun { browser: String, at: String },
    /// It was at the PBX's host, which knows it too, and goes back.
    Back { browser: String, there: String, to: String },
    /// It is known at both.
    Known { there: String },
}

impl Step {
    /// Writes it as one word.
    fn text(&self) -> String {
        match self {
            Self::Sent => "sent".to_owned(),
            Self::Begun { browser, at } => format!("begun|{browser}|{at}"),
            Self::Back { browser, there, to } => format!("back|{browser}|{there}|{to}"),
            Self::Known { there } => format!("known|{there}"),
        }
    }

    fn read(text: &str) -> Option<Self> {
        let parts: Vec<_> = text.split('|').collect();
        let own = |part: &str| part.to_owned();
        match parts.as_slice() {
            ["sent"] => Some(Self::Sent),
            ["begun", browser, at] => Some(Self::Begun { browser: own(browser), at: own(at) }),
            ["back", browser, there, to] => Some(Self::Back { browser: own(browser), there: own(there), to: own(to) }),
            ["known", there] => Some(Self::Known { there: own(there) }),
            _ => None,
        }
    }
}

impl Handed {
    /// Writes it as one text, in which no part can be taken for another: none but the last has a space.
    fn text(&self) -> Secret {
        let language = self.language.as_ref().map_or("-", Language::as_str);
        let (token, step) = (self.token.expose(), self.step.text());
        Secret::new(format!("{token} {language} {} {step} {}", self.host, self.whom))
    }

    fn read(text: &Secret) -> Option<Self> {
        let mut parts = text.expose().splitn(5, ' ');
        let (token, language, host) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?.to_owned());
        let language = if language == "-" { None } else { Some(language.parse().ok()?) };
        let step = Step::read(parts.next()?)?;
        Some(Self { token, language, host, step, whom: parts.next()?.parse().ok()? })
    }
}

/// A browser as a host knows it.
struct Browser {
    secret: String,
}

impl Browser {
    /// Finds the browser of a request; one that is not known yet gets a name.
    fn of(headers: &HeaderMap) -> Self {
        let mut sent = cookies::values(headers, BROWSER).filter(|secret| secret.len() == LENGTH);
        let secret = sent.next().filter(|_| sent.next().is_none()).map(str::to_owned);
        Self { secret: secret.unwrap_or_else(random::text::<32>) }
    }

    fn digest(&self) -> String {
        hex::encode(sha256(self.secret.as_bytes()))
    }

    /// Writes its cookie: a page of a listed origin on another site brings and keeps what says `None` alone.
    fn cookie(&self, same_site: &str) -> HeaderValue {
        let secret = &self.secret;
        let line = format!("{BROWSER}={secret}; Max-Age={KEPT}; Path=/; Secure; HttpOnly; SameSite={same_site}");
        HeaderValue::from_str(&line).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

/// The address at which a browser goes on, and the cookie by which it is known then.
pub(in crate::proxy) struct Onward {
    pub(in crate::proxy) address: String,
    pub(in crate::proxy) cookie: Option<HeaderValue>,
}

impl Onward {
    /// Puts the cookie into an answer.
    pub(in crate::proxy) fn mark(cookie: Option<HeaderValue>, response: &mut Response<Body>) {
        if let Some(cookie) = cookie {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
    }

    fn go(self) -> Response<Body> {
        let mut response = response::redirect(StatusCode::SEE_OTHER, &self.address);
        Self::mark(self.cookie, &mut response);
        response
    }
}

impl Proxy {
    /// Begins a hand-over to the PBX's host. `headers`: of the browser's request; a page may be of another site.
    pub(in crate::proxy) async fn ticket(
        &self,
        minted: &Minted,
        headers: &HeaderMap,
        caller: &Caller,
    ) -> Result<Onward, Error> {
        let host = minted.host()?.to_owned();
        let there = caller.authority.with_host(&host);
        let browser = (!minted.is_by_key).then(|| Browser::of(headers));
        let step = browser.as_ref().map_or(Step::Sent, |browser| Step::Begun {
            browser: browser.digest(),
            at: caller.authority.with_host(&caller.authority.host),
        });
        let (token, language) = (minted.session.clone(), minted.language.clone());
        let handed = Handed { token, language, host, step, whom: FreezeTarget::of(&minted.role) };
        let same_site = if is_of_another_site(headers) { "None" } else { "Lax" };
        Ok(Onward {
            address: self.issue(&handed, &there).await?,
            cookie: browser.map(|browser| browser.cookie(same_site)),
        })
    }

    /// Tells whether a browser may begin a hand-over where it is. It goes back there, and what is there vouches for it: so the
    /// host must be known to be ours.
    pub(in crate::proxy) fn may_begin_here(
        &self,
        pbx: &config::PbxConfig,
        principal: &Principal,
        caller: &Caller,
    ) -> bool {
        pbx.handoff == Handoff::Link || self.is_key(&principal.method) || self.owns(&caller.authority.host)
    }

    /// Tells whether a host is known to be ours. Anybody can name a host of their own in a request, and an app without
    /// `hosts` answers it. Where hosts are listed, a wildcard of a certificate names none: somebody else's may be among them.
    fn owns(&self, host: &str) -> bool {
        let upstreams = [crate::proxy::app_upstream(&self.config), crate::proxy::pbx_upstream(&self.config)];
        let any = crate::proxy::app_upstream(&self.config).is_some_and(|app| app.hosts.is_empty());
        let mut certificates = self.config.certificates.iter();
        certificates.any(|one| one.names_host(host) || (any && one.names_like(host)))
            || upstreams.into_iter().flatten().any(|upstream| upstream.lists(host))
    }

    async fn issue(&self, handed: &Handed, authority: &str) -> Result<String, Error> {
        let ticket = self.shared.tickets.issue(&handed.text()).await.map_err(Error::NotStored)?;
        Ok(format!("https://{authority}{TICKET_PATH}?t={}", ticket.expose()))
    }

    /// Answers what is below `/auth/callgate/`: a ticket, on the host it is for, once, to a window of its own.
    pub(in crate::proxy) async fn answer_ticket(
        &self,
        request: &Request<RequestBody>,
        caller: &Caller,
    ) -> Result<Response<Body>, Error> {
        let pbx = self.pbx_side().filter(|_| request.uri().path() == TICKET_PATH).ok_or(Error::NotFound)?;
        if fetch_metadata::looks_ahead(request.method(), request.headers()) {
            return Err(Error::Prefetch);
        }
        if request.method() != Method::GET {
            return Err(Error::MethodNotAllowed("GET, HEAD"));
        }
        if !fetch_metadata::is_top_level(request.headers()) {
            return Err(Error::CrossSite);
        }
        let mut fields = Fields::of_form(request.uri().query().unwrap_or_default().as_bytes())?;
        let ticket = fields.take("t").ok_or(Error::Malformed("the parameter t is missing"))?;
        self.admit_credential(request.method(), request.headers(), sha256(ticket.as_bytes()), caller)?;
        let handed = self.shared.tickets.redeem(&ticket).await.map_err(Error::NotStored)?;
        self.look_at_failures(caller)?;
        let handed = handed.as_ref().and_then(Handed::read).filter(|handed| handed.host == caller.authority.host);
        let Some(handed) = handed else { return Err(self.unknown_ticket(&ticket, caller)) };
        self.thawed(&handed.whom)?;
        let browser = Browser::of(request.headers());
        match &handed.step {
            Step::Sent => {}
            Step::Known { there } if *there == browser.digest() => {}
            Step::Begun { .. } => return self.send_back(handed, &browser, caller).await,
            Step::Back { browser: known, .. } if *known == browser.digest() => return self.send_again(handed).await,
            Step::Known { .. } | Step::Back { .. } => return Err(self.another_browser(caller)),
        }
        self.land(&handed.token, handed.language.as_ref(), &handed.whom, pbx, caller).await
    }

    /// Gives the browser a cookie of the PBX's host, and sends it back to where it began.
    async fn send_back(&self, handed: Handed, here: &Browser, caller: &Caller) -> Result<Response<Body>, Error> {
        let Step::Begun { browser, at } = handed.step else { return Err(Error::Forbidden) };
        let host = at.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
        let host = host.map_or(&*at, |(host, _)| host).to_owned();
        let to = caller.authority.with_host(&caller.authority.host);
        let step = Step::Back { browser, there: here.digest(), to };
        let address = self.issue(&Handed { host, step, ..handed }, &at).await?;
        Ok(Onward { address, cookie: Some(here.cookie("Lax")) }.go())
    }

    /// Sends the browser that began to the PBX's host once more, where its cookie is.
    async fn send_again(&self, handed: Handed) -> Result<Response<Body>, Error> {
        let Step::Back { there, to, .. } = handed.step else { return Err(Error::Forbidden) };
        let host = to.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
        let host = host.map_or(&*to, |(host, _)| host).to_owned();
        let address = self.issue(&Handed { host, step: Step::Known { there }, ..handed }, &to).await?;
        Ok(Onward { address, cookie: None }.go())
    }

    /// Refuses a ticket in the hands of a browser that did not begin the hand-over: no guess, perhaps a trap for a person.
    fn another_browser(&self, caller: &Caller) -> Error {
        self.failed(LoginKind::Pbx, caller, &Facts::default(), "another browser began this login");
        Error::Forbidden
    }

    /// Refuses a ticket that is good for nothing. One that was issued here is no guess: it was used, or too old.
    fn unknown_ticket(&self, ticket: &str, caller: &Caller) -> Error {
        if !self.shared.tickets.has_issued(ticket)
            && let Err(limited) = self.count_guess(caller)
        {
            return limited;
        }
        self.failed(LoginKind::Pbx, caller, &Facts::default(), "the ticket is unknown, used or expired");
        Error::Forbidden
    }
}

/// Tells whether a page of another site asks, which only `SameSite=None` lets keep a cookie.
fn is_of_another_site(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ORIGIN) && headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site")
}
