//! The place where an automatic login began, sealed for the browser that carries it.

use jiff::Timestamp;

use crate::config::LoginOrigin;
use crate::model::path::{PAGE_PATH, PBX_PATH};
use crate::model::pbx_page::PbxPage;
use crate::proxy::context::RequestContext;
use crate::proxy::login::link_options::STATE;
use crate::proxy::login::session::{PbxLogin, PbxLogins};
use crate::seal::{Purpose, SealKey};

/// How long a place may be carried, in seconds: a person may log in at the app or at a provider meanwhile.
const LIFE: i64 = 600;

/// The step at which a place is shown. A place that is sealed for one step opens for no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// On the PBX's host, before a login: the browser shows all its cookies.
    Again,
    /// At `/auth/pbx`.
    Login,
    /// On the PBX's host, behind the login.
    Arrived,
}

impl Step {
    const fn text(self) -> &'static str {
        match self {
            Self::Again => "again",
            Self::Login => "login",
            Self::Arrived => "arrived",
        }
    }
}

/// A page of a host of the PBX.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::proxy::login) struct Place {
    /// The host without port, in lower case.
    pub(in crate::proxy::login) host: String,
    pub(super) page: PbxPage,
}

impl Place {
    /// Takes the place of a request.
    pub(super) fn here(context: &RequestContext, page: PbxPage) -> Self {
        Self { host: context.authority.host.clone(), page }
    }

    /// Seals the place for a step.
    pub(super) fn sealed(&self, login: PbxLogin<'_>, step: Step) -> String {
        let text = self.write(Timestamp::now());
        login.sessions.seal().seal(text.as_bytes(), Purpose::Page, &[step.text()])
    }

    /// Returns the address where the login is asked for.
    pub(super) fn login_address(&self, login: PbxLogin<'_>) -> String {
        let origin = match login.settings.auto.as_ref().map(|auto| &auto.at) {
            Some(LoginOrigin::Other { origin, .. }) => origin.as_str(),
            Some(LoginOrigin::Own) | None => "",
        };
        format!("{origin}{PBX_PATH}?{STATE}={}", self.sealed(login, Step::Login))
    }

    /// Returns the path on the place's host at which the login ends.
    pub(in crate::proxy::login) fn arrival(&self, login: PbxLogin<'_>) -> String {
        format!("{PAGE_PATH}?state={}", self.sealed(login, Step::Arrived))
    }

    /// Writes time, host and page. None of them contains a space.
    fn write(&self, now: Timestamp) -> String {
        format!("{} {} {}", now.as_second(), self.host, self.page)
    }

    /// Reads what [`Place::write`] has written at most [`LIFE`] ago.
    fn read(text: &str, now: Timestamp) -> Option<Self> {
        let mut parts = text.split(' ');
        let (began, host, page) = (parts.next()?.parse::<i64>().ok()?, parts.next()?, parts.next()?);
        let age = now.as_second().checked_sub(began)?;
        // The clock may have been set back.
        let is_young = (-LIFE..LIFE).contains(&age);
        let place = Self { host: host.to_owned(), page: page.parse().ok()? };
        (is_young && parts.next().is_none()).then_some(place)
    }
}

fn open(seal: &SealKey, sealed: Option<&str>, step: Step) -> Option<Place> {
    let text = seal.open(sealed?, Purpose::Page, &[step.text()])?;
    Place::read(str::from_utf8(&text).ok()?, Timestamp::now())
}

/// Opens a place that was sealed for this host.
pub(super) fn open_here(
    login: PbxLogin<'_>,
    sealed: Option<&str>,
    step: Step,
    context: &RequestContext,
) -> Option<Place> {
    open(login.sessions.seal(), sealed, step).filter(|place| place.host == context.authority.host)
}

/// Opens the place that a login leads back to, and finds its node. Its host must be one of `[pbx] hosts`, or the host of the
/// login itself: anybody can have a place sealed under a host name of their own.
pub(in crate::proxy::login) fn place_of<'p>(
    logins: PbxLogins<'p>,
    sealed: Option<&str>,
    context: &RequestContext,
) -> Option<(PbxLogin<'p>, Place)> {
    let place = open(&logins.state.seal, sealed, Step::Login)?;
    let login = logins.answering(&place.host).filter(|login| login.settings.auto.is_some())?;
    let is_ours = login.settings.upstream.lists(&place.host) || place.host == context.authority.host;
    is_ours.then_some((login, place))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_place_is_good_for_ten_minutes() {
        let place = || Place { host: "pbx.test".to_owned(), page: "/usr_index.htm?a=1".parse().unwrap() };
        let text = place().write(at(1000));
        assert_eq!(Place::read(&text, at(1599)), Some(place()));
        assert_eq!(Place::read(&text, at(1600)), None);
        assert_eq!(Place::read(&text, at(401)), Some(place()));
        assert_eq!(Place::read(&text, at(399)), None);
    }

    #[test]
    fn what_is_no_page_is_no_place() {
        for text in [
            "",
            "1000",
            "1000 pbx.test",
            "1000 pbx.test //evil.test/",
            "1000 pbx.test /x.htm more",
            "x pbx.test /x.htm",
            "1000 pbx.test /rest/x",
        ] {
            assert_eq!(Place::read(text, at(1000)), None, "{text}");
        }
    }
}
