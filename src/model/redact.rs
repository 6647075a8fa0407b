//! Hides secrets in text from outside before it goes to a log.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// The replacement for a secret.
const HIDDEN: &str = "***";

/// The longest target in a log, in bytes.
const MAX_TARGET: usize = 1024;

/// The longest other text in a log, in bytes.
const MAX_TEXT: usize = 256;

/// How many levels of escaping are decoded when an address is searched for secrets.
const MAX_ESCAPES: usize = 4;

/// The words that make a parameter secret, alone or as a part of its name: `token`, `user[password]`, `api-key`.
const SECRET: &[&str] = &[
    "access_token",
    "accesstoken",
    "api_key",
    "apikey",
    "appuserpassword",
    "assertion",
    "auth",
    "authorization",
    "client_assertion",
    "client_secret",
    "clientsecret",
    "code",
    "code_verifier",
    "cookie",
    "credential",
    "credentials",
    "hash",
    "id_token",
    "idtoken",
    "jsessionid",
    "jwt",
    "key",
    "nonce",
    "otp",
    "pass",
    "passphrase",
    "passwd",
    "password",
    "phpsessid",
    "pin",
    "private_key",
    "pwd",
    "refresh_token",
    "refreshtoken",
    "samlrequest",
    "samlresponse",
    "secret",
    "sess",
    "sessid",
    "session",
    "session_id",
    "sessionid",
    "sid",
    "sig",
    "signature",
    "state",
    "t",
    "ticket",
    "token",
    "value",
];

/// The characters that are escaped in a target, besides everything outside ASCII: controls, spaces, quotes and
/// backslashes.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'\'').add(b'\\').add(b'`');

/// Returns a path and query without its secrets, in printable ASCII, cut at 1,024 bytes.
///
/// The values of secret parameters, of parameters that hold another URL with a secret, and of all parameters of path
/// segments become `***`.
#[must_use]
pub fn target(path_and_query: &str) -> Cow<'_, str> {
    let (path, query) = path_and_query.split_at(path_and_query.find('?').unwrap_or(path_and_query.len()));
    let mut shown = Cow::Borrowed(path_and_query);
    // Most targets have no character that could precede a secret.
    let may_tell = path_and_query.bytes().any(|byte| matches!(byte, b'=' | b'%' | b';'));
    if may_tell && (path.contains(';') || path.split('/').any(tells_secret) || query.split('&').any(tells_secret)) {
        shown = Cow::Owned(path_without_values(path) + &query_without_secrets(query));
    }
    if shown.len() <= MAX_TARGET && shown.bytes().all(is_shown_as_it_is) {
        return shown;
    }
    Cow::Owned(cut(utf8_percent_encode(&shown, ESCAPED).to_string(), MAX_TARGET))
}

/// Tells whether a byte of a target needs no escape.
fn is_shown_as_it_is(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'\\' | b'`')
}

/// Returns any other text from outside on one line, cut at 256 bytes. A word such as `sessId=…` loses its value.
#[must_use]
pub fn text(text: &str) -> Cow<'_, str> {
    let tells = text.split(char::is_whitespace).any(tells_secret);
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    if !tells && text.len() <= MAX_TEXT && (is_plain || !text.contains(is_invisible)) {
        return Cow::Borrowed(text);
    }
    let words = text.split_inclusive(char::is_whitespace);
    let words: String = words.map(without_secret).collect();
    let mut shown = String::new();
    // One character over the bound is enough to tell that the text is too long.
    for c in words.chars().take(MAX_TEXT + 1) {
        if is_invisible(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    Cow::Owned(cut(shown, MAX_TEXT))
}

/// Returns a named value as [`text`] does; `***` if the name is that of a secret.
#[must_use]
pub fn value<'a>(name: &str, value: &'a str) -> Cow<'a, str> {
    if is_secret(name) { HIDDEN.into() } else { text(value) }
}

/// Tells whether a text has a parameter with a secret name, also within an escaped address, such as
/// `next=%2Fwelcome.htm%3FsessId%3D…`. A login page that leads to another login page escapes it twice.
fn tells_secret(text: &str) -> bool {
    if !text.bytes().any(|byte| matches!(byte, b'=' | b'%')) {
        return false;
    }
    let mut text = Cow::Borrowed(text);
    for _ in 0..MAX_ESCAPES {
        if names_secret(&text) {
            return true;
        }
        if !text.contains('%') {
            return false;
        }
        text = Cow::Owned(percent_decode_str(&text).decode_utf8_lossy().into_owned());
    }
    names_secret(&text)
}

/// Tells whether the value of a parameter of this name is hidden.
#[must_use]
pub fn hides(name: &str) -> bool {
    is_secret(name)
}

fn names_secret(text: &str) -> bool {
    let mut pairs = text.split(['?', '&', ';', '#']).filter_map(|pair| pair.split_once('='));
    pairs.any(|(name, _)| is_secret(name))
}

fn is_secret(name: &str) -> bool {
    let name = percent_decode_str(name).decode_utf8_lossy().to_ascii_lowercase();
    name.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| SECRET.contains(&word))
}

/// Hides the values of `;name=value`, up to the next `;` or `/`.
fn path_without_values(path: &str) -> String {
    path.split_inclusive('/').map(segment_without_values).collect()
}

fn segment_without_values(segment: &str) -> String {
    let (segment, slash) = segment.strip_suffix('/').map_or((segment, ""), |segment| (segment, "/"));
    let mut parts = segment.split(';');
    let name = without_secret(parts.next().unwrap_or_default());
    let parameters = parts.map(|parameter| format!(";{}", without_value(parameter)));
    format!("{name}{}{slash}", parameters.collect::<String>())
}

fn query_without_secrets(query: &str) -> String {
    let Some(pairs) = query.strip_prefix('?') else { return String::new() };
    format!("?{}", pairs.split('&').map(without_secret).collect::<Vec<_>>().join("&"))
}

fn without_secret(pair: &str) -> String {
    match pair.split_once('=') {
        _ if !tells_secret(pair) => pair.to_owned(),
        // The name may hold an escaped address as well.
        Some((name, _)) if !tells_secret(name) => format!("{name}={HIDDEN}"),
        _ => HIDDEN.to_owned(),
    }
}

fn without_value(pair: &str) -> String {
    match pair.split_once('=') {
        Some((name, _)) => format!("{name}={HIDDEN}"),
        None => pair.to_owned(),
    }
}

/// Tells whether a character would break or rearrange a line of text: controls, and Unicode marks that are invisible,
/// end lines or change the direction of writing.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Cuts a text between characters, and ends it with `…`.
fn cut(mut text: String, max: usize) -> String {
    if text.len() <= max {
        return text;
    }
    let mut end = max - '…'.len_utf8();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text.push('…');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(target(text), expected, "{text}");
    }

    #[test]
    fn shows_what_is_not_secret_as_it_is() {
        for text in [
            "/",
            "",
            "*",
            "/a/b.htm?x=1&y=%20&z",
            "/a?",
            "/token/abc",
            "/audio.wav?type=recording&id=7",
            "/a?tokens=1&xkey=2",
            "/a?=x",
        ] {
            assert!(matches!(target(text), Cow::Borrowed(same) if same == text), "{text}");
        }
    }

    #[test]
    fn hides_every_secret_parameter() {
        for name in [
            "sessId",
            "session",
            "token",
            "t",
            "ticket",
            "key",
            "code",
            "state",
            "password",
            "pass",
            "pwd",
            "secret",
            "sig",
            "signature",
            "nonce",
            "access_token",
            "refresh_token",
            "id_token",
            "api_key",
            "apikey",
            "auth",
            "authorization",
            "appUserPassword",
            "value",
            "hash",
            "SESSID",
            "sess%49d",
            "%74oken",
            "user[password]",
            "user%5Bpassword%5D",
            "x-api-key",
            "accessToken",
            "+token",
            " token",
            "%00token",
            "amp%3Bkey",
        ] {
            assert_eq!(target(&format!("/w?a=1&{name}=canary%2Bcanary&b=2")).find("canary"), None, "{name}");
            assert_eq!(target(&format!("/w?a=1;{name}=canary;b=2")).find("canary"), None, "{name}");
        }
        for name in SECRET {
            check(&format!("/w?{name}=canary"), &format!("/w?{name}=***"));
        }
    }

    #[test]
    fn keeps_what_stands_around_a_secret() {
        check("/w?a=1&sessId=x&b=2", "/w?a=1&sessId=***&b=2");
        check("/w?sessId=x=y?z;u", "/w?sessId=***");
        check("/w?sessId=&sessId", "/w?sessId=***&sessId");
        check("/w??token=x", "/w??token=***");
        check("/w?a;token=x", "/w?a;token=***");
    }

    #[test]
    fn hides_secrets_in_urls_inside_of_values() {
        check("/login?next=%2Fwelcome.htm%3FsessId%3Dx&a=1", "/login?next=***&a=1");
        check("/login?next=/w%26token%3Dx", "/login?next=***");
        check("/login?next=%2Fw%23access_token%3Dx", "/login?next=***");
        check("/login?next=/w?token=x", "/login?next=***");
        check("/w?a=1;token=x;b=2&c=3", "/w?a=***&c=3");
        check("/login?next=%2Fw%3Fa%3Dx", "/login?next=%2Fw%3Fa%3Dx");
    }

    #[test]
    fn hides_secrets_in_urls_escaped_more_than_once_or_in_odd_places() {
        check("/login?next=%2Fsso%3Fnext%3D%252Fw%253FsessId%253Dx&a=1", "/login?next=***&a=1");
        check("/login?next=%25252Fw%25253FsessId%25253Dx", "/login?next=***");
        check("/login?%2Fw%3FsessId%3Dx", "/login?***");
        check("/login?%2Fw%3FsessId%3Dx%26a=1", "/login?***");
        check("/to/%2Fw%3FsessId%3Dx/b?a=1", "/to/***/b?a=1");
        check("/to/token=x;v=1", "/to/token=***;v=***");
        check("/to/100%25/%2525?a=%2525", "/to/100%25/%2525?a=%2525");
    }

    #[test]
    fn hides_the_values_of_path_parameters() {
        check("/a;jsessionid=x/b;v=1;w?c=1", "/a;jsessionid=***/b;v=***;w?c=1");
        check("/a;/;=x", "/a;/;=***");
    }

    #[test]
    fn escapes_what_could_break_a_line() {
        check("/a\r\nb\0\x7f\x1b[0m", "/a%0D%0Ab%00%7F%1B[0m");
        check("/a\"b'c\\d e", "/a%22b%27c%5Cd%20e");
        check("/é?ü=1", "/%C3%A9?%C3%BC=1");
        check("/é?token=ü", "/%C3%A9?token=***");
    }

    #[test]
    fn cuts_long_targets() {
        let fits = format!("/{}", "a".repeat(1023));
        check(&fits, &fits);
        check(&format!("{fits}a"), &format!("{}…", &fits[..1021]));
        assert_eq!(target(&"é".repeat(600)).len(), 1024);
        assert_eq!(target(&format!("/?token={}", "x".repeat(5000))), "/?token=***");
    }

    #[track_caller]
    fn check_text(input: &str, expected: &str) {
        assert_eq!(text(input), expected, "{input:?}");
    }

    #[test]
    fn shows_other_text_on_one_line() {
        check_text("Mozilla/5.0 (X11; \"Linux\")", "Mozilla/5.0 (X11; \"Linux\")");
        check_text("Jürgen 密", "Jürgen 密");
        check_text("a\r\nb\tc\0\x1b\u{85}", "a\\r\\nb\\tc\\u{0}\\u{1b}\\u{85}");
        check_text("a\u{202e}b\u{2028}c\u{feff}", "a\\u{202e}b\\u{2028}c\\u{feff}");
    }

    #[test]
    fn cuts_other_text_between_characters() {
        check_text(&"a".repeat(256), &"a".repeat(256));
        check_text(&"a".repeat(257), &format!("{}…", "a".repeat(253)));
        check_text(&"é".repeat(129), &format!("{}…", "é".repeat(126)));
        check_text(&"😀".repeat(1000), &format!("{}…", "😀".repeat(63)));
        check_text(&"\n".repeat(128), &"\\n".repeat(128));
        assert!(text(&"\0".repeat(257)).len() <= 256);
    }
}
