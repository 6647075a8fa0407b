//! Method `app`: the request to the app, and the parts of the caller's request that it carries.

use std::time::Duration;

use http::header::COOKIE;
use http::{HeaderName, Uri};

use crate::config::check::values::{duration, duration_or, each, scheme};
use crate::config::document::{TomlNode, TomlTable};
use crate::config::{AppMethodConfig, CookieFilter};
use crate::model::identity::is_identity;

/// The default deadline of `whoami`.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The longest time that an answer of `whoami` is cached.
const MAX_CACHE: Duration = Duration::from_secs(30);

/// Reads `[app] whoami`, the short form of a method.
pub(super) fn short(node: &TomlNode<'_, '_>) -> Option<AppMethodConfig> {
    let path = whoami_path(node)?;
    Some(AppMethodConfig { path, cookies: CookieFilter::All, headers: Vec::new(), timeout: TIMEOUT, cache: None })
}

/// Reads a table of type `app`.
pub(super) fn read(table: &TomlTable<'_, '_>) -> Option<AppMethodConfig> {
    let path = table.require("whoami").and_then(|node| whoami_path(&node));
    let cookies = table.get("cookies").and_then(|node| each(&node.list_or_empty()?, cookie));
    let headers = table.get("headers").and_then(|node| each(&node.list_or_empty()?, header));
    let timeout = duration_or(table, "timeout", TIMEOUT);
    let cache = table.get("cache").and_then(|node| cache(&node));
    Some(AppMethodConfig {
        path: path?,
        cookies: cookies.map_or(CookieFilter::All, CookieFilter::Listed),
        headers: headers.unwrap_or_default(),
        timeout,
        cache,
    })
}

/// Reads the time that an answer is cached. A person who logged out stays logged in for that long.
fn cache(node: &TomlNode<'_, '_>) -> Option<Duration> {
    let cache = duration(node)?;
    if cache > MAX_CACHE {
        let longest = MAX_CACHE.as_secs();
        return node.refuse(
            format_args!("longer than {longest} s: a login would outlive a logout by that time"),
            format_args!("write \"{longest}s\" or less"),
        );
    }
    Some(cache)
}

/// Reads the path (and query) of the request to the app.
fn whoami_path(node: &TomlNode<'_, '_>) -> Option<String> {
    let text = node.string()?;
    let path = text.starts_with('/') && !text.starts_with("//") && !text.contains('#') && text.parse::<Uri>().is_ok();
    if path {
        return Some(text.to_owned());
    }
    let behind_host = scheme(text).and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..]));
    match behind_host {
        Some(path) => node.refuse("not a path of the app", format_args!("write \"{path}\": its host is that of `url`")),
        None if !text.is_empty() && !text.starts_with('/') => {
            node.refuse("not a path of the app", format_args!("write \"/{text}\""))
        }
        None => node.refuse("not a path of the app", "write a path such as \"/api/me\""),
    }
}

/// Reads the name of a cookie. Browsers store more characters than RFC 6265 §4.1.1 allows, such as `#`.
pub(super) fn cookie(node: &TomlNode<'_, '_>) -> Option<String> {
    let name = node.word()?;
    let spelled = name.bytes().all(|byte| byte.is_ascii_graphic() && !b"=;,\"".contains(&byte));
    if spelled {
        Some(name.to_owned())
    } else {
        node.refuse("not the name of a cookie", "write the name only, without = and value")
    }
}

fn header(node: &TomlNode<'_, '_>) -> Option<HeaderName> {
    let Ok(name) = HeaderName::from_bytes(node.string()?.as_bytes()) else {
        return node.refuse("not the name of a header field", "write a name such as \"authorization\"");
    };
    if name == COOKIE {
        return node.refuse("cookies have a key of their own", "name them in `cookies`");
    }
    if is_ours(name.as_str()) || is_identity(name.as_str()) {
        return node.refuse(format_args!("callgate writes or removes {name} itself"), "remove it from the list");
    }
    Some(name)
}

/// Tells whether a field is hop-by-hop, frames the message, or identifies the caller. Such fields cannot be forwarded.
pub(super) fn is_ours(name: &str) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

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
