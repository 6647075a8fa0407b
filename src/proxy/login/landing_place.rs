//! The page of the PBX at which a login ends: the landing page, a page of `[pbx] landings`, or the page where an automatic
//! login began.

use super::auto::Place;
use super::link_options::LinkOptions;
use super::session::PbxLogin;
use crate::config::PbxConfig;
use crate::proxy::error::Error;

/// The reason of a refusal: the caller names a page itself.
const NOT_LISTED: &str = "next is not one of the pages that [pbx] landings lists";
/// The reason of a refusal: two pages.
const TWO_PAGES: &str = "next and state name two pages";

/// The page at which a login ends.
#[derive(Debug, Default)]
pub(super) struct LandingPlace {
    /// The host of the PBX; `None`: the one that the grant leads to.
    pub(super) host: Option<String>,
    /// A path of that host; `None`: the landing page.
    pub(super) page: Option<String>,
}

/// Checks the page that a caller names. Only an exact path of the configuration is accepted: no host, no query, no other
/// spelling. `nodes`: those where the login may end.
///
/// # Errors
/// When it is not one of `[pbx] landings`.
pub(super) fn check<'p>(options: &LinkOptions, mut nodes: impl Iterator<Item = &'p PbxConfig>) -> Result<(), Error> {
    match (&options.next, &options.back) {
        (Some(_), Some(_)) => Err(Error::Malformed(TWO_PAGES)),
        (Some(next), None) if !nodes.any(|pbx| *next == pbx.landing || pbx.landings.contains(next)) => {
            Err(Error::Malformed(NOT_LISTED))
        }
        (Some(_) | None, None) | (None, Some(_)) => Ok(()),
    }
}

/// Finds the page at which a login ends. `back`: the place of this node where an automatic login began.
///
/// # Errors
/// As [`check`].
pub(super) fn find(login: PbxLogin<'_>, options: &LinkOptions, back: Option<Place>) -> Result<LandingPlace, Error> {
    check(options, [login.settings].into_iter())?;
    let next = options.next.clone().filter(|next| *next != login.settings.landing);
    // A place that is too old, or not ours, does not count: the login ends at the landing page.
    match back {
        Some(place) => Ok(LandingPlace { page: Some(place.arrival(login)), host: Some(place.host) }),
        None => Ok(LandingPlace { host: None, page: next }),
    }
}
