//! Hints for mistakes in `proxy.toml`: from the text that is written to the text that was probably meant. Pure.

use toml::de::DeValue;

// === Words ===

/// Names the known words that a word is close to, or all known words if it is close to none.
pub(super) fn did_you_mean(word: &str, known: &[&str]) -> String {
    let near: Vec<_> = known.iter().filter(|name| is_near(word, name)).map(|name| format!("`{name}`")).collect();
    if near.is_empty() || near.len() > MAX_NEAR {
        return format!("known here: {}", known.join(", "));
    }
    format!("did you mean {}?", near.join(" or "))
}

/// Tells whether a word is close to a known one.
pub(super) fn has_similar(word: &str, known: &[&str]) -> bool {
    known.iter().any(|name| is_near(word, name))
}

/// The most words in a hint.
const MAX_NEAR: usize = 3;
/// The shortest part of a word that is compared.
const MIN_PART: usize = 3;

fn is_near(word: &str, name: &str) -> bool {
    let plain = |text: &str| text.to_ascii_lowercase().replace(['-', '_'], "");
    let (word, name) = (plain(word), plain(name));
    let starts = |long: &str, short: &str| short.len() >= MIN_PART && long.starts_with(short);
    strsim::osa_distance(&word, &name) <= 2.min(name.len() / 2) || starts(&word, &name) || starts(&name, &word)
}

/// Returns the key that a table has in the place of one with another name.
pub(super) fn own_name(table: &str, key: &str) -> Option<&'static str> {
    match (table, key) {
        ("passthrough", "host" | "hosts") => Some("names"),
        ("passthrough", "url") => Some("to"),
        _ => None,
    }
}

/// Tells which table a key belongs to that is unknown in its own.
pub(super) fn home(key: &str) -> Option<&'static str> {
    HOMES.iter().find(|(keys, _)| keys.contains(&key)).map(|(_, home)| *home)
}

/// Keys that are often put into the wrong table, and the right one.
const HOMES: [(&[&str], &str); 14] = [
    (&["listen", "tls", "redirect_http", "workers", "member"], "above the first [table] of the file"),
    (&["cert", "key", "certificates", "client_ca", "client_auth"], "in `tls`"),
    (&["whoami", "login"], "in [app]"),
    (
        &[
            "handoff",
            "landing",
            "landings",
            "auto",
            "logged_in",
            "languages",
            "dialect",
            "shield",
            "insecure_admin_over_http",
            "aliases",
            "socket",
        ],
        "in [pbx]",
    ),
    (&["url", "hosts", "paths", "ca", "pin", "server_name", "insecure_skip_verify"], "in [app] or [pbx]"),
    (
        &[
            "drain",
            "drain_tunnels",
            "max_connections_per_client",
            "buffer_budget",
            "strip_fields",
            "insecure_no_sandbox",
            "believe_forwarded_from",
            "accept_proxy_protocol_from",
        ],
        "in [server]",
    ),
    (&["names", "to", "proxy_protocol"], "in a [[passthrough]] table"),
    (&["max_connections"], "in [server], [app] or [pbx]"),
    (&["client", "caller", "failures", "stale_cookies", "pbx_logins"], "in [limits]"),
    (&["access", "format", "level"], "in [log]"),
    (&["chain", "syslog", "when_stuck"], "in [audit]"),
    (
        &["client_id", "client_secret", "trusted_audiences", "userinfo", "remember", "cookie_key", "after_logout"],
        "in an [[auth]] table with type = \"oidc\"",
    ),
    (&["application", "management", "provision", "new_users", "max_key_length", "distinct_keys"], "in [voximplant]"),
    (&["origins"], "in [pbx] or [voximplant]"),
];

// === Values of the wrong type ===

/// Tells how to write a value of the right type in place of another. `path` leads to the value.
pub(super) fn rewrite(path: &str, wanted: &str, found: &DeValue<'_>) -> String {
    let kind = kind(found);
    let last = path.rsplit('.').next().unwrap_or(path);
    let example = match (wanted, found) {
        (TABLE, DeValue::Array(items)) if items.iter().all(|item| item.get_ref().is_table()) && !path.contains('.') => {
            format!("write [{path}] instead of [[{path}]], and once")
        }
        (TABLE, _) => match TABLES.iter().find(|(key, _)| *key == path || *key == last) {
            Some((_, example)) => format!("write {last} = {example}, or the same below [{path}]"),
            None => format!("write {last} = {{ … }}"),
        },
        (LIST, DeValue::String(_)) => format!("put brackets around it: {last} = [\"…\"]"),
        (LIST, _) => match LISTS.iter().find(|(key, _)| *key == path) {
            Some((_, example)) => format!("write {last} = {example}"),
            None => format!("write {last} = [\"…\"]"),
        },
        (TEXT, DeValue::Table(_) | DeValue::Array(_)) => format!("write {last} = \"…\""),
        (TEXT, DeValue::Integer(count)) if path.starts_with("limits.") || path.starts_with("pbx.limits.") => {
            format!("put it in quotes, with its time: {last} = \"{}/min\"", count.as_str())
        }
        (TEXT, _) => match TEXTS.iter().find(|(key, _)| *key == path) {
            Some((_, example)) => format!("write {last} = \"{example}\""),
            None => format!("put it in quotes: {last} = \"…\""),
        },
        (NUMBER, DeValue::String(_)) => "write it without quotes, in digits".to_owned(),
        (NUMBER, _) => "write it in digits, without a point".to_owned(),
        (SWITCH, DeValue::String(_)) => "write it without quotes".to_owned(),
        _ => "write true or false".to_owned(),
    };
    format!("found {kind}: {example}")
}

/// The types of values, as hints name them.
pub(super) const TABLE: &str = "a table";
pub(super) const LIST: &str = "a list in brackets";
pub(super) const TEXT: &str = "a string in quotes";
pub(super) const NUMBER: &str = "a whole number";
pub(super) const SWITCH: &str = "true or false";

/// Examples of tables that people often write as a single value.
const TABLES: [(&str, &str); 9] = [
    ("tls", "{ cert = \"fullchain.pem\", key = \"privkey.pem\" }"),
    ("pbx.admin", "{ user = \"…\", password = { file = \"…\" } }"),
    ("allow.pbx", "{ domain = \"…\", account = \"…\" }"),
    ("allow.table", "{ file = \"people.csv\", key = \"{sub}\" }"),
    ("allow.when", "{ claim = \"value\" }"),
    ("pbx.shield", "{ from = [\"10.0.0.0/8\"] }"),
    ("state", "{ file = \"state\" }"),
    ("admin", "{ listen = \"127.0.0.1:9443\" }"),
    ("audit", "{ file = \"log/audit.log\" }"),
];

/// Examples of texts in whose place people write `true`.
const TEXTS: [(&str, &str); 2] = [("pbx.socket", "/auth/pbx/socket"), ("voximplant.provision", "on-first-login")];

/// Examples of lists of tables.
const LISTS: [(&str, &str); 1] = [("auth.keys", "[{ kid = \"…\", secret = { file = \"…\" } }]")];

/// Names the type of a value, never the value, which may be a misplaced secret.
const fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

// === What is no TOML ===

/// Tells how to correct the TOML at the byte where the parser gave up with a message.
pub(super) fn syntax(text: &str, byte: usize, message: &str) -> String {
    let line = line_at(text, byte);
    if let Some(odd) = odd_character(line) {
        return odd;
    }
    if text.trim_start().starts_with('{') {
        return "this looks like JSON: write TOML, such as listen = \"0.0.0.0:443\"".to_owned();
    }
    let (name, rest) = line.split_once(['=', ':']).unwrap_or((line, ""));
    let (name, rest) = (name.trim(), rest.trim());
    let is_header = line.trim_start().starts_with('[');
    match message {
        _ if is_header && !line.contains('=') && !line.trim_end().ends_with(']') => {
            "close the name of the table with ]".to_owned()
        }
        "duplicate key" if ["[auth]", "[allow]", "[passthrough]"].contains(&line.trim()) => {
            format!("write [{}], in double brackets, here and above", line.trim())
        }
        "duplicate key" => {
            let at = first_line_of(text, byte, line).map_or_else(String::new, |number| format!(" (line {number})"));
            format!(
                "it stands above already{at}: keep one; only tables in double brackets, such as [[allow]], may be repeated"
            )
        }
        _ if message.starts_with("key with no value") && line.contains(':') && !line.contains('=') => {
            format!("write = in the place of the colon: {name} = …")
        }
        _ if message.starts_with("key with no value") => "write each value as key = value".to_owned(),
        _ if ["yes", "no", "on", "off", "True", "False", "TRUE", "FALSE"].contains(&rest) => {
            format!("write {name} = true or {name} = false")
        }
        _ if message.starts_with("string values must be quoted") || is_bare_text(rest) => {
            format!("put the value in quotes: {name} = \"…\"")
        }
        _ if message.contains("escaped value") => {
            "write \\\\ for each \\, or put the text between single quotes".to_owned()
        }
        _ if message.starts_with("invalid basic string") => "end the string with \" on the same line".to_owned(),
        _ => "write each value as key = value, texts in double quotes (https://toml.io)".to_owned(),
    }
}

/// Tells whether a value that begins like a number is an address or a name without quotes.
fn is_bare_text(value: &str) -> bool {
    let begins = value.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/' || c == '*');
    begins && value.contains(['.', ':', '/']) && !value.contains('"')
}

/// Returns the start of the character that a byte belongs to, or the end of the text.
fn char_start(text: &str, byte: usize) -> usize {
    (0..=byte.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default()
}

fn line_at(text: &str, byte: usize) -> &str {
    let byte = char_start(text, byte);
    let start = text[..byte].rfind('\n').map_or(0, |at| at + 1);
    text[start..].lines().next().unwrap_or_default()
}

/// Finds a character that word processors put in place of an ASCII one.
fn odd_character(line: &str) -> Option<String> {
    let code = line.split('#').next().unwrap_or_default();
    let odd = code.chars().find(|c| "“”„‟‘’‚«»″′".contains(*c));
    if let Some(odd) = odd {
        return Some(format!("{odd} is a typographic quotation mark: write \" in its place"));
    }
    let space = code.chars().find(|c| c.is_whitespace() && !c.is_ascii() || "\u{200b}\u{feff}\u{2060}".contains(*c))?;
    Some(format!("there is an invisible character (U+{:04X}): write an ordinary space, or nothing", u32::from(space)))
}

/// Finds the line on which the same key or table was defined first.
fn first_line_of(text: &str, byte: usize, line: &str) -> Option<usize> {
    let key = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
    let wanted = key(line);
    let before = char_start(text, byte);
    let at = text[..before].lines().position(|line| key(line) == wanted)?;
    let own = text[..before].matches('\n').count();
    (at < own).then_some(at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(word: &str, expected: &str) {
        assert_eq!(did_you_mean(word, &["url", "hosts", "paths"]), expected);
    }

    #[test]
    fn suggests_only_what_is_close() {
        check("hots", "did you mean `hosts`?");
        check("urll", "did you mean `url`?");
        check("ptahs", "did you mean `paths`?");
        check("hose", "did you mean `hosts`?");
        check("Host", "did you mean `hosts`?");
        check("hostsAndMore", "did you mean `hosts`?");
        check("believe", "known here: url, hosts, paths");
        check("x", "known here: url, hosts, paths");
        assert_eq!(did_you_mean("warning", &["error", "warn", "info"]), "did you mean `warn`?");
        assert_eq!(did_you_mean("JSON", &["text", "json"]), "did you mean `json`?");
        assert_eq!(did_you_mean("pass", &["user", "password"]), "did you mean `password`?");
        assert_eq!(did_you_mean("certificate", &["certificates", "cert"]), "did you mean `certificates` or `cert`?");
    }

    #[test]
    fn what_is_no_toml_is_told_how_it_becomes_toml() {
        for (text, message, expected) in [
            ("a = “b”", "string values must be quoted, expected literal string", "“ is a typographic quotation mark"),
            ("a = 1\n\u{a0}b = 1", "invalid unquoted key", "an invisible character (U+00A0)"),
            ("{ \"listen\": 1 }", "invalid key-value pair, expected key", "looks like JSON"),
            ("a: 1", "key with no value, expected `=`", "write = in the place of the colon: a = …"),
            ("a", "key with no value, expected `=`", "write each value as key = value"),
            ("a = 127.0.0.1:443", "invalid float, expected nothing", "put the value in quotes: a = \"…\""),
            ("a = http://b", "string values must be quoted, expected literal string", "put the value in quotes"),
            ("a = yes", "string values must be quoted, expected literal string", "write a = true or a = false"),
            ("[app", "unclosed table, expected `]`", "close the name of the table with ]"),
            ("a = \"b", "invalid basic string, expected `\"`", "end the string with \""),
            ("a = \"\\l\"", "missing escaped value, expected `b`", "write \\\\ for each \\"),
            ("a = = 1", "whatever", "write each value as key = value"),
        ] {
            let byte = text.rfind('\n').map_or(0, |at| at + 1);
            let hint = syntax(text, byte, message);
            assert!(hint.contains(expected), "{text:?}: {hint}");
        }
        let twice = "[app]\nurl = 1\n[pbx]\n[app]\n";
        assert!(syntax(twice, twice.rfind("app").unwrap(), "duplicate key").contains("(line 1)"));
        assert!(syntax("[app]\nurl = 1\nurl = 2", 14, "duplicate key").contains("(line 2)"));
        let single = "[allow]\nauth = 1\n[allow]\n";
        assert!(syntax(single, single.len() - 7, "duplicate key").starts_with("write [[allow]], in double brackets"));
    }

    #[test]
    fn bytes_within_characters_and_behind_the_end_are_no_harm() {
        for byte in 0..12 {
            assert!(!syntax("ä = ö\r\nü", byte, "odd").is_empty());
        }
        assert_eq!(syntax("", 0, "odd"), "write each value as key = value, texts in double quotes (https://toml.io)");
    }
}
