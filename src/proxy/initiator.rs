//! Who made a browser ask: what a page of another origin does must count against none of its visitors.
//!
//! Fetch Metadata and `Origin` say it. A request without both is judged as a program's.

use http::Method;
use http::header::{self, HeaderMap, HeaderValue};

use super::{Proxy, click, cors};
use crate::config;
use crate::message::target::Authority;

/// Who made a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Initiator {
    /// A person, a page of ours or of a listed origin, or a program.
    Own,
    /// A page of another origin, or a link on it, sent a whole window here.
    Navigation,
    /// A page of another origin, unseen: an image, a frame, a script, a form.
    ForeignPage,
}

/// Finds who made a request. `listed`: the origins that may ask.
pub(super) fn of(method: &Method, headers: &HeaderMap, authority: &Authority, listed: &[String]) -> Initiator {
    let site = site(headers);
    if is_navigation(method, headers) {
        return if is_foreign(site) { Initiator::Navigation } else { Initiator::Own };
    }
    match cors::from(headers, authority, listed) {
        cors::From::Here | cors::From::Listed(_) => Initiator::Own,
        // An extension of the browser or the browser itself, perhaps.
        cors::From::Elsewhere if site == Some(b"none") && !headers.contains_key(header::ORIGIN) => Initiator::Own,
        cors::From::Elsewhere => Initiator::ForeignPage,
    }
}

/// Tells whether a browser says of a request that it fills a window.
fn is_navigation(method: &Method, headers: &HeaderMap) -> bool {
    let is_get = matches!(*method, Method::GET | Method::HEAD);
    is_get && headers.contains_key("sec-fetch-mode") && click::is_top_level(headers)
}

fn site(headers: &HeaderMap) -> Option<&[u8]> {
    headers.get("sec-fetch-site").map(HeaderValue::as_bytes)
}

fn is_foreign(site: Option<&[u8]>) -> bool {
    matches!(site, Some(b"cross-site" | b"same-site"))
}

impl Proxy {
    /// Finds who made a request that passes to the PBX. Pages of the app may log people in there: with `hosts` of `[app]`
    /// they are known; without, any host may be the app's, unless it is of another site.
    pub(super) fn initiator_at_pbx(&self, method: &Method, headers: &HeaderMap, authority: &Authority) -> Initiator {
        let site = site(headers);
        if is_navigation(method, headers) {
            return if is_foreign(site) { Initiator::Navigation } else { Initiator::Own };
        }
        let mut origins = headers.get_all(header::ORIGIN).into_iter();
        let names_apps = self.config.app.as_ref().is_none_or(|app| !app.upstream.hosts.is_empty());
        match (origins.next(), origins.next()) {
            (Some(origin), None) if self.knows_origin(origin.as_bytes(), authority) => Initiator::Own,
            (Some(_), _) if names_apps || site == Some(b"cross-site") => Initiator::ForeignPage,
            (None, _) if site == Some(b"cross-site") => Initiator::ForeignPage,
            _ => Initiator::Own,
        }
    }

    fn knows_origin(&self, origin: &[u8], authority: &Authority) -> bool {
        let listed = self.config.voximplant.iter().flat_map(|voximplant| &voximplant.origins);
        if origin == authority.origin().as_bytes() || listed.into_iter().any(|one| one.as_bytes() == origin) {
            return true;
        }
        let host = str::from_utf8(origin).ok().and_then(|origin| origin.strip_prefix("https://"));
        let host = host.map(|host| host.rsplit_once(':').map_or(host, |(host, _)| host));
        let upstreams = [super::app_upstream(&self.config), super::pbx_upstream(&self.config)];
        host.is_some_and(|host| upstreams.into_iter().flatten().any(|upstream: &config::Upstream| upstream.lists(host)))
    }
}

#[cfg(test)]
mod tests {
    use http::{Uri, Version};

    use super::*;
    use crate::message::target;

    #[track_caller]
    fn check(method: &Method, fields: &[(&'static str, &'static str)], expected: Initiator) {
        let mut headers: HeaderMap = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("app.test"));
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let authority = target::authority(Version::HTTP_11, &Uri::from_static("/"), &headers).unwrap();
        let found = of(method, &headers, &authority, &["https://listed.test".into()]);
        assert_eq!(found, expected, "{method} {fields:?}");
    }

    fn fetch(site: &'static str, mode: &'static str, dest: &'static str) -> [(&'static str, &'static str); 3] {
        [("sec-fetch-site", site), ("sec-fetch-mode", mode), ("sec-fetch-dest", dest)]
    }

    #[test]
    fn what_pages_of_others_do_unseen_is_theirs() {
        for site in ["cross-site", "same-site"] {
            check(&Method::GET, &fetch(site, "no-cors", "image"), Initiator::ForeignPage);
            check(&Method::GET, &fetch(site, "navigate", "iframe"), Initiator::ForeignPage);
            check(&Method::GET, &fetch(site, "navigate", "object"), Initiator::ForeignPage);
            check(&Method::GET, &fetch(site, "cors", "empty"), Initiator::ForeignPage);
            check(&Method::POST, &fetch(site, "no-cors", "empty"), Initiator::ForeignPage);
            check(&Method::POST, &fetch(site, "navigate", "document"), Initiator::ForeignPage);
            check(&Method::GET, &[("sec-fetch-site", site)], Initiator::ForeignPage);
        }
        check(&Method::GET, &[("origin", "https://evil.test")], Initiator::ForeignPage);
        check(&Method::POST, &[("origin", "null")], Initiator::ForeignPage);
    }

    #[test]
    fn a_window_that_another_page_sends_here_is_known() {
        check(&Method::GET, &fetch("cross-site", "navigate", "document"), Initiator::Navigation);
        check(&Method::GET, &fetch("same-site", "navigate", "document"), Initiator::Navigation);
        check(&Method::GET, &fetch("none", "navigate", "document"), Initiator::Own);
        check(&Method::GET, &fetch("same-origin", "navigate", "document"), Initiator::Own);
    }

    #[test]
    fn our_own_pages_listed_ones_and_programs_ask_by_themselves() {
        check(&Method::GET, &[], Initiator::Own);
        check(&Method::POST, &[], Initiator::Own);
        check(&Method::GET, &fetch("same-origin", "no-cors", "image"), Initiator::Own);
        check(&Method::GET, &fetch("none", "no-cors", "empty"), Initiator::Own);
        check(&Method::POST, &[("origin", "https://app.test"), ("sec-fetch-site", "same-origin")], Initiator::Own);
        check(&Method::POST, &[("origin", "https://listed.test"), ("sec-fetch-site", "cross-site")], Initiator::Own);
    }
}
