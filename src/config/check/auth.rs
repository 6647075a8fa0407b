//! `[[auth]]`: how callers prove who they are.

use std::time::Duration;

use http::header::COOKIE;
use http::{HeaderName, Uri};
use jiff::{SignedDuration, Timestamp, civil, tz};
use toml::de::DeValue;

use super::values::{self, duration_or, each};
use crate::config::document::{Node, Table};
use crate::config::source::Surroundings;
use crate::config::{ApiKey, Method, MethodKind, Names, Whoami};
use crate::model::account::Domain;
use crate::model::grant::REDIRECT;

/// The deadline of `whoami` when none is written.
const WHOAMI_TIMEOUT: Duration = Duration::from_secs(2);

/// What `[[auth]]` says, with the method that `[app] whoami` is short for.
#[derive(Default)]
pub(super) struct Methods<'d, 'i> {
    /// The methods that could be read, in the order they are asked.
    pub(super) methods: Vec<Method>,
    /// Every name and where it is given, also of methods that were refused.
    pub(super) named: Vec<(String, Node<'d, 'i>)>,
}

impl<'d, 'i> Methods<'d, 'i> {
    /// Tells whether a method has this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.named.iter().any(|(known, _)| known == name)
    }

    /// Adds the method of `[app] whoami`.
    pub(super) fn add_app(&mut self, node: Node<'d, 'i>) {
        let whoami = whoami_path(&node).map(|path| Whoami {
            path,
            cookies: Names::All,
            headers: Vec::new(),
            timeout: WHOAMI_TIMEOUT,
        });
        self.methods.extend(whoami.map(|whoami| Method { name: "app".to_owned(), kind: MethodKind::App(whoami) }));
        self.named.push(("app".to_owned(), node));
    }

    /// Adds the method of one `[[auth]]` table.
    pub(super) fn add(&mut self, node: &Node<'d, 'i>, has_app: bool, around: &Surroundings<'_>) {
        let method = node.table(|table| {
            let kind_node = table.require("type");
            let kind = kind_node.as_ref().and_then(kind);
            let name = name(table, kind, self);
            self.named.extend(name.map(|name| (name.to_owned(), node.clone())));
            let Some(kind) = kind else {
                return table.leave_unread();
            };
            if matches!(kind, Kind::App) && !has_app {
                kind_node?.refuse::<()>("there is no app to ask", "add [app] with its `url`");
            }
            let kind = match kind {
                Kind::App => whoami(table).map(MethodKind::App),
                Kind::Key => key(table, self, around).map(MethodKind::Key),
            };
            Some(Method { name: name?.to_owned(), kind: kind? })
        });
        self.methods.extend(method);
    }
}

#[derive(Clone, Copy)]
enum Kind {
    App,
    Key,
}

fn kind(node: &Node<'_, '_>) -> Option<Kind> {
    if node.string()? == REDIRECT {
        return node.refuse("`redirect` is built in", "remove this table, and name it in a rule: auth = \"redirect\"");
    }
    node.choice(&[("app", Kind::App), ("key", Kind::Key)])
}

/// Reads the name, which is the type when none is written.
fn name<'d>(table: &Table<'d, '_>, kind: Option<Kind>, before: &Methods<'_, '_>) -> Option<&'d str> {
    let Some(node) = table.get("name") else {
        let name = match kind? {
            Kind::App => "app",
            Kind::Key => "key",
        };
        return if before.has(name) {
            table.refuse(format_args!("another method is called `{name}`"), "give this one a `name`")
        } else {
            Some(name)
        };
    };
    match node.word()? {
        REDIRECT => node.refuse("`redirect` is the name of the built-in method", "choose another name"),
        name if before.has(name) => {
            node.refuse(format_args!("another method is called `{name}`"), "choose another name")
        }
        name => Some(name),
    }
}

// === app ===

fn whoami(table: &Table<'_, '_>) -> Option<Whoami> {
    let path = table.require("whoami").and_then(|node| whoami_path(&node));
    let cookies = table.get("cookies").and_then(|node| each(&node.list_or_empty()?, cookie));
    let headers = table.get("headers").and_then(|node| each(&node.list_or_empty()?, header));
    let timeout = duration_or(table, "timeout", WHOAMI_TIMEOUT);
    Some(Whoami {
        path: path?,
        cookies: cookies.map_or(Names::All, Names::Listed),
        headers: headers.unwrap_or_default(),
        timeout,
    })
}

/// Reads the path (and query) that tells who a caller is.
fn whoami_path(node: &Node<'_, '_>) -> Option<String> {
    let text = node.string()?;
    let path = text.starts_with('/') && !text.starts_with("//") && !text.contains('#') && text.parse::<Uri>().is_ok();
    if path { Some(text.to_owned()) } else { node.refuse("not a path of the app", "write a path such as \"/api/me\"") }
}

/// Reads the name of a cookie. Browsers store more than RFC 6265 §4.1.1 allows, `#` for one.
fn cookie(node: &Node<'_, '_>) -> Option<String> {
    let name = node.word()?;
    let spelled = name.bytes().all(|byte| byte.is_ascii_graphic() && !b"=;,\"".contains(&byte));
    if spelled {
        Some(name.to_owned())
    } else {
        node.refuse("not the name of a cookie", "write the name only, without = and value")
    }
}

fn header(node: &Node<'_, '_>) -> Option<HeaderName> {
    let Ok(name) = HeaderName::from_bytes(node.string()?.as_bytes()) else {
        return node.refuse("not the name of a header field", "write a name such as \"authorization\"");
    };
    if name == COOKIE {
        return node.refuse("cookies have a key of their own", "name them in `cookies`");
    }
    if is_ours(name.as_str()) {
        return node.refuse(format_args!("callgate writes or removes {name} itself"), "remove it from the list");
    }
    Some(name)
}

/// Tells whether a field belongs to one hop, frames the message, or says who is calling: never the caller's to choose.
fn is_ours(name: &str) -> bool {
    const FIELDS: [&str; 15] = [
        "connection",
        "content-length",
        "expect",
        "forwarded",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
        "x-real-ip",
    ];
    const PREFIXES: [&str; 4] = ["x-forwarded", "x-original-", "x-rewrite-", "pbx-"];
    let name = name.replace(['_', '.'], "-");
    FIELDS.contains(&name.as_str()) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

// === key ===

fn key(table: &Table<'_, '_>, before: &Methods<'_, '_>, around: &Surroundings<'_>) -> Option<ApiKey> {
    let sha256 = table.require("sha256").and_then(|node| sha256(&node, before));
    let scopes = table.require("scopes").and_then(|node| scopes(&node));
    let domains = table.get("domains").and_then(|node| each(&node.list()?, domain));
    let accounts =
        table.get("accounts").and_then(|node| each(&node.list()?, |node| values::account(node, node.string()?)));
    let users =
        table.get("users").and_then(|node| each(&node.list()?, |node| values::voximplant_user(node, node.string()?)));
    let from = table.get("from").and_then(|node| each(&node.list()?, values::network));
    let expires = table.get("expires").and_then(|node| expires(&node, around.now));
    let (sha256, scopes) = (sha256?, scopes?);
    for (scope, list) in [(Scope::Pbx, "domains"), (Scope::Ott, "users")] {
        if scopes.contains(&scope) {
            table.require(list);
        }
    }
    let [pbx, ott] = [Scope::Pbx, Scope::Ott].map(|scope| scopes.contains(&scope));
    Some(ApiKey {
        sha256,
        pbx,
        ott,
        domains: domains.unwrap_or_default(),
        accounts,
        users: users.unwrap_or_default(),
        from: from.unwrap_or_default(),
        expires,
    })
}

fn sha256(node: &Node<'_, '_>, before: &Methods<'_, '_>) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if hex::decode_to_slice(node.string()?, &mut hash).is_err() {
        return node.refuse("not a SHA-256", "write 64 hex digits: printf %s \"$KEY\" | sha256sum");
    }
    let same = before.methods.iter().find(|method| matches!(&method.kind, MethodKind::Key(key) if key.sha256 == hash));
    match same {
        Some(method) => node.refuse(
            format_args!("the key of method `{}` once more", method.name),
            "make another key, or remove one of the two",
        ),
        None => Some(hash),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Pbx,
    Ott,
}

fn scopes(node: &Node<'_, '_>) -> Option<Vec<Scope>> {
    each(&node.list()?, |node| node.choice(&[("pbx", Scope::Pbx), ("ott", Scope::Ott)]))
}

fn domain(node: &Node<'_, '_>) -> Option<Domain> {
    let domain = node.string()?.parse().ok();
    domain.or_else(|| node.refuse("not a PBX domain", "write its host name, such as \"acme.example.com\""))
}

// === expires ===

fn expires(node: &Node<'_, '_>, now: Timestamp) -> Option<Timestamp> {
    const FORMS: &str = "write 2027-01-31 or 2027-01-31T18:00:00Z, without quotes";
    let DeValue::Datetime(written) = node.value() else {
        return node.refuse("not a date", FORMS);
    };
    match end_of(written) {
        Some(end) if end > now => Some(end),
        Some(_) => node.refuse("the key has expired already", "remove the method, or give it a later date"),
        None => node.refuse("not a date, or a time without an offset", FORMS),
    }
}

/// Returns the moment a date-time names, or the end of a day in UTC.
fn end_of(written: &toml::value::Datetime) -> Option<Timestamp> {
    let date = written.date?;
    let date =
        civil::Date::new(date.year.try_into().ok()?, date.month.try_into().ok()?, date.day.try_into().ok()?).ok()?;
    let (offset, time) = match (written.offset, written.time) {
        (None, None) => return tz::Offset::UTC.to_timestamp(date.tomorrow().ok()?.at(0, 0, 0, 0)).ok(),
        (Some(offset), Some(time)) => (offset, time),
        (None, Some(_)) | (Some(_), None) => return None,
    };
    let since_midnight = SignedDuration::from_secs(
        i64::from(time.hour) * 3600 + i64::from(time.minute) * 60 + i64::from(time.second.unwrap_or(0)),
    );
    let offset = match offset {
        toml::value::Offset::Z => tz::Offset::UTC,
        toml::value::Offset::Custom { minutes } => tz::Offset::from_seconds(i32::from(minutes) * 60).ok()?,
    };
    offset.to_timestamp(date.at(0, 0, 0, 0).checked_add(since_midnight).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(written: &str, expected: Option<&str>) {
        let end = end_of(&written.parse().unwrap());
        assert_eq!(end.map(|end| end.to_string()).as_deref(), expected, "{written}");
    }

    #[test]
    fn a_day_ends_at_its_last_midnight_in_utc() {
        check("2027-01-31", Some("2027-02-01T00:00:00Z"));
        check("2028-02-28", Some("2028-02-29T00:00:00Z"));
    }

    #[test]
    fn a_time_needs_an_offset() {
        check("2027-01-31T18:00:00Z", Some("2027-01-31T18:00:00Z"));
        check("2027-01-31T18:00:00+02:00", Some("2027-01-31T16:00:00Z"));
        check("2027-01-31T23:30:00-01:30", Some("2027-02-01T01:00:00Z"));
        check("2027-01-31T18:00:00", None);
        check("18:00:00", None);
    }

    #[test]
    fn fields_of_the_hop_and_of_identity_are_ours() {
        for name in [
            "host",
            "te",
            "x-forwarded-for",
            "x_forwarded_for",
            "x-real-ip",
            "x-original-url",
            "transfer-encoding",
            "pbx-account",
        ] {
            assert!(is_ours(name), "{name}");
        }
        for name in ["authorization", "x-api-key", "accept-language", "x-csrf-token"] {
            assert!(!is_ours(name), "{name}");
        }
    }
}
