//! `[pbx] auto`: a browser that opens a page of the PBX without a live session is led through `/auth/pbx`, and back to the
//! same page.
//!
//! ```text
//! /usr_index.htm ─▶ /auth/pbx?state=… ─▶ login, ticket ─▶ /auth/callgate/page?state=… ─▶ /usr_index.htm
//! the PBX's host    where the app's      as ever         the PBX's host: is the
//!                   cookie is                            session there?
//! ```
//!
//! The place to come back to is sealed by callgate, with its host and the time. Who has such a place can do what a link
//! to that page does: the login is that of the browser's own user, and the way back ends at a listed host of the PBX.
//!
//! No browser goes round twice: behind a login, `/auth/callgate/page` is the end, whether cookies are kept or not. Beside
//! it a cookie on the PBX's host permits one attempt in a minute.

mod place;
mod resume;
mod session_state;
mod turn_back;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};

use self::place::Step;
use super::form::Fields;
use super::link_options::STATE;
use super::session::{PbxLogin, PbxLogins};
use crate::config::{LoginOrigin, NodeIndex};
use crate::exchange::Body;
use crate::message::cookies;
use crate::model::path::{self, PAGE_PATH};
use crate::model::pbx_page::PbxPage;
use crate::model::session_state::SessionState;
use crate::observe::metrics::AutoStep;
use crate::proxy::answer::{page, response};
use crate::proxy::browser::fetch_metadata;
use crate::proxy::context::RequestContext;
use crate::proxy::error::{Error, WaysOn};
use crate::proxy::forward::route::Destination;
use crate::upstream::RequestBody;

pub(super) use self::place::{Place, place_of};
pub(super) use self::turn_back::turn_back;

/// The cookie on the PBX's host that holds automatic logins back.
const HOLD: &str = "__Host-callgate.auto";
/// Its life in seconds: the time in which a browser makes one attempt.
const HELD: u64 = 60;
/// The path at which pages of the PBX end their session.
const SESSION_PATH: &str = "/rest/system/session";
/// The reason of a refusal: the place is not sealed by callgate, or too old.
const OLD_PLACE: &str = "this step of a login is too old: open the page again";

/// Why a browser makes no further attempt now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// It has made one.
    Tried,
    /// The PBX's own login page is wanted: by the address, after a logout, or because callgate grants nothing.
    Off,
}

impl Hold {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = cookies::values(headers, HOLD);
        match values.next()? {
            "tried" => Some(Self::Tried),
            _ => Some(Self::Off),
        }
    }

    fn cookie(self) -> HeaderValue {
        let (value, age) = if self == Self::Tried { ("tried", HELD) } else { ("off", HELD) };
        cookie(HOLD, value, age)
    }
}

/// Writes a cookie for this host. The browser sends it with links of other sites, and not with their frames.
fn cookie(name: &str, value: &str, max_age: u64) -> HeaderValue {
    let line = format!("{name}={value}; Max-Age={max_age}; Path=/; Secure; HttpOnly; SameSite=Lax");
    HeaderValue::try_from(line).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// A request that concerns automatic logins.
pub(in crate::proxy) enum Visit<'p> {
    /// A window opens a page of the PBX.
    Page(PbxLogin<'p>, PbxPage),
    /// A page of the PBX logs its user out.
    LogOut,
    /// A window opens a page of the app, after it was led to the app's login page with this place.
    Return(String),
}

/// What becomes of a visit.
pub(in crate::proxy) enum VisitOutcome {
    /// callgate answers it.
    Answered(Box<Response<Body>>),
    /// It is passed on. The cookie goes with the answer.
    PassedOn(Option<HeaderValue>),
}

/// Finds a visit that concerns automatic logins. Costs next to nothing for all other requests.
pub(in crate::proxy) fn visit<'p>(
    logins: PbxLogins<'p>,
    request: &Request<RequestBody>,
    context: &RequestContext,
) -> Option<Visit<'p>> {
    let (hosts, nodes) = (&logins.gate.hosts, &logins.gate.config().pbx);
    if nodes.iter().all(|pbx| pbx.auto.is_none()) {
        return None;
    }
    let leading = |node: NodeIndex| logins.at(node).filter(|login| login.settings.auto.is_some());
    if *request.method() == Method::DELETE {
        let logs_out = request.uri().path() == SESSION_PATH
            && hosts
                .route(&context.authority.host, SESSION_PATH)
                .and_then(Destination::node)
                .and_then(leading)
                .is_some();
        return logs_out.then_some(Visit::LogOut);
    }
    if !fetch_metadata::opens_a_page(request.method(), request.headers()) {
        return None;
    }
    let canonical = path::canonical(request.uri().path());
    match hosts.route(&context.authority.host, &canonical)? {
        Destination::Pbx(node) => {
            let login = leading(node)?;
            let is_led = leads_from(login, context) && !is_shielded(login, &canonical, context);
            let page = PbxPage::of(request.uri().path(), request.uri().query()).filter(|_| is_led)?;
            Some(Visit::Page(login, page))
        }
        Destination::App => resume::pending(request.headers()).map(Visit::Return),
    }
}

/// Returns the cookie by which a browser that has logged out is not logged in again by the next page.
pub(super) fn stay_out() -> HeaderValue {
    Hold::Off.cookie()
}

/// Tells whether logins may begin at this host and come back to it: a listed host of the PBX, at the port of the origin
/// where the login is asked for, or the host where that is asked for itself.
fn leads_from(login: PbxLogin<'_>, context: &RequestContext) -> bool {
    match login.settings.auto.as_ref().map(|auto| &auto.at) {
        None => false,
        Some(LoginOrigin::Own) => true,
        Some(LoginOrigin::Other { port, .. }) => {
            context.authority.port.unwrap_or(443) == *port && login.settings.upstream.lists(&context.authority.host)
        }
    }
}

/// Tells whether the shield keeps this client from the page, with a session and without.
fn is_shielded(login: PbxLogin<'_>, canonical: &str, context: &RequestContext) -> bool {
    let shield = login.settings.shield.as_ref().filter(|shield| shield.is_for(context.client()));
    shield.is_some_and(|shield| shield.protected.judge(canonical).is_err())
}

/// Answers a visit, or lets it go on.
///
/// # Errors
/// When an automatic login has just been tried in vain.
pub(in crate::proxy) async fn receive(
    logins: PbxLogins<'_>,
    visit: Visit<'_>,
    headers: &HeaderMap,
    context: &RequestContext,
) -> Result<VisitOutcome, Error> {
    match visit {
        Visit::LogOut => Ok(VisitOutcome::PassedOn(Some(stay_out()))),
        Visit::Page(login, page) => at_page(login, page, headers, context).await,
        Visit::Return(place) => Ok(resume::go_on(logins, &place, headers, context).await),
    }
}

/// Decides on a page of the PBX.
async fn at_page(
    login: PbxLogin<'_>,
    page: PbxPage,
    headers: &HeaderMap,
    context: &RequestContext,
) -> Result<VisitOutcome, Error> {
    if page.is_left_alone() {
        return Ok(VisitOutcome::PassedOn(Some(Hold::Off.cookie())));
    }
    match session_state::of(login, headers, context).await {
        // The PBX itself says that the login has lasted, so that the next one may be tried as soon as this one is over.
        Some(SessionState::Alive) => Ok(VisitOutcome::PassedOn(Hold::of(headers).map(|_| cookie(HOLD, "", 0)))),
        Some(SessionState::Unknown) => Ok(VisitOutcome::PassedOn(None)),
        // The session's cookie may be missing only because it is `SameSite=Strict`.
        None if fetch_metadata::is_cross_site_navigation(headers) => {
            let place = Place::here(context, page).sealed(login, Step::Again);
            let step = page::continue_to(login.gate.reader(None, headers), &format!("{PAGE_PATH}?state={place}"));
            Ok(VisitOutcome::Answered(step.respond().into()))
        }
        None | Some(SessionState::Over) => match Hold::of(headers) {
            Some(Hold::Off) => Ok(VisitOutcome::PassedOn(None)),
            Some(Hold::Tried) => Err(not_kept(login, Place::here(context, page))),
            None => Ok(VisitOutcome::Answered(begin(login, Place::here(context, page)).into())),
        },
    }
}

/// Sends the browser to where the login is asked for.
fn begin(login: PbxLogin<'_>, place: Place) -> Response<Body> {
    login.gate.tally.auto(AutoStep::Begun);
    let mut response = response::redirect(StatusCode::SEE_OTHER, &place.login_address(login));
    response.headers_mut().append(header::SET_COOKIE, Hold::Tried.cookie());
    response
}

/// Returns the error of a login that has led here and did not last, with the ways on that a person may click.
fn not_kept(login: PbxLogin<'_>, place: Place) -> Error {
    login.gate.tally.auto(AutoStep::NotKept);
    let password = place.page.left_alone();
    Error::LoginNotKept(Box::new(WaysOn { again: place.login_address(login), password }))
}

/// Answers `/auth/callgate/page`: the steps before and behind an automatic login, on the PBX's host.
///
/// # Errors
/// When the place is not one that callgate has sealed for this host a short time ago, or the browser did not keep the
/// session.
pub(in crate::proxy) async fn answer(
    logins: PbxLogins<'_>,
    request: &Request<RequestBody>,
    context: &RequestContext,
) -> Result<Response<Body>, Error> {
    let headers = request.headers();
    let login = logins.answering(&context.authority.host).filter(|login| login.settings.auto.is_some());
    let login = login.ok_or(Error::NotFound)?;
    if fetch_metadata::is_prefetch(request.method(), headers) {
        return Err(Error::Prefetch);
    }
    if request.method() != Method::GET {
        return Err(Error::MethodNotAllowed("GET, HEAD"));
    }
    if !fetch_metadata::is_top_level(headers) {
        return Err(Error::CrossSite);
    }
    let sealed = Fields::of_form(request.uri().query().unwrap_or_default().as_bytes())?.take(STATE);
    let again = place::open_here(login, sealed.as_deref(), Step::Again, context);
    let arrived = place::open_here(login, sealed.as_deref(), Step::Arrived, context);
    match (again, arrived) {
        (Some(place), _) => Ok(try_again(login, place, headers)),
        (None, Some(place)) => arrive(login, place, headers, context).await,
        (None, None) => Err(Error::Malformed(OLD_PLACE)),
    }
}

/// Decides once more on a page that another site has led to: now the browser has sent all its cookies.
fn try_again(login: PbxLogin<'_>, place: Place, headers: &HeaderMap) -> Response<Body> {
    if session_state::cookie(headers).is_some() || Hold::of(headers).is_some() {
        return response::redirect(StatusCode::SEE_OTHER, place.page.as_str());
    }
    begin(login, place)
}

/// Ends an automatic login: the browser goes on to the page, if it has the session.
async fn arrive(
    login: PbxLogin<'_>,
    place: Place,
    headers: &HeaderMap,
    context: &RequestContext,
) -> Result<Response<Body>, Error> {
    match session_state::of(login, headers, context).await {
        None => return Err(not_kept(login, place)),
        Some(SessionState::Over) if !session_state::is_ours(login, headers) => return Err(not_kept(login, place)),
        Some(SessionState::Over) => {
            // A login for each page would be worse than none: the session is new, so the markers must be wrong.
            tracing::warn!(
                id = %context.id,
                "the PBX describes a session that it has just opened as one that is over: see logged_in of [pbx]"
            );
            session_state::believe_alive(login, headers, context);
        }
        Some(SessionState::Alive | SessionState::Unknown) => {}
    }
    login.gate.tally.auto(AutoStep::Arrived);
    Ok(response::redirect(StatusCode::SEE_OTHER, place.page.as_str()))
}
