//! The PBX's landing page: links to it, and redirects of the app that lead to it.

use percent_encoding::percent_decode_str;

use super::account::{Language, is_host_name};
use super::session::{SESSION_PARAMETER, SessionId};

/// The default port of `https`.
const HTTPS: u16 = 443;

/// The URL of a request, against which a `Location` is resolved.
pub struct BaseUrl<'a> {
    /// The host of the request, in lower case, without port.
    pub host: &'a str,
    /// The port of the request; `None`: 443.
    pub port: Option<u16>,
    /// The path of the request.
    pub path: &'a str,
    /// Tells whether a host name in lower case is one of the PBX's.
    pub is_pbx_host: &'a dyn Fn(&str) -> bool,
}

/// The target of a `Location`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LandingTarget {
    /// No landing page of ours.
    Elsewhere,
    /// A landing page on the host of the request.
    Relative,
    /// A landing page on this `host[:port]`, as written in the `Location`.
    PbxHost(String),
}

/// Writes the link that hands a session over to the browser.
#[must_use]
pub fn link(authority: &str, landing: &str, session: &SessionId, language: Option<&Language>) -> String {
    with_session(&format!("https://{authority}{landing}"), session, language)
}

/// Tells whether a `Location` leads to one of the landing pages when a browser follows it.
///
/// The page must be on a host of the PBX and on the port of the request. A location with user information, backslashes
/// or white space never leads to a landing page, because browsers differ in how they read these.
#[must_use]
pub fn target(location: &str, landing: &[&str], base: &BaseUrl<'_>) -> LandingTarget {
    if location.contains(|c: char| c.is_control() || c.is_whitespace() || c == '\\') {
        return LandingTarget::Elsewhere;
    }
    let url = location.split(['?', '#']).next().unwrap_or_default();
    match authority_and_path(url) {
        Some((authority, path)) if landing.contains(&path) && leads_to_pbx(authority, base) => {
            LandingTarget::PbxHost(authority.to_owned())
        }
        None if (base.is_pbx_host)(base.host) && leads_to_page(url, landing, base.path) => LandingTarget::Relative,
        Some(_) | None => LandingTarget::Elsewhere,
    }
}

/// Appends a session, and a language if there is one, to the query.
///
/// Removes every `sessId` and, with a language, every `lang` from the query. Keeps other parameters and the fragment
/// byte for byte.
#[must_use]
pub fn with_session(location: &str, session: &SessionId, language: Option<&Language>) -> String {
    let (url, fragment) = location.split_at(location.find('#').unwrap_or(location.len()));
    let (page, query) = url.split_once('?').unwrap_or((url, ""));
    let mut parameters: Vec<String> = kept(query, language).into_iter().map(str::to_owned).collect();
    parameters.push(format!("{SESSION_PARAMETER}={}", session.expose()));
    parameters.extend(language.map(|language| format!("lang={language}")));
    format!("{page}?{}{fragment}", parameters.join("&"))
}

/// Writes the landing page with the query and the fragment of a location.
///
/// Removes every `sessId` and, with a language, every `lang` from the query. Keeps other parameters and the fragment
/// byte for byte.
#[must_use]
pub fn without_session(location: &str, landing: &str, language: Option<&Language>) -> String {
    let (url, fragment) = location.split_at(location.find('#').unwrap_or(location.len()));
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let parameters = kept(query, language).join("&");
    let mark = if parameters.is_empty() { "" } else { "?" };
    format!("{landing}{mark}{parameters}{fragment}")
}

/// Tells whether a `Location` names no host.
#[must_use]
pub fn is_relative(location: &str) -> bool {
    authority_and_path(location.split(['?', '#']).next().unwrap_or_default()).is_none()
}

/// Returns the parameters of a query that stay.
fn kept<'q>(query: &'q str, language: Option<&Language>) -> Vec<&'q str> {
    let parameters = query.split('&').filter(|parameter| !parameter.is_empty());
    let foreign = parameters.filter(|parameter| !is_named(parameter, SESSION_PARAMETER));
    foreign.filter(|parameter| language.is_none() || !is_named(parameter, "lang")).collect()
}

/// Returns the decoded `lang` of the query; `None` unless there is exactly one.
#[must_use]
pub fn lang_of(location: &str) -> Option<String> {
    let (_, query) = location.split('#').next()?.split_once('?')?;
    let mut languages = query.split('&').filter(|parameter| is_named(parameter, "lang"));
    let (Some(language), None) = (languages.next(), languages.next()) else {
        return None;
    };
    let (_, value) = language.split_once('=')?;
    percent_decode_str(value).decode_utf8().ok().map(String::from)
}

/// Splits `https://host/path` and `//host/path`; `None` for a relative reference (RFC 3986 §4.2).
fn authority_and_path(url: &str) -> Option<(&str, &str)> {
    let scheme = url.get(..6).filter(|scheme| scheme.eq_ignore_ascii_case("https:"));
    let rest = url[scheme.map_or(0, str::len)..].strip_prefix("//")?;
    Some(rest.split_at(rest.find('/').unwrap_or(rest.len())))
}

/// Tells whether `host[:port]` is a host of the PBX on the port of the request.
fn leads_to_pbx(authority: &str, base: &BaseUrl<'_>) -> bool {
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, read_port(port)),
        None => (authority, Some(HTTPS)),
    };
    // A host pattern compares only the end of a name, so `evil.test%2f.pbx.test` must be excluded before.
    is_host_name(host) && port == Some(base.port.unwrap_or(HTTPS)) && (base.is_pbx_host)(&host.to_ascii_lowercase())
}

fn read_port(text: &str) -> Option<u16> {
    // `parse` alone accepts "+443".
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Tells whether a relative reference without authority, resolved against a path, leads to a landing page.
fn leads_to_page(reference: &str, landing: &[&str], base: &str) -> bool {
    if reference.starts_with('/') {
        return landing.contains(&reference);
    }
    // A colon in the first segment ends a scheme: `http:/../welcome.htm` is not a relative path (RFC 3986 §4.2).
    let first = reference.split('/').next().unwrap_or_default();
    if reference.is_empty() || first.contains(':') {
        return false;
    }
    landing.contains(&followed(reference, base).as_str())
}

/// Resolves a relative path against a path.
fn followed(relative: &str, base: &str) -> String {
    let directory = &base[..base.rfind('/').map_or(0, |slash| slash + 1)];
    without_dots(&format!("{directory}{relative}"))
}

/// Removes the dot segments of an absolute path (RFC 3986 §5.2.4).
fn without_dots(path: &str) -> String {
    let mut kept = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
        if is_last && matches!(segment, "." | "..") {
            kept.push("");
        }
    }
    format!("/{}", kept.join("/"))
}

fn is_named(parameter: &str, name: &str) -> bool {
    let encoded = parameter.split('=').next().unwrap_or_default();
    percent_decode_str(encoded).eq(name.bytes())
}

/// Returns the session ids in a query, as the landing page reads them.
pub fn sessions_of(query: &str) -> impl Iterator<Item = &str> {
    query.split('&').filter_map(|parameter| parameter.strip_prefix(SESSION_PARAMETER)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> SessionId {
        "newsession".parse().unwrap()
    }

    fn french() -> Language {
        "fr".parse().unwrap()
    }

    #[test]
    fn links_to_the_landing_page() {
        assert_eq!(
            link("pbx.test:8443", "/welcome.htm", &session(), Some(&french())),
            "https://pbx.test:8443/welcome.htm?sessId=newsession&lang=fr"
        );
        assert_eq!(
            link("pbx.test", "/welcome.htm", &session(), None),
            "https://pbx.test/welcome.htm?sessId=newsession"
        );
    }

    // === with_session ===

    #[track_caller]
    fn check(location: &str, expected: &str) {
        assert_eq!(with_session(location, &session(), None), expected, "{location}");
    }

    #[track_caller]
    fn check_french(location: &str, expected: &str) {
        assert_eq!(with_session(location, &session(), Some(&french())), expected, "{location}");
    }

    #[test]
    fn appends_the_session_before_the_fragment() {
        check("/welcome.htm", "/welcome.htm?sessId=newsession");
        check("/welcome.htm?", "/welcome.htm?sessId=newsession");
        check("/welcome.htm#top", "/welcome.htm?sessId=newsession#top");
        check("/welcome.htm#a?sessId=x", "/welcome.htm?sessId=newsession#a?sessId=x");
        check("https://pbx.test/welcome.htm?a=1#", "https://pbx.test/welcome.htm?a=1&sessId=newsession#");
    }

    #[test]
    fn keeps_other_parameters_byte_for_byte() {
        check("/welcome.htm?b=%41+%zz&a=1&b", "/welcome.htm?b=%41+%zz&a=1&b&sessId=newsession");
        check("/w?a==&=x&é=?/", "/w?a==&=x&é=?/&sessId=newsession");
        check("/w?sessid=1&SESSID=2&sessIdx=3&xsessId=4", "/w?sessid=1&SESSID=2&sessIdx=3&xsessId=4&sessId=newsession");
        check("/w?x=sessId&y=sessId=1", "/w?x=sessId&y=sessId=1&sessId=newsession");
        check("/w?a=1&&b=2&", "/w?a=1&b=2&sessId=newsession");
    }

    #[test]
    fn replaces_stale_sessions_however_spelled() {
        check("/w?sessId=old", "/w?sessId=newsession");
        check("/w?sessId", "/w?sessId=newsession");
        check("/w?sessId=1&a=1&sessId=2&sessId=", "/w?a=1&sessId=newsession");
        check("/w?a=1&%73ess%49d=old&b=2", "/w?a=1&b=2&sessId=newsession");
    }

    #[test]
    fn replaces_the_language_only_by_a_language() {
        check("/w?lang=sp", "/w?lang=sp&sessId=newsession");
        check_french("/w?lang=sp&a=1&l%61ng=en", "/w?a=1&sessId=newsession&lang=fr");
        check_french("/w#x", "/w?sessId=newsession&lang=fr#x");
        check_french("/w?LANG=sp", "/w?LANG=sp&sessId=newsession&lang=fr");
    }

    #[test]
    fn reads_the_language_if_there_is_one() {
        let rows = [
            ("/w?lang=fr", Some("fr")),
            ("/w?a=1&l%61ng=%66r#x", Some("fr")),
            ("/w?lang=", Some("")),
            ("/w?lang", None),
            ("/w?lang=fr&lang=fr", None),
            ("/w?lang=%ff", None),
            ("/w?Lang=fr", None),
            ("/w#?lang=fr", None),
            ("/w", None),
        ];
        for (location, expected) in rows {
            assert_eq!(lang_of(location).as_deref(), expected, "{location}");
        }
    }

    #[test]
    fn a_page_keeps_all_but_the_session() {
        for (location, language, expected) in [
            ("/welcome.htm", None, "/thirdparty.htm"),
            ("welcome.htm?", None, "/thirdparty.htm"),
            ("https://pbx.test/thirdparty.htm?a=1&b=%2F//#top?x", None, "/thirdparty.htm?a=1&b=%2F//#top?x"),
            ("/welcome.htm?sessId=1&a=1&s%65ssId=2#sessId=3", None, "/thirdparty.htm?a=1#sessId=3"),
            ("/welcome.htm?lang=fr&a", None, "/thirdparty.htm?lang=fr&a"),
            ("/welcome.htm?lang=sp&a&l%61ng", Some(french()), "/thirdparty.htm?a"),
            ("/welcome.htm?sessId#", None, "/thirdparty.htm#"),
        ] {
            assert_eq!(without_session(location, "/thirdparty.htm", language.as_ref()), expected, "{location}");
        }
    }

    #[test]
    fn a_relative_reference_names_no_host() {
        for location in ["/welcome.htm", "welcome.htm?next=https://app.test//x", "/w#//x", "", "x//y"] {
            assert!(is_relative(location), "{location}");
        }
        for location in ["https://app.test/welcome.htm", "//app.test/welcome.htm", "HTTPS://a?b", "///welcome.htm"] {
            assert!(!is_relative(location), "{location}");
        }
    }

    // === target ===

    fn is_pbx_host(host: &str) -> bool {
        host == "pbx.test" || host.ends_with(".tenants.test")
    }

    /// Resolves a location against `/portal/login` on `host`.
    fn follow(location: &str, host: &str, port: Option<u16>) -> LandingTarget {
        let base = BaseUrl { host, port, path: "/portal/login", is_pbx_host: &is_pbx_host };
        target(location, &["/welcome.htm", "/m/welcome.htm"], &base)
    }

    #[track_caller]
    fn check_pbx(location: &str, port: Option<u16>, authority: &str) {
        assert_eq!(follow(location, "app.test", port), LandingTarget::PbxHost(authority.to_owned()), "{location}");
    }

    #[track_caller]
    fn check_elsewhere(locations: &[&str]) {
        for location in locations {
            assert_eq!(follow(location, "pbx.test", None), LandingTarget::Elsewhere, "{location:?}");
        }
    }

    #[test]
    fn knows_the_landing_page_on_hosts_of_the_pbx() {
        check_pbx("https://pbx.test/welcome.htm", None, "pbx.test");
        check_pbx("https://pbx.test/m/welcome.htm?a=/../b#c", None, "pbx.test");
        check_pbx("https://a.tenants.test/welcome.htm", None, "a.tenants.test");
        check_pbx("//pbx.test/welcome.htm", None, "pbx.test");
        check_pbx("HTTPS://PBX.Test/welcome.htm", None, "PBX.Test");
    }

    #[test]
    fn the_port_must_be_the_requests() {
        check_pbx("https://pbx.test:443/welcome.htm", None, "pbx.test:443");
        check_pbx("https://pbx.test/welcome.htm", Some(443), "pbx.test");
        check_pbx("https://pbx.test:8443/welcome.htm", Some(8443), "pbx.test:8443");
        for (location, port) in [
            ("https://pbx.test/welcome.htm", Some(8443)),
            ("https://pbx.test:8443/welcome.htm", None),
            ("https://pbx.test:443/welcome.htm", Some(8443)),
            ("https://pbx.test:/welcome.htm", None),
            ("https://pbx.test:+443/welcome.htm", None),
            ("https://pbx.test:65979/welcome.htm", None),
            ("https://pbx.test:443:443/welcome.htm", None),
            ("https://pbx.test:44x/welcome.htm", None),
        ] {
            assert_eq!(follow(location, "pbx.test", port), LandingTarget::Elsewhere, "{location}");
        }
    }

    #[test]
    fn follows_relative_references_as_a_browser_does() {
        for location in [
            "/welcome.htm",
            "/welcome.htm?a=1#b",
            "/m/welcome.htm",
            "../welcome.htm",
            "./../welcome.htm",
            "../../../welcome.htm",
            "x/../../welcome.htm",
            "../m/welcome.htm",
            "../x/.././welcome.htm",
            "./a:b/../../welcome.htm",
        ] {
            assert_eq!(follow(location, "pbx.test", Some(8443)), LandingTarget::Relative, "{location}");
        }
    }

    #[test]
    fn a_relative_reference_leads_to_the_pbx_only_on_its_own_hosts() {
        for location in ["/welcome.htm", "../welcome.htm"] {
            assert_eq!(follow(location, "app.test", None), LandingTarget::Elsewhere, "{location}");
        }
    }

    #[test]
    fn resolves_against_the_directory_of_the_request() {
        for (path, expected) in [
            ("/", LandingTarget::Relative),
            ("/login", LandingTarget::Relative),
            ("/m/", LandingTarget::Relative),
            ("/m/x", LandingTarget::Relative),
            ("/x/", LandingTarget::Elsewhere),
            ("//", LandingTarget::Elsewhere),
            ("/m//x", LandingTarget::Elsewhere),
            ("/x/../login", LandingTarget::Relative),
            ("", LandingTarget::Elsewhere),
            ("*", LandingTarget::Elsewhere),
        ] {
            let base = BaseUrl { host: "pbx.test", port: None, path, is_pbx_host: &is_pbx_host };
            assert_eq!(target("welcome.htm", &["/welcome.htm", "/m/welcome.htm"], &base), expected, "{path}");
        }
    }

    #[test]
    fn foreign_hosts_are_elsewhere() {
        check_elsewhere(&[
            "https://evil.test/welcome.htm",
            "//evil.test/welcome.htm",
            "https://pbx.test.evil.test/welcome.htm",
            "https://evilpbx.test/welcome.htm",
            "https://pbx.test./welcome.htm",
            "https://.tenants.test/welcome.htm",
            "https://evil.test%2f.tenants.test/welcome.htm",
            "https://evil~x.tenants.test/welcome.htm",
            "https://pbx%2etest/welcome.htm",
            "https://ｐbx.test/welcome.htm",
            "https:///welcome.htm",
            "///welcome.htm",
            "////pbx.test/welcome.htm",
            "https:////pbx.test/welcome.htm",
            "//",
            "https://",
            "https://[::1]/welcome.htm",
        ]);
    }

    #[test]
    fn other_schemes_are_elsewhere() {
        check_elsewhere(&[
            "http://pbx.test/welcome.htm",
            "wss://pbx.test/welcome.htm",
            "http:/../welcome.htm",
            "http:../welcome.htm",
            "https:/../welcome.htm",
            "https:/welcome.htm",
            "https:../../welcome.htm",
            "https:pbx.test/welcome.htm",
            "javascript:/../../welcome.htm",
            "x:/../../welcome.htm",
            "://pbx.test/welcome.htm",
        ]);
    }

    #[test]
    fn what_browsers_read_in_their_own_way_is_elsewhere() {
        check_elsewhere(&[
            "https://pbx.test@evil.test/welcome.htm",
            "https://user:pw@pbx.test/welcome.htm",
            "https://@pbx.test/welcome.htm",
            "//evil.test@pbx.test/welcome.htm",
            "https://evil.test\\@pbx.test/welcome.htm",
            "https:\\\\pbx.test/welcome.htm",
            "/\\evil.test/../welcome.htm",
            "\\welcome.htm",
            "/welcome.htm?a=\\b",
            "/welcome.htm?a=\u{1}",
            "/welcome.htm?a= b",
            " /welcome.htm",
            "/welcome.htm ",
            "\t/welcome.htm",
            "/\t/welcome.htm",
            "/welcome.htm\r\nSet-Cookie: a=b",
            "/welcome.htm?a=\n",
            "https://pbx.test\u{a0}/welcome.htm",
            "/welcome.htm\0",
            "\u{85}/welcome.htm",
        ]);
    }

    #[test]
    fn other_pages_are_elsewhere() {
        check_elsewhere(&[
            "",
            "#x",
            "?a=/welcome.htm",
            "/",
            "welcome.htm",
            "/Welcome.htm",
            "/welcome.html",
            "/welcome.htm/",
            "/welcome.htm;x",
            "/welcome%2ehtm",
            "/%77elcome.htm",
            "/./welcome.htm",
            "/x/../welcome.htm",
            "/x//welcome.htm",
            "../welcome.htm/.",
            "../welcome.htm/..",
            "../welcome.htm/x/..",
            "..//welcome.htm",
            "%2e%2e/welcome.htm",
            "x/%2e%2e/../welcome.htm",
            "https://pbx.test",
            "https://pbx.test/",
            "https://pbx.test?/welcome.htm",
            "https://pbx.test#/welcome.htm",
            "https://pbx.test/x/../welcome.htm",
            "https://pbx.test//welcome.htm",
        ]);
    }
}
