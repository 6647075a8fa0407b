//! Readers of small values: durations, addresses, host names, paths. Each reports the values that it refuses.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;
use toml::de::DeValue;

use crate::config::document::{TomlNode, TomlTable};
use crate::config::{HostPattern, HostPort, Listen, UpstreamUrl};
use crate::model::account::{Account, host_name, is_host_name};
use crate::model::ott::VoximplantUser;
use crate::model::path::{CALLGATE_PATH, OTT_PATH, PBX_PATH, SOCKET_PATH};

/// Reads a duration under a key, or takes the default.
pub(super) fn duration_or(table: &TomlTable<'_, '_>, key: &'static str, default: Duration) -> Duration {
    table.get(key).and_then(|node| duration(&node)).unwrap_or(default)
}

/// Reads `"30s"`, `"500ms"`, `"5m"`, `"5min"`, `"1h"` or `"2d"`; never zero.
pub(super) fn duration(node: &TomlNode<'_, '_>) -> Option<Duration> {
    if let DeValue::Integer(number) = node.value() {
        return node.refuse("a duration needs a unit", format_args!("write \"{number}s\" for seconds"));
    }
    match parse_duration(node.string()?) {
        Some(Duration::ZERO) => node.refuse("a duration of zero", "write how long to wait, such as \"30s\""),
        Some(duration) => Some(duration),
        None => match meant_duration(node.string()?) {
            Some(meant) => node.refuse("not a duration", format_args!("write \"{meant}\"")),
            None => node.refuse("not a duration", "write \"500ms\", \"30s\", \"5min\", \"1h\" or \"2d\""),
        },
    }
}

/// Finds the duration that a text of another form probably means.
fn meant_duration(text: &str) -> Option<String> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit = match unit.trim() {
        "" | "s" | "sec" | "secs" | "second" | "seconds" => "s",
        "ms" | "msec" | "millis" | "milliseconds" => "ms",
        "m" | "min" | "mins" | "minute" | "minutes" => "min",
        "h" | "hr" | "hrs" | "hour" | "hours" => "h",
        "d" | "day" | "days" => "d",
        "w" | "week" | "weeks" => return Some(format!("{}d", number.parse::<u32>().ok()?.checked_mul(7)?)),
        _ => return None,
    };
    Some(format!("{number}{unit}")).filter(|meant| parse_duration(meant).is_some())
}

fn parse_duration(text: &str) -> Option<Duration> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let number: u64 = text[..text.len() - unit.len()].parse().ok()?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(milliseconds).filter(|all| *all <= MAX_MILLISECONDS).map(Duration::from_millis)
}

/// Reads a number of bytes, `"64KiB"`, `"256MiB"` or `"1GiB"`: `least` or more.
pub(super) fn size(node: &TomlNode<'_, '_>, least: usize) -> Option<usize> {
    if let DeValue::Integer(number) = node.value() {
        let meant = meant_size(number.as_str()).unwrap_or_else(|| "128MiB".to_owned());
        return node.refuse("a size needs a unit", format_args!("write \"{meant}\""));
    }
    match parse_size(node.string()?) {
        Some(size) if size >= least => Some(size),
        Some(_) => node.refuse("too small", format_args!("write \"{}MiB\" or more", least.div_ceil(1 << 20))),
        None => match meant_size(node.string()?) {
            Some(meant) => node.refuse("not a size", format_args!("write \"{meant}\"")),
            None => node.refuse("not a size", "write \"512KiB\", \"256MiB\" or \"1GiB\""),
        },
    }
}

/// Finds the size that a text of another form probably means: a large number without unit counts bytes, a small one
/// MiB.
fn meant_size(text: &str) -> Option<String> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let mut number: usize = number.parse().ok()?;
    let unit = match unit.trim() {
        "" if number >= MIN_BYTES => {
            number >>= 10;
            "KiB"
        }
        "b" | "byte" | "bytes" => {
            number >>= 10;
            "KiB"
        }
        "k" | "kb" | "kib" => "KiB",
        "" | "m" | "mb" | "mib" => "MiB",
        "g" | "gb" | "gib" => "GiB",
        _ => return None,
    };
    let (number, unit) = match unit {
        "KiB" if number > 0 && number.is_multiple_of(1024) => (number >> 10, "MiB"),
        _ => (number, unit),
    };
    Some(format!("{number}{unit}")).filter(|meant| number > 0 && parse_size(meant).is_some())
}

/// A number without unit from here on counts bytes.
const MIN_BYTES: usize = 1 << 20;

fn parse_size(text: &str) -> Option<usize> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let number: usize = text[..text.len() - unit.len()].parse().ok()?;
    let bytes: usize = match unit {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(bytes).filter(|all| *all <= MAX_SIZE)
}

/// The largest size: 1 TiB, more than the memory of any machine.
const MAX_SIZE: usize = 1 << 40;

/// The longest duration: ten years, which every clock can add to the current time.
const MAX_MILLISECONDS: u64 = 3_650 * 86_400_000;

/// The longest path of a unix socket, in bytes (unix(7)).
const MAX_SOCKET_PATH: usize = 107;

/// The address of public listeners in hints.
pub(super) const ANYWHERE: &str = "0.0.0.0";
/// The address of local listeners in hints.
pub(super) const LOOPBACK: &str = "127.0.0.1";

/// Reads the address of a listener: an IP address and port, or `unix:` and a path. `example`: the address in hints.
pub(super) fn listen(node: &TomlNode<'_, '_>, base: &Path, example: &str) -> Option<Listen> {
    let text = text_of_address(node, example)?;
    let Some(path) = text.strip_prefix("unix:") else { return parse_address(node, text, example).map(Listen::Tcp) };
    let example = "write a path such as \"unix:/run/callgate/tls.sock\"";
    if Path::new(path).file_name().is_none() {
        return node.refuse("names no socket", example);
    }
    let path = base.join(path);
    if path.as_os_str().len() > MAX_SOCKET_PATH {
        return node.refuse(format_args!("the path is longer than {MAX_SOCKET_PATH} bytes"), example);
    }
    Some(Listen::Unix(path))
}

/// Reads the address of a listener with a port.
pub(super) fn address(node: &TomlNode<'_, '_>) -> Option<SocketAddr> {
    let text = text_of_address(node, ANYWHERE)?;
    if text.starts_with("unix:") {
        return node.refuse(
            "a unix socket cannot be listened on here",
            "write an IP address and a port, such as \"127.0.0.1:8443\"",
        );
    }
    parse_address(node, text, ANYWHERE)
}

fn parse_address(node: &TomlNode<'_, '_>, text: &str, example: &str) -> Option<SocketAddr> {
    match text.parse() {
        Ok(address) => Some(address),
        Err(_) => node.refuse("not an address", address_hint(text, example)),
    }
}

/// Reads the text of an address; a port alone is refused.
fn text_of_address<'d>(node: &TomlNode<'d, '_>, example: &str) -> Option<&'d str> {
    if let DeValue::Integer(port) = node.value() {
        let port = port.as_str();
        return node.refuse("an address is missing in front of the port", format_args!("write \"{example}:{port}\""));
    }
    node.string()
}

/// Tells how to write an address with missing or superfluous parts.
fn address_hint(text: &str, example: &str) -> String {
    if text.starts_with('/') {
        return format!("write \"unix:{text}\" for a socket, or an IP address and a port, such as \"{example}:443\"");
    }
    let rest = scheme(text).map_or(text, |(_, rest)| rest.split('/').next().unwrap_or_default());
    if let Ok(ip) = rest.parse::<IpAddr>() {
        return format!("add a port: \"{}\"", SocketAddr::new(ip, 443));
    }
    let port = rest.trim_start_matches("*:").trim_start_matches(':');
    if parse_port(port).is_some() {
        return match example {
            ANYWHERE => {
                format!("write \"0.0.0.0:{port}\" for all addresses, or one of this machine in front of the port")
            }
            _ => format!("write \"{example}:{port}\""),
        };
    }
    if let Ok(address) = rest.parse::<SocketAddr>() {
        return format!("write \"{address}\", without a scheme");
    }
    match host_and_port(rest) {
        Some((host, Some(port))) => {
            let address = if host == "localhost" { LOOPBACK } else { example };
            format!("{host} is a name: write an IP address, such as \"{address}:{port}\"")
        }
        _ if example == ANYWHERE => {
            "write an IP address and a port, such as \"0.0.0.0:443\" or \"[::]:443\"".to_owned()
        }
        _ => format!("write an IP address and a port, such as \"{example}:9443\""),
    }
}

/// Reads a network: `10.0.0.0/8`, or one address.
pub(super) fn network(node: &TomlNode<'_, '_>) -> Option<IpNet> {
    let text = node.string()?;
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(IpNet::from(address.to_canonical()));
    }
    match text.parse::<IpNet>() {
        Ok(network) if network.trunc() == network => Some(network),
        Ok(network) => node.refuse("has bits set behind its prefix", format_args!("write \"{}\"", network.trunc())),
        Err(_) => node.refuse("not a network", "write \"192.0.2.0/24\", \"2001:db8::/32\" or one address"),
    }
}

/// Reads the networks of known machines. Networks that cover all addresses are refused: then anyone could do what
/// `danger` says.
pub(super) fn known_networks(node: &TomlNode<'_, '_>, danger: &str) -> Option<Vec<IpNet>> {
    let networks = distinct(&node.list_or_empty()?, "network", network)?;
    // Networks are joined first, because two halves cover everything as well.
    if IpNet::aggregate(&networks).iter().any(|network| network.prefix_len() == 0) {
        return node.refuse(
            format_args!("covers all addresses: any client could claim {danger}"),
            "list the addresses of your own proxies, such as \"192.0.2.10\" or \"10.0.0.0/8\"",
        );
    }
    Some(networks)
}

/// Reads a host name, or `*.` and a host name.
pub(super) fn host_pattern(node: &TomlNode<'_, '_>) -> Option<HostPattern> {
    let text = node.string()?;
    let pattern = match text.strip_prefix("*.") {
        Some(name) => host_name(name).map(|name| HostPattern::Below(format!(".{name}"))),
        None => host_name(text).map(HostPattern::Exact),
    };
    pattern.or_else(|| node.refuse("not a host name", host_hint(text)))
}

/// Tells how to write a host that came with more than its name.
fn host_hint(text: &str) -> String {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let name = rest.split(['/', ':', '?', '#']).next().unwrap_or_default().trim().trim_end_matches('.');
    let bare = name.trim_start_matches(['*', '.']);
    if name == "*" {
        "leave the key out for every host, or write a name: \"*.example.com\"".to_owned()
    } else if !name.is_ascii() {
        "write the name in ASCII, as browsers ask for it, with xn-- (the program idn prints it)".to_owned()
    } else if host_name(name.trim_start_matches("*.")).is_some() {
        format!("write the name alone: \"{name}\"")
    } else if host_name(bare).is_some() {
        format!("a * stands for whole labels: write \"*.{bare}\"")
    } else {
        "write a name without scheme, port or path: \"pbx.example.com\" or \"*.pbx.example.com\"".to_owned()
    }
}

/// Reads `http://host[:port]`, `https://host[:port]` or `unix:/path`. Problems never quote the text, because it may
/// hold a password.
pub(super) fn url(node: &TomlNode<'_, '_>) -> Option<UpstreamUrl> {
    let text = node.string()?;
    if let Some(path) = text.strip_prefix("unix:") {
        return socket(node, path);
    }
    let Some((tls, authority)) = scheme(text) else {
        return node.refuse("starts with neither http://, https:// nor unix:", scheme_hint(text));
    };
    if authority.contains('@') {
        return node.refuse("a user name or password does not belong here", URL_HINT);
    }
    if authority.contains(['/', '?', '#']) {
        return node.refuse("nothing may follow the host and port, not even a slash", shorter_hint(tls, authority));
    }
    match http(tls, authority) {
        Some(url) => Some(url),
        None => node.refuse("not a host name or IP address with an optional port", URL_HINT),
    }
}

/// Tells how to write an address with a missing or another scheme. A password in it is not quoted.
fn scheme_hint(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "http" | "ws" => "http",
        "https" | "wss" => "https",
        _ => return URL_HINT.to_owned(),
    };
    if http(false, rest).is_some() { format!("write \"{scheme}://{rest}\"") } else { URL_HINT.to_owned() }
}

/// Tells how to write an address with more behind its host.
fn shorter_hint(tls: bool, authority: &str) -> String {
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    let scheme = if tls { "https" } else { "http" };
    match http(tls, authority) {
        Some(_) => format!("write \"{scheme}://{authority}\": the path of each request stays as it is"),
        None => URL_HINT.to_owned(),
    }
}

/// Reads the path of a unix socket.
pub(super) fn socket(node: &TomlNode<'_, '_>, path: &str) -> Option<UpstreamUrl> {
    if !path.starts_with('/') || path.ends_with('/') {
        return node.refuse("not the whole path of a socket", "write \"unix:/run/app.sock\"");
    }
    if path.len() > MAX_SOCKET_PATH {
        return node.refuse("longer than the path of a socket can be", format_args!("{MAX_SOCKET_PATH} bytes at most"));
    }
    Some(UpstreamUrl::Unix(path.into()))
}

const URL_HINT: &str = "write \"http://127.0.0.1:3000\", \"https://host.example.com\" or \"unix:/run/app.sock\"";

/// Splits off the scheme. Returns whether it is TLS, and the rest.
pub(super) fn scheme(text: &str) -> Option<(bool, &str)> {
    let plain = text.strip_prefix("http://").map(|rest| (false, rest));
    plain.or_else(|| text.strip_prefix("https://").map(|rest| (true, rest)))
}

/// Reads the authority behind a scheme.
pub(super) fn http(tls: bool, authority: &str) -> Option<UpstreamUrl> {
    let (host, port) = host_and_port(authority)?;
    let at = |implied| HostPort { host, port: port.unwrap_or(implied) };
    Some(if tls { UpstreamUrl::Https(at(443)) } else { UpstreamUrl::Http(at(80)) })
}

/// Splits an authority (RFC 3986 §3.2) without user information; IPv6 loses its brackets.
pub(super) fn host_and_port(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            let IpAddr::V6(address) = host.parse().ok()? else { return None };
            (address.to_string(), if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None => {
            let (host, port) = authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
            (host.to_ascii_lowercase(), port)
        }
    };
    let is_name = |host: &str| is_host_name(host) && (!ends_in_number(host) || host.parse::<IpAddr>().is_ok());
    // A final dot stays: it marks a fully qualified name for the resolver. An IP address has none.
    let known = host.contains(':')
        || match host.strip_suffix('.') {
            Some(whole) => is_name(whole) && whole.parse::<IpAddr>().is_err(),
            None => is_name(&host),
        };
    let port = port.map(parse_port);
    if !known || port == Some(None) { None } else { Some((host, port.flatten())) }
}

/// Tells whether a host would be taken for an IPv4 address (URL Standard, "ends in a number").
fn ends_in_number(host: &str) -> bool {
    host.rsplit('.').next().is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()))
}

fn parse_port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0)
}

/// Reads the prefix of a path, which must be canonical and not callgate's own.
pub(super) fn path(node: &TomlNode<'_, '_>) -> Option<String> {
    let text = canonical_path(node)?;
    if text.contains('*') {
        node.warn("a * stands for itself", "leave it out: a path that ends in / is for all below it");
    }
    if is_reserved(text) {
        return node.refuse(
            "belongs to callgate itself",
            format_args!("{OTT_PATH}, {PBX_PATH}, {SOCKET_PATH} and {CALLGATE_PATH}/ never go upstream"),
        );
    }
    Some(text.to_owned())
}

/// Reads a path in its canonical spelling, but for the case of its letters.
pub(super) fn canonical_path<'d>(node: &TomlNode<'d, '_>) -> Option<&'d str> {
    let text = node.string()?;
    if !text.starts_with('/') {
        return node.refuse("does not start with a slash", path_hint(text));
    }
    if text.contains(['?', '#']) {
        return node.refuse("has a query or a fragment", "write the path only");
    }
    if !is_canonical(text) {
        let hint = "write it without //, /./, /../, ;, %, \\ and spaces";
        return node.refuse("must be in its canonical spelling", hint);
    }
    Some(text)
}

/// Tells how to write a path: with a slash in front, or without scheme and host.
fn path_hint(text: &str) -> String {
    let path = match scheme(text) {
        Some((_, rest)) => rest.find('/').map(|at| rest[at..].to_owned()),
        None => Some(format!("/{text}")),
    };
    match path.filter(|path| is_canonical(path) && !path.contains(['?', '#', '*'])) {
        Some(path) => format!("write \"{path}\""),
        None => "write a path such as \"/rest/\"".to_owned(),
    }
}

fn is_canonical(path: &str) -> bool {
    let plain = path.bytes().all(|byte| byte.is_ascii_graphic() && !b"%;\\".contains(&byte));
    plain && !path.contains("//") && !path.split('/').any(|segment| segment == "." || segment == "..")
}

/// Tells whether a path is one of callgate's own, in any case.
pub(super) fn is_reserved(path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    let below_callgate = path.strip_prefix(CALLGATE_PATH).is_some_and(|rest| rest.starts_with('/'));
    [OTT_PATH, PBX_PATH, SOCKET_PATH].contains(&path.as_str()) || below_callgate
}

/// Checks the name of a PBX account.
pub(super) fn account(node: &TomlNode<'_, '_>, name: &str) -> Option<String> {
    let domain = "any.domain".parse().expect("a host name");
    match Account::new(name, domain) {
        Ok(_) => Some(name.to_owned()),
        Err(error) if name.contains('@') => {
            node.refuse(error, "write the name alone, such as \"40\": what follows the @ belongs into `domain`")
        }
        Err(error) => node
            .refuse(error, "write the name of an extension, such as \"40\", or a claim in braces where rules allow it"),
    }
}

/// Checks the name of a Voximplant user.
pub(super) fn voximplant_user(node: &TomlNode<'_, '_>, name: &str) -> Option<String> {
    match name.parse::<VoximplantUser>() {
        Ok(_) => Some(name.to_owned()),
        Err(_) => node.refuse(
            "not a Voximplant user name",
            "3 to 50 of a-z, 0-9, _ and -, the first a letter or digit, nothing behind @",
        ),
    }
}

/// Reads every item of a list; a refused item does not hide the next.
pub(super) fn each<T>(nodes: &[TomlNode<'_, '_>], read: impl FnMut(&TomlNode<'_, '_>) -> Option<T>) -> Option<Vec<T>> {
    let items: Vec<_> = nodes.iter().map(read).collect();
    items.into_iter().collect()
}

/// Reads every item of a list without repeated values.
pub(super) fn distinct<T: PartialEq>(
    nodes: &[TomlNode<'_, '_>],
    what: &str,
    read: impl FnMut(&TomlNode<'_, '_>) -> Option<T>,
) -> Option<Vec<T>> {
    let values = each(nodes, read)?;
    refuse_repeated(nodes, &values, what);
    Some(values)
}

/// Reports the first repeated value.
pub(super) fn refuse_repeated<T: PartialEq>(nodes: &[TomlNode<'_, '_>], values: &[T], what: &str) {
    let repeated = (1..values.len()).find(|index| values[..*index].contains(&values[*index]));
    if let Some(index) = repeated {
        nodes[index].refuse::<()>(format_args!("the same {what} twice"), "remove one of them");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, milliseconds) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("5min", 300_000),
            ("1h", 3_600_000),
            ("2d", 172_800_000),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "5", "s", "-5s", "+5s", "1.5s", "5 s", "5S", "1w", "99999999999999999999s", "99999999999999d"]
        {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn durations_in_other_forms_are_told_in_ours() {
        for (text, meant) in [
            ("30", Some("30s")),
            ("30 s", Some("30s")),
            ("30sec", Some("30s")),
            ("5 Minutes", Some("5min")),
            ("1w", Some("7d")),
            ("PT30S", None),
            ("1.5h", None),
            ("", None),
            ("s", None),
        ] {
            assert_eq!(meant_duration(text).as_deref(), meant, "{text}");
        }
    }

    #[test]
    fn authorities_have_a_host_and_perhaps_a_port() {
        for (text, host, port) in [
            ("a.test", "a.test", None),
            ("A.Test:8080", "a.test", Some(8080)),
            ("127.0.0.1:1", "127.0.0.1", Some(1)),
            ("[::1]", "::1", None),
            ("[2001:DB8::1]:443", "2001:db8::1", Some(443)),
        ] {
            assert_eq!(host_and_port(text), Some((host.to_owned(), port)), "{text}");
        }
        for text in [
            "",
            ":80",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "a:b",
            "::1",
            "[::1",
            "[127.0.0.1]",
            "[::1]80",
            "a b",
            "127.1",
            "1.2.3.4.5",
            "*.a",
        ] {
            assert_eq!(host_and_port(text), None, "{text}");
        }
    }

    #[test]
    fn canonical_paths_have_one_spelling() {
        for path in ["/", "/rest/", "/a/.well-known/b", "/a~b/...", "/Rest"] {
            assert!(is_canonical(path), "{path}");
        }
        for path in ["//", "/a//b", "/a/./b", "/a/..", "/a%20b", "/a;b", "/a\\b", "/a b", "/ä"] {
            assert!(!is_canonical(path), "{path}");
        }
    }

    #[test]
    fn our_paths_are_reserved_in_any_case() {
        for path in ["/auth/ott", "/auth/pbx", "/Auth/PBX", "/auth/pbx/Socket", "/auth/callgate/", "/auth/callgate/x"] {
            assert!(is_reserved(path), "{path}");
        }
        for path in ["/auth", "/auth/", "/auth/otto", "/auth/callgate", "/x/auth/pbx"] {
            assert!(!is_reserved(path), "{path}");
        }
    }
}
