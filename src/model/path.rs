//! The canonical copy of a path. Decisions use the copy; upstreams receive the original, byte for byte.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The path at which one-time keys of Voximplant are answered.
pub const OTT_PATH: &str = "/auth/ott";
/// The path at which a session of the PBX is opened.
pub const PBX_PATH: &str = "/auth/pbx";
/// The path at which a page opens the PBX's WebSocket, unless the configuration names another.
pub const SOCKET_PATH: &str = "/auth/pbx/socket";
/// The path at which people leave the PBX.
pub const PBX_LOGOUT_PATH: &str = "/auth/pbx/logout";
/// The path at which people log in at the identity provider.
pub const LOGIN_PATH: &str = "/auth/callgate/login";
/// The path at which people log out.
pub const LOGOUT_PATH: &str = "/auth/callgate/logout";
/// The path at which identity providers report logouts.
pub const BACKCHANNEL_LOGOUT_PATH: &str = "/auth/callgate/backchannel-logout";
/// The path to which identity providers send browsers back, without the name of the method behind it.
pub const OIDC_CALLBACK_PATH: &str = "/auth/callgate/oidc/";
/// The path to which a person's confirmation of a signed link is posted.
pub const CONFIRM_PATH: &str = "/auth/callgate/confirm";
/// The path at which a ticket from another host becomes a session.
pub const TICKET_PATH: &str = "/auth/callgate/ticket";
/// The path on a host of the PBX that an automatic login leads through, before and behind it.
pub const PAGE_PATH: &str = "/auth/callgate/page";
/// The path of the module for web pages.
pub const CLIENT_MODULE_PATH: &str = "/auth/callgate/client.js";
/// The path of the types of that module.
pub const CLIENT_TYPES_PATH: &str = "/auth/callgate/client.d.ts";
/// The path below which all paths belong to callgate.
pub const CALLGATE_PATH: &str = "/auth/callgate";

/// The paths that belong to callgate on every host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserved {
    /// `/auth/ott`.
    Ott,
    /// `/auth/pbx`.
    Pbx,
    /// `/auth/pbx/socket`.
    Socket,
    /// `/auth/pbx/logout`.
    PbxLogout,
    /// `/auth/callgate` and everything below it.
    Callgate,
}

/// The owner of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathClass {
    /// A path of callgate, in its own spelling.
    Reserved(Reserved),
    /// A path of callgate in another spelling: it is neither answered nor forwarded.
    Disguised,
    /// A path of an upstream.
    Open,
}

/// Returns the path as the most tolerant upstream might read it.
///
/// Percent-decodes once (an invalid escape stays; bytes that are not UTF-8 become U+FFFD), reads `\` as `/`, removes
/// the `;parameters` of segments, empty segments and dot segments (RFC 3986 §5.2.4), and folds ASCII case. A final
/// slash stays.
#[must_use]
pub fn canonical(path: &str) -> Cow<'_, str> {
    if is_plain(path) {
        return Cow::Borrowed(path);
    }
    // Decoding comes first, because %2e, %2f, %3b and %5c count as the characters they stand for.
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    let copy = resolved(&decoded).to_ascii_lowercase();
    if copy == path { Cow::Borrowed(path) } else { Cow::Owned(copy) }
}

/// Classifies a path as reserved, reserved in another spelling, or an upstream's.
#[must_use]
pub fn classify(path: &str) -> PathClass {
    match path {
        OTT_PATH => return PathClass::Reserved(Reserved::Ott),
        PBX_PATH => return PathClass::Reserved(Reserved::Pbx),
        SOCKET_PATH => return PathClass::Reserved(Reserved::Socket),
        PBX_LOGOUT_PATH => return PathClass::Reserved(Reserved::PbxLogout),
        _ => {}
    }
    let canonical = canonical(path);
    let read = cut_at_terminator(&canonical);
    if matches!(read, OTT_PATH | PBX_PATH | SOCKET_PATH | PBX_LOGOUT_PATH) {
        return PathClass::Disguised;
    }
    match (is_callgate_path(path), is_callgate_path(read)) {
        (false, false) => PathClass::Open,
        // Below our prefix only the case may differ, as in a ticket.
        (true, true) if path.eq_ignore_ascii_case(&canonical) => PathClass::Reserved(Reserved::Callgate),
        _ => PathClass::Disguised,
    }
}

/// Tells whether a request may be a login at the PBX with a password or a second factor.
///
/// In doubt it says yes: a request that counts by mistake is only rate-limited.
#[must_use]
pub fn is_password_login(method: &str, canonical: &str) -> bool {
    let path = cut_at_terminator(canonical);
    match path.strip_suffix('/').unwrap_or(path) {
        "/rest/system/session" => ["POST", "PUT"].iter().any(|name| name.eq_ignore_ascii_case(method)),
        "/rest/system/2nd" | "/rest/system/login" => !matches!(method, "GET" | "HEAD" | "OPTIONS"),
        _ => false,
    }
}

/// Tells whether a canonical path is that of the PBX's sessions.
#[must_use]
pub fn is_session(canonical: &str) -> bool {
    let path = cut_at_terminator(canonical);
    path.strip_suffix('/').unwrap_or(path) == "/rest/system/session"
}

/// Tells quickly whether a path is its own canonical copy; may wrongly say no.
fn is_plain(path: &str) -> bool {
    let mut before = 0;
    for byte in path.bytes() {
        let special = matches!(byte, b'%' | b'\\' | b';' | b'A'..=b'Z');
        let odd_segment = matches!(before, 0 | b'/') && byte == b'.' || before == b'/' && byte == b'/';
        if special || odd_segment {
            return false;
        }
        before = byte;
    }
    true
}

fn resolved(path: &str) -> String {
    let path = path.replace('\\', "/");
    let mut kept = Vec::new();
    let mut ends_in_slash = false;
    for segment in path.split('/') {
        let name = segment.split(';').next().unwrap_or_default();
        ends_in_slash = matches!(name, "" | "." | "..");
        match name {
            "" | "." => {}
            ".." => drop(kept.pop()),
            name => kept.push(name),
        }
    }
    let root = if path.starts_with('/') { "/" } else { "" };
    let end = if ends_in_slash && !kept.is_empty() { "/" } else { "" };
    format!("{root}{}{end}", kept.join("/"))
}

/// Cuts a canonical path at the character where an upstream that decodes before it parses would end it.
pub(super) fn cut_at_terminator(canonical: &str) -> &str {
    let end = canonical.bytes().position(|byte| matches!(byte, b'\0' | b'?' | b'#'));
    &canonical[..end.unwrap_or(canonical.len())]
}

fn is_callgate_path(path: &str) -> bool {
    path.strip_prefix(CALLGATE_PATH).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, expected: &str) {
        assert_eq!(canonical(path), expected, "{path}");
    }

    #[test]
    fn leaves_canonical_paths_alone() {
        for path in [
            "/",
            "/a",
            "/a/",
            "/a.b/c-d_e~f",
            "/.well-known/x",
            "/a/..b/c..",
            "/é",
            "/100%",
            "/%zz",
            "*",
            "",
            "/a/...",
            "/a=b&c,d",
        ] {
            assert!(matches!(canonical(path), Cow::Borrowed(same) if same == path), "{path}");
        }
    }

    #[test]
    fn decodes_once() {
        check("/%61%2Fb", "/a/b");
        check("/%2561", "/%61");
        check("/%25%36%31", "/%61");
        check("/a%", "/a%");
        check("/a%4", "/a%4");
        check("/%C3%A9", "/é");
        check("/%00", "/\0");
        check("/a%3fb%23c", "/a?b#c");
    }

    #[test]
    fn survives_bytes_that_are_no_utf8() {
        check("/%ff%FE/x", "/\u{fffd}\u{fffd}/x");
        check("/%c0%af", "/\u{fffd}\u{fffd}");
        check("/%e2%82", "/\u{fffd}");
    }

    #[test]
    fn resolves_segments() {
        check("/a/./b", "/a/b");
        check("/a/../b", "/b");
        check("/a/..", "/");
        check("/a/b/..", "/a/");
        check("/a/.", "/a/");
        check("/../../a", "/a");
        check("/..", "/");
        check("//a///b//", "/a/b/");
        check("//", "/");
        check("/a//../b", "/b");
        check("/%2e%2E/a/%2e/b", "/a/b");
        check("/a%2f..%2fb", "/b");
        check("/a%5c..%5Cb", "/b");
        check("\\a\\b", "/a/b");
        check("a/../../b", "b");
        check("..", "");
        check("./a", "a");
    }

    #[test]
    fn drops_parameters_before_it_resolves() {
        check("/a;x=1/b;y", "/a/b");
        check("/a/..;/b", "/b");
        check("/a/..%3bx/b", "/b");
        check("/a/.;x/b", "/a/b");
        check("/;x/a", "/a");
        check("/a;", "/a");
        check("/a/;x", "/a/");
        check("/a;x%2fb", "/a/b");
    }

    #[test]
    fn folds_only_ascii_case() {
        check("/REST/System", "/rest/system");
        check("/%41%C3%89", "/aÉ");
    }

    /// Every path made of a few hostile pieces has a canonical copy without anything left to resolve.
    #[test]
    fn no_spelling_survives() {
        let pieces = ["/", "\\", "%2f", "%5C", ".", "%2e", ";", "%3B", "a", "%", "%ff", "A"];
        for code in 0..pieces.len().pow(5) {
            let digit = |place: u32| pieces[code / pieces.len().pow(place) % pieces.len()];
            let path: String = std::iter::once("/").chain((0..5).map(digit)).collect();
            let copy = canonical(&path);
            assert!(copy.starts_with('/'), "{path}");
            assert!(!copy.contains("//") && !copy.contains(['\\', ';', 'A']), "{path} is {copy}");
            assert!(!copy.split('/').any(|segment| matches!(segment, "." | "..")), "{path} is {copy}");
        }
    }

    #[track_caller]
    fn check_place(expected: PathClass, paths: &[&str]) {
        for path in paths {
            assert_eq!(classify(path), expected, "{path}");
        }
    }

    #[test]
    fn our_own_paths_are_reserved() {
        check_place(PathClass::Reserved(Reserved::Ott), &["/auth/ott"]);
        check_place(PathClass::Reserved(Reserved::Pbx), &["/auth/pbx"]);
        check_place(PathClass::Reserved(Reserved::PbxLogout), &["/auth/pbx/logout"]);
        check_place(PathClass::Reserved(Reserved::Socket), &["/auth/pbx/socket"]);
        check_place(
            PathClass::Reserved(Reserved::Callgate),
            &["/auth/callgate", "/auth/callgate/", "/auth/callgate/ticket/AbC", "/auth/callgate/Logout"],
        );
    }

    #[test]
    fn no_disguise_is_passed_on() {
        check_place(
            PathClass::Disguised,
            &[
                "/AUTH/ott",
                "/auth/OTT",
                "/Auth/Pbx",
                "//auth/ott",
                "/auth//pbx",
                "/./auth/ott",
                "/auth/./ott",
                "/x/../auth/ott",
                "/auth/x/../pbx",
                "/../auth/ott",
                "/%61uth/ott",
                "/auth%2fott",
                "/auth%2Fpbx",
                "/auth/%6ftt",
                "/auth/pb%78",
                "/auth/pbx/Logout",
                "/auth/pbx//logout",
                "/auth/pbx/%6cogout",
                "/auth/pbx/logout;x",
                "/auth/pbx/x/../logout",
                "/auth\\ott",
                "/auth%5cott",
                "\\auth\\pbx",
                "/auth/ott;x",
                "/auth/ott;x=1;y",
                "/auth;a/pbx",
                "/auth/pbx%3bx",
                "/x/..;/auth/pbx",
                "/x/%2e%2e/auth/ott",
                "/x%2f..%2fauth/ott",
                "%2fauth/ott",
                "/;/auth/ott",
                "/auth/x/.%2e/ott",
                "/auth/callgate/../ott",
                "/AUTH/callgate",
                "/auth/Callgate/x",
                "/auth//callgate/x",
                "/auth/%63allgate",
                "/auth/callgate%2fx",
                "/auth/callgate;x/y",
                "/auth/callgate//x",
                "/auth/callgate/./x",
                "/auth/callgate/x/..",
                "/auth/callgate/../x",
                "/auth/callgate/../../admin",
                "/auth/callgate/%78",
                "/auth/callgate/a;b",
                "/auth/callgate/a\\b",
                "/auth/callgate\\a",
                "/x/../auth/callgate/y",
                "/auth/ott%00",
                "/auth/pbx%00.htm",
                "/auth/ott%3fx",
                "/auth/PBX%23x",
                "/auth/pbx/Socket",
                "/auth/pbx//socket",
                "/auth/pbx/%73ocket",
                "/auth/pbx%2fsocket",
                "/auth/pbx\\socket",
                "/auth/pbx;x/socket",
                "/auth/pbx/x/../socket",
                "/auth/pbx/socket;x",
                "/auth/pbx/socket%00",
                "/auth/pbx/socket%3fx",
                "/auth/callgate%3f",
                "/auth/callgate/x%00",
            ],
        );
    }

    #[test]
    fn other_paths_are_the_upstreams() {
        check_place(
            PathClass::Open,
            &[
                "",
                "*",
                "/",
                "/auth",
                "/auth/",
                "/auth/ott/",
                "/auth/ottx",
                "/auth/pbx/x",
                "/auth/pbx/logout/",
                "/auth/pbx/socket/",
                "/auth/pbx/sockets",
                "/auth/ott.",
                "/auth/login",
                "/auth/callgatex",
                "/auth/callgate.x",
                "/x/auth/ott",
                "/auth/%256ftt",
                "/auth/o%74",
                "/auth/ott%20",
                "auth/ott",
                "/auth-ott",
                "/auth/ött",
            ],
        );
    }

    #[track_caller]
    fn check_login(method: &str, path: &str, expected: bool) {
        assert_eq!(is_password_login(method, &canonical(path)), expected, "{method} {path}");
    }

    #[test]
    fn knows_the_password_logins_of_the_pbx() {
        for path in [
            "/rest/system/session",
            "/rest/system/session/",
            "/REST/System/Session",
            "/rest//system/session;x",
            "/rest/%73ystem/x/../session",
            "/rest%2fsystem%2fsession",
            "/rest/system/session%00",
            "/rest/system/session%3fx",
        ] {
            for (method, expected) in [("POST", true), ("PUT", true), ("put", true), ("GET", false), ("DELETE", false)]
            {
                check_login(method, path, expected);
            }
        }
        for path in ["/rest/system/2nd", "/rest/system/login/", "/rest/system/LOGIN"] {
            for (method, expected) in [
                ("POST", true),
                ("PUT", true),
                ("PATCH", true),
                ("DELETE", true),
                ("GET", false),
                ("HEAD", false),
                ("OPTIONS", false),
            ] {
                check_login(method, path, expected);
            }
        }
        for path in ["/", "/rest/system", "/rest/system/sessions", "/rest/system/session/x", "/rest/user/session"] {
            check_login("POST", path, false);
        }
    }
}
