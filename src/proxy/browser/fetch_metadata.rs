//! Whether a person clicked: by the browser's Fetch Metadata, and by the names of link previewers in `User-Agent`.

use http::Method;
use http::header::HeaderMap;

use crate::message::fields;
use crate::proxy::answer::audience::accepts;

/// Parts of the `User-Agent` of programs that preview links.
const PREVIEWERS: [&str; 14] = [
    "bot",
    "crawler",
    "spider",
    "preview",
    "facebookexternalhit",
    "whatsapp",
    "skypeuripreview",
    "embedly",
    "slack-imgproxy",
    "vkshare",
    "pinterest",
    "outbrain",
    "mattermost",
    "safelinks",
];

/// Tells whether a request is a prefetch, a preview or `HEAD`: then no person has clicked yet.
pub(in crate::proxy) fn is_prefetch(method: &Method, headers: &HeaderMap) -> bool {
    let lines = |name: &str| {
        let lines = headers.get_all(name).into_iter();
        lines.map(|line| String::from_utf8_lossy(line.as_bytes()).to_ascii_lowercase())
    };
    let is_purpose = |line: String| line.contains("prefetch") || line.contains("preview");
    *method == Method::HEAD
        || ["sec-purpose", "purpose", "x-moz"].into_iter().flat_map(lines).any(is_purpose)
        || lines("user-agent").any(|agent| is_previewer(&agent))
}

fn is_previewer(agent: &str) -> bool {
    // Cubot is a brand of phones.
    let agent = agent.replace("cubot", "");
    PREVIEWERS.iter().any(|previewer| agent.contains(previewer))
}

/// Tells whether another site caused this navigation. Then cookies that are `SameSite=Strict` are missing.
pub(in crate::proxy) fn is_cross_site_navigation(headers: &HeaderMap) -> bool {
    let field = |name| fields::sole_or_empty(headers, name);
    field("sec-fetch-mode") == Some(b"navigate") && field("sec-fetch-site") == Some(b"cross-site")
}

/// Tells whether a request navigates a window. Images, frames and scripts do not. A client without Fetch Metadata may. A
/// field that stands twice counts as an unknown value.
pub(in crate::proxy) fn is_top_level(headers: &HeaderMap) -> bool {
    let field = |name| fields::sole_or_empty(headers, name);
    field("origin") != Some(b"")
        && matches!(field("sec-fetch-mode"), None | Some(b"navigate"))
        && matches!(field("sec-fetch-dest"), None | Some(b"document"))
}

/// Tells whether a browser opens a page in a window of its own: no frame, script, worker, program, phone or socket, and
/// nothing with credentials of its own. A browser without Fetch Metadata counts by `Accept: text/html`.
pub(in crate::proxy) fn opens_a_page(method: &Method, headers: &HeaderMap) -> bool {
    if *method != Method::GET || headers.get("sec-fetch-mode").is_some_and(|mode| mode != "navigate") {
        return false;
    }
    let has = |name: &&str| headers.contains_key(*name);
    let says = |name| fields::sole_or_empty(headers, name);
    let is_page = match ["sec-fetch-mode", "sec-fetch-dest", "sec-fetch-site"].iter().any(has) {
        true => says("sec-fetch-mode") == Some(b"navigate") && says("sec-fetch-dest") == Some(b"document"),
        false => accepts(headers, b"text/html"),
    };
    is_page && !NOT_OF_PAGES.iter().any(has) && !is_prefetch(method, headers)
}

/// Fields that no browser sends when it opens a page.
const NOT_OF_PAGES: [&str; 6] = ["authorization", "upgrade", "x-requested-with", "service-worker", "origin", "range"];

/// Tells whether the browser says that a person clicked or typed (Fetch Metadata: a navigation of a window with user
/// activation). A client that does not say so may be a program.
pub(in crate::proxy) fn is_user_activated(headers: &HeaderMap) -> bool {
    let says = |name, value: &[u8]| fields::sole_or_empty(headers, name) == Some(value);
    says("sec-fetch-mode", b"navigate") && says("sec-fetch-dest", b"document") && says("sec-fetch-user", b"?1")
}

#[cfg(test)]
mod tests {
    use http::header::HeaderValue;

    use super::*;

    #[test]
    fn a_person_is_one_whose_browser_says_so() {
        #[track_caller]
        fn check(fields: &[(&'static str, &'static str)], expected: bool) {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(is_user_activated(&headers), expected, "{fields:?}");
        }
        let [mode, dest, user] =
            [("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document"), ("sec-fetch-user", "?1")];
        check(&[mode, dest, user], true);
        check(&[("sec-fetch-site", "none"), user, dest, mode], true);
        check(&[], false);
        check(&[mode, dest], false);
        check(&[mode, user], false);
        check(&[mode, ("sec-fetch-dest", "iframe"), user], false);
        check(&[("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image"), user], false);
        check(&[mode, dest, ("sec-fetch-user", "?0")], false);
        check(&[mode, dest, user, ("sec-fetch-user", "?0")], false);
    }

    #[test]
    fn a_page_is_opened_by_a_window_and_by_nothing_else() {
        #[track_caller]
        fn check(method: &Method, fields: &[(&'static str, &'static str)], expected: bool) {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(opens_a_page(method, &headers), expected, "{method} {fields:?}");
        }
        let (mode, dest) = (("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document"));
        let html = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");
        check(&Method::GET, &[mode, dest], true);
        check(&Method::GET, &[mode, dest, ("sec-fetch-site", "cross-site"), html], true);
        check(&Method::GET, &[html], true);
        for method in [Method::HEAD, Method::POST, Method::CONNECT] {
            check(&method, &[mode, dest, html], false);
        }
        for fields in [
            &[][..],
            &[mode][..],
            &[dest],
            &[mode, html],
            &[("sec-fetch-site", "none"), html],
            &[mode, ("sec-fetch-dest", "iframe")],
            &[mode, ("sec-fetch-dest", "frame"), html],
            &[mode, ("sec-fetch-dest", "object")],
            &[("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty"), html],
            &[("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "empty"), ("sec-purpose", "prefetch")],
            &[mode, mode, dest],
            &[mode, dest, dest],
            &[("accept", "*/*")],
            &[("accept", "application/json")],
        ] {
            check(&Method::GET, fields, false);
        }
        for other in [
            ("authorization", "Basic eDp5"),
            ("upgrade", "websocket"),
            ("x-requested-with", "XMLHttpRequest"),
            ("service-worker", "script"),
            ("origin", "https://app.test"),
            ("range", "bytes=0-"),
            ("sec-purpose", "prefetch;prerender"),
            ("purpose", "prefetch"),
            ("user-agent", "Slackbot-LinkExpanding 1.0"),
        ] {
            check(&Method::GET, &[mode, dest, other], false);
            check(&Method::GET, &[html, other], false);
        }
    }

    #[test]
    fn only_what_fills_a_window_is_a_click() {
        #[track_caller]
        fn check(mode: &'static str, dest: &'static str, expected: bool) {
            let mut headers = HeaderMap::new();
            headers.insert("sec-fetch-mode", HeaderValue::from_static(mode));
            headers.insert("sec-fetch-dest", HeaderValue::from_static(dest));
            assert_eq!(is_top_level(&headers), expected, "{mode} {dest}");
        }
        check("navigate", "document", true);
        check("navigate", "iframe", false);
        check("navigate", "object", false);
        check("no-cors", "image", false);
        check("cors", "empty", false);
        assert!(is_top_level(&HeaderMap::new()), "older browsers and programs do not say");
        for name in ["origin", "sec-fetch-mode", "sec-fetch-dest"] {
            let value = match name {
                "origin" => "https://app.test",
                "sec-fetch-mode" => "navigate",
                _ => "document",
            };
            let mut headers = HeaderMap::new();
            headers.append(name, HeaderValue::from_static(value));
            assert!(is_top_level(&headers), "{name}");
            headers.append(name, HeaderValue::from_static(value));
            assert!(!is_top_level(&headers), "{name} twice");
        }
    }
}
