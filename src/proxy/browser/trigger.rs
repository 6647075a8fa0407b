//! What made a browser send a request. Requests that a page of another origin causes must not count against its visitors.
//!
//! Fetch Metadata and `Origin` tell it. A request without both counts as a program's.

use http::Method;
use http::header::{self, HeaderMap, HeaderValue};

use super::cors::Initiator;
use super::fetch_metadata;
use crate::config::{Config, NodeIndex};
use crate::message::target::Authority;

/// The cause of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Trigger {
    /// A person, a page of this or a listed origin, or a program.
    Own,
    /// A page of another origin, or a link on it, navigated a window here.
    Navigation,
    /// A page of another origin, invisibly: an image, a frame, a script, a form.
    ForeignPage,
}

/// Finds the cause of a request. `initiator`: the page that sends it.
pub(in crate::proxy) fn of(method: &Method, headers: &HeaderMap, initiator: &Initiator) -> Trigger {
    let site = site(headers);
    if is_navigation(method, headers) {
        return if is_foreign(site) { Trigger::Navigation } else { Trigger::Own };
    }
    match initiator {
        Initiator::Own | Initiator::Listed(_) => Trigger::Own,
        // Perhaps the browser itself, or an extension.
        Initiator::Foreign if site == Some(b"none") && !headers.contains_key(header::ORIGIN) => Trigger::Own,
        Initiator::Foreign => Trigger::ForeignPage,
    }
}

/// Tells whether the browser says that a request navigates a window.
fn is_navigation(method: &Method, headers: &HeaderMap) -> bool {
    let is_get = matches!(*method, Method::GET | Method::HEAD);
    is_get && headers.contains_key("sec-fetch-mode") && fetch_metadata::is_top_level(headers)
}

fn site(headers: &HeaderMap) -> Option<&[u8]> {
    headers.get("sec-fetch-site").map(HeaderValue::as_bytes)
}

fn is_foreign(site: Option<&[u8]>) -> bool {
    matches!(site, Some(b"cross-site" | b"same-site"))
}

/// Finds the cause of a request that is forwarded to a PBX node. Pages of the app may log people in there. With `hosts` in
/// `[app]` the app's origins are known; without, any host of the same site may be the app's.
pub(in crate::proxy) fn at_pbx(
    method: &Method,
    headers: &HeaderMap,
    authority: &Authority,
    config: &Config,
    node: NodeIndex,
) -> Trigger {
    let site = site(headers);
    if is_navigation(method, headers) {
        return if is_foreign(site) { Trigger::Navigation } else { Trigger::Own };
    }
    let mut origins = headers.get_all(header::ORIGIN).into_iter();
    let names_apps = config.app.as_ref().is_none_or(|app| !app.upstream.hosts.is_empty());
    match (origins.next(), origins.next()) {
        (Some(origin), None) if knows_origin(config, node, origin.as_bytes(), authority) => Trigger::Own,
        (Some(_), _) if names_apps || site == Some(b"cross-site") => Trigger::ForeignPage,
        (None, _) if site == Some(b"cross-site") => Trigger::ForeignPage,
        _ => Trigger::Own,
    }
}

/// Tells whether an origin is this one, a listed one, or a host of the app or of the node.
fn knows_origin(config: &Config, node: NodeIndex, origin: &[u8], authority: &Authority) -> bool {
    let pbx = &config.pbx[node];
    let of_pbx = pbx.origins.iter().flatten();
    let listed = config.voximplant.iter().flat_map(|voximplant| &voximplant.origins).chain(of_pbx);
    if origin == authority.origin().as_bytes() || listed.into_iter().any(|one| one.as_bytes() == origin) {
        return true;
    }
    let host = str::from_utf8(origin).ok().and_then(|origin| origin.strip_prefix("https://"));
    let host = host.map(|host| host.rsplit_once(':').map_or(host, |(host, _)| host));
    let is_of_app = |host: &str| config.app.as_ref().is_some_and(|app| app.upstream.lists(host));
    host.is_some_and(|host| is_of_app(host) || config.pbx.at_host(host) == Some(node))
}

#[cfg(test)]
mod tests {
    use http::{Uri, Version};

    use super::*;
    use crate::message::target;
    use crate::proxy::browser::cors;

    #[track_caller]
    fn check(method: &Method, fields: &[(&'static str, &'static str)], expected: Trigger) {
        let mut headers: HeaderMap = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("app.test"));
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let authority = target::authority(Version::HTTP_11, &Uri::from_static("/"), &headers).unwrap();
        let initiator = cors::initiator(&headers, &authority, &["https://listed.test".into()]);
        let found = of(method, &headers, &initiator);
        assert_eq!(found, expected, "{method} {fields:?}");
    }

    fn fetch(site: &'static str, mode: &'static str, dest: &'static str) -> [(&'static str, &'static str); 3] {
        [("sec-fetch-site", site), ("sec-fetch-mode", mode), ("sec-fetch-dest", dest)]
    }

    #[test]
    fn what_pages_of_others_do_unseen_is_theirs() {
        for site in ["cross-site", "same-site"] {
            check(&Method::GET, &fetch(site, "no-cors", "image"), Trigger::ForeignPage);
            check(&Method::GET, &fetch(site, "navigate", "iframe"), Trigger::ForeignPage);
            check(&Method::GET, &fetch(site, "navigate", "object"), Trigger::ForeignPage);
            check(&Method::GET, &fetch(site, "cors", "empty"), Trigger::ForeignPage);
            check(&Method::POST, &fetch(site, "no-cors", "empty"), Trigger::ForeignPage);
            check(&Method::POST, &fetch(site, "navigate", "document"), Trigger::ForeignPage);
            check(&Method::GET, &[("sec-fetch-site", site)], Trigger::ForeignPage);
        }
        check(&Method::GET, &[("origin", "https://evil.test")], Trigger::ForeignPage);
        check(&Method::POST, &[("origin", "null")], Trigger::ForeignPage);
    }

    #[test]
    fn a_window_that_another_page_sends_here_is_known() {
        check(&Method::GET, &fetch("cross-site", "navigate", "document"), Trigger::Navigation);
        check(&Method::GET, &fetch("same-site", "navigate", "document"), Trigger::Navigation);
        check(&Method::GET, &fetch("none", "navigate", "document"), Trigger::Own);
        check(&Method::GET, &fetch("same-origin", "navigate", "document"), Trigger::Own);
    }

    #[test]
    fn our_own_pages_listed_ones_and_programs_ask_by_themselves() {
        check(&Method::GET, &[], Trigger::Own);
        check(&Method::POST, &[], Trigger::Own);
        check(&Method::GET, &fetch("same-origin", "no-cors", "image"), Trigger::Own);
        check(&Method::GET, &fetch("none", "no-cors", "empty"), Trigger::Own);
        check(&Method::POST, &[("origin", "https://app.test"), ("sec-fetch-site", "same-origin")], Trigger::Own);
        check(&Method::POST, &[("origin", "https://listed.test"), ("sec-fetch-site", "cross-site")], Trigger::Own);
    }
}
