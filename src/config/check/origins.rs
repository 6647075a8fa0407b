//! Origins: the pages that may ask for a login, exactly as browsers spell them.

use super::values::{self, distinct};
use crate::config::UpstreamUrl;
use crate::config::document::TomlNode;
use crate::model::loopback::is_loopback;

/// Reads a list of origins, which may be empty.
pub(super) fn origins(node: &TomlNode<'_, '_>) -> Option<Vec<String>> {
    distinct(&node.list_or_empty()?, "origin", origin)
}

/// Reads an origin as browsers send it (RFC 6454 §6.2).
fn origin(node: &TomlNode<'_, '_>) -> Option<String> {
    let text = node.string()?;
    match text {
        "*" => return node.refuse("any page could ask", "list the origins of your own pages"),
        "null" => return node.refuse("every sandboxed page and every file sends it: any page could ask", OPAQUE),
        _ if text.starts_with("file:") => {
            return node.refuse("pages of files send \"null\", as every sandboxed page does", OPAQUE);
        }
        _ if is_of_an_app(text) => return Some(text.to_owned()),
        _ => {}
    }
    let Some(url) = url(text) else {
        let shorter = values::scheme(text)
            .and_then(|(_, rest)| rest.find(['/', '?', '#']).map(|at| text.len() - rest.len() + at));
        return match shorter.map(|end| &text[..end]).and_then(url) {
            Some(url) => node.refuse("an origin ends behind its host and port", format_args!("write \"{}\"", spelling(&url))),
            None if values::http(true, text).is_some() => {
                node.refuse("not an origin", format_args!("write \"https://{}\"", text.to_ascii_lowercase()))
            }
            None => node.refuse(
                "not an origin",
                "write \"https://phone.example.com\" or \"capacitor://localhost\", as browsers send it: no path, no slash at the end",
            ),
        };
    };
    if matches!(&url, UpstreamUrl::Http(at) if !is_local(&at.host)) {
        return node.refuse("a page over http:// can be changed in transit", "use https, or http on localhost");
    }
    let spelled = spelling(&url);
    if spelled == text {
        Some(spelled)
    } else {
        node.refuse("not spelled as browsers send it", format_args!("write \"{spelled}\""))
    }
}

const OPAQUE: &str = "serve the page over https, or from a scheme of the app's own, such as \"capacitor://localhost\"";

/// Tells whether a text is the origin of pages in an app or an extension: `capacitor://localhost`,
/// `chrome-extension://…`. Web views keep the spelling of the host; the scheme is in lower case.
fn is_of_an_app(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else { return false };
    let (host, port) = authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte));
    let is_host = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    let is_port = port.is_none_or(|port| !port.starts_with('0') && port.parse::<u16>().is_ok());
    is_scheme && is_host && is_port && !OF_THE_WEB.contains(&scheme)
}

/// Schemes whose pages have another origin, or none.
const OF_THE_WEB: [&str; 10] = ["about", "blob", "data", "file", "ftp", "http", "https", "javascript", "ws", "wss"];

fn url(text: &str) -> Option<UpstreamUrl> {
    let (tls, authority) = values::scheme(text)?;
    values::http(tls, authority)
}

/// Writes an origin as a browser does: in lower case, without the default port.
fn spelling(url: &UpstreamUrl) -> String {
    let scheme = if url.is_tls() { "https" } else { "http" };
    format!("{scheme}://{}", url.authority())
}

/// Tells whether browsers treat a host as local (Secure Contexts §3.1).
fn is_local(host: &str) -> bool {
    is_loopback(host) || host.ends_with(".localhost")
}
