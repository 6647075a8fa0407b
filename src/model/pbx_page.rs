//! The pages of the PBX to which an automatic login may lead back.

use std::fmt;
use std::str::FromStr;

use super::path;
use super::session::SESSION;
use super::shield;

/// The parameter of a page's address by which callgate leaves the PBX's own login page alone: `?callgate=off`.
const MARKER: &str = "callgate=off";
/// The longest path and query, in bytes. Sealed, it must fit into an address and into a cookie.
const MAX: usize = 1024;
/// The ends of the paths of pages. Other paths are files, operations, sockets or phones.
const ENDS: [&str; 3] = ["/", ".htm", ".html"];
/// The start of the paths of operations.
const OPERATIONS: &str = "/rest/";

/// The path and query of a page of the PBX.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PbxPage(String);

/// The text is not the path and query of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a page of the PBX")]
pub struct NotAPage;

impl PbxPage {
    /// Reads the target of a request. `None`: it is no page, or carries a session, or is longer than 1 KiB.
    ///
    /// The path must be its own canonical copy but for the case of letters, so that no browser reads it as another host
    /// or another path.
    #[must_use]
    pub fn of(path: &str, query: Option<&str>) -> Option<Self> {
        let lower = path.to_ascii_lowercase();
        let is_page = ENDS.iter().any(|end| lower.ends_with(end)) && !lower.starts_with(OPERATIONS);
        if !is_page || !path.starts_with('/') || path::canonical(path) != lower.as_str() {
            return None;
        }
        let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        let page = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
        (page.len() <= MAX && is_plain(&page) && !carries_session(path, query)).then_some(Self(page))
    }

    /// Tells whether the address asks for the PBX's own login page.
    #[must_use]
    pub fn is_left_alone(&self) -> bool {
        self.0.split_once('?').is_some_and(|(_, query)| query.split('&').any(|parameter| parameter == MARKER))
    }

    /// Returns the same page with the parameter that asks for the PBX's own login page.
    #[must_use]
    pub fn left_alone(&self) -> String {
        let between = if self.0.contains('?') { '&' } else { '?' };
        if self.is_left_alone() { self.0.clone() } else { format!("{}{between}{MARKER}", self.0) }
    }

    /// Returns the path and query.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PbxPage {
    type Err = NotAPage;

    fn from_str(text: &str) -> Result<Self, NotAPage> {
        let (path, query) = text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)));
        Self::of(path, query).ok_or(NotAPage)
    }
}

impl fmt::Display for PbxPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Tells whether a session may be in the query, in any spelling: such a page lands by itself, or is an attack.
fn carries_session(path: &str, query: Option<&str>) -> bool {
    let names_session = |parameter: &str| {
        let name = parameter.split('=').next().unwrap_or_default();
        name.eq_ignore_ascii_case(SESSION)
    };
    shield::session_in_query(path, query) != Ok(None) || query.unwrap_or_default().split('&').any(names_session)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(target: &str, is_page: bool) {
        assert_eq!(target.parse::<PbxPage>().is_ok(), is_page, "{target}");
    }

    #[test]
    fn pages_end_as_pages_do() {
        for page in
            ["/", "/usr_index.htm", "/a/b.html?x=1&y=/../z", "/Portal/", "/USR_INDEX.HTM", "/welcome.htm", "/?a=b%20c"]
        {
            check(page, true);
        }
        for other in [
            "",
            "usr_index.htm",
            "/audio.wav",
            "/rest/system/session",
            "/rest/domain/x/",
            "/websocket",
            "/0004132f.cfg",
            "/htm",
            "/x.htm.js",
            "/x?y=.htm",
        ] {
            check(other, false);
        }
    }

    #[test]
    fn no_page_leads_to_another_host_or_path() {
        for hostile in [
            "//evil.test/",
            "/\\evil.test/",
            "/%2f/evil.test/",
            "/a/../b.htm",
            "/./x.htm",
            "/a;x/b.htm",
            "/%61.htm",
            "https://evil.test/",
            "/x.htm#y",
            "/x.htm?a b",
            "/é.htm",
        ] {
            check(hostile, false);
        }
    }

    #[test]
    fn a_page_with_a_session_lands_by_itself() {
        for query in [
            "sessId=g7lsrphhrkim1jkvbt88",
            "SESSID=x",
            "a=1&sess%49d=x",
            "session=x",
            "Session",
            "x=sessid",
            "a&session=",
        ] {
            check(&format!("/welcome.htm?{query}"), false);
        }
        check("/welcome.htm?sessions=1", true);
    }

    #[test]
    fn long_addresses_are_left_alone() {
        check(&format!("/x.htm?{}", "a".repeat(MAX - 7)), true);
        check(&format!("/x.htm?{}", "a".repeat(MAX - 6)), false);
    }

    #[test]
    fn the_marker_stands_by_itself() {
        let page = |text: &str| text.parse::<PbxPage>().unwrap();
        assert_eq!(page("/").left_alone(), "/?callgate=off");
        assert_eq!(page("/x.htm?a=1").left_alone(), "/x.htm?a=1&callgate=off");
        assert_eq!(page("/x.htm?callgate=off").left_alone(), "/x.htm?callgate=off");
        assert!(page("/x.htm?a=1&callgate=off&b").is_left_alone());
        for text in ["/x.htm", "/x.htm?callgate=on", "/x.htm?xcallgate=off", "/x.htm?a=callgate=off"] {
            assert!(!page(text).is_left_alone(), "{text}");
        }
    }
}
