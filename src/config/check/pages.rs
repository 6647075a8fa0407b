//! `[pages]`: the operator's name, logo, help and words on the pages that people meet.

use std::collections::HashMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::values;
use crate::config::document::{TomlNode, TomlTable};
use crate::config::source::Surroundings;
use crate::config::{Contact, Logo, PagesConfig};
use crate::model::page_language::PageLanguage;
use crate::model::page_text::PageText;

/// The largest picture, in bytes: each page carries it.
const MAX_LOGO: usize = 64 << 10;
/// The longest text of an operator, in characters.
const MAX_TEXT: usize = 500;
/// The longest name, in characters.
const MAX_NAME: usize = 60;

/// Reads `[pages]`.
pub(super) fn pages(table: &TomlTable<'_, '_>, around: &Surroundings<'_>) -> PagesConfig {
    let default = PagesConfig::default();
    PagesConfig {
        language: table.get("language").and_then(|node| node.choice(&languages())).unwrap_or(default.language),
        name: table.get("name").and_then(|node| text(&node, MAX_NAME)),
        logo: table.get("logo").and_then(|node| logo(&node, around)),
        home: table.get("home").and_then(|node| home(&node)).unwrap_or(default.home),
        contact: table.get("contact").and_then(|node| contact(&node)),
        texts: table.section("texts", |table| Some(texts(table))).unwrap_or_default(),
    }
}

fn languages() -> [(&'static str, PageLanguage); PageLanguage::ALL.len()] {
    PageLanguage::ALL.map(|language| (language.tag(), language))
}

/// Reads a text of one line.
fn text(node: &TomlNode<'_, '_>, most: usize) -> Option<String> {
    match node.word()? {
        text if text.chars().count() > most => {
            node.refuse("is too long for a page", format_args!("write at most {most} characters"))
        }
        text => Some(text.to_owned()),
    }
}

fn home(node: &TomlNode<'_, '_>) -> Option<String> {
    let text = node.word()?;
    let is_path = text.starts_with('/') && !text.starts_with("//");
    let is_spelled = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if is_spelled && (is_path || is_https(text)) {
        return Some(text.to_owned());
    }
    node.refuse("neither a path nor an https address", "write \"/\" or \"https://www.example.com/\"")
}

/// Tells whether a text is an address of scheme `https` with a host.
fn is_https(text: &str) -> bool {
    let Some((true, rest)) = values::scheme(text) else { return false };
    values::host_and_port(rest.split(['/', '?', '#']).next().unwrap_or_default()).is_some()
}

fn contact(node: &TomlNode<'_, '_>) -> Option<Contact> {
    let text = node.word()?;
    let is_spelled = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    let is_mail = text.strip_prefix("mailto:").is_some_and(|address| address.contains('@'));
    let is_call = text.strip_prefix("tel:").is_some_and(|number| number.bytes().any(|byte| byte.is_ascii_digit()));
    if is_spelled && (is_mail || is_call || is_https(text)) {
        return Some(Contact { url: text.to_owned() });
    }
    let hint = "write \"mailto:help@example.com\", \"tel:+492115550100\" or \"https://help.example.com/\"";
    node.refuse("not an address where people find help", hint)
}

// === The logo ===

/// The media types of pictures, each with the bytes that such a file begins with.
const PICTURES: [(&str, &[u8]); 4] = [
    ("image/png", b"\x89PNG\r\n\x1a\n"),
    ("image/jpeg", b"\xff\xd8\xff"),
    ("image/gif", b"GIF8"),
    ("image/webp", b"RIFF"),
];

/// Reads a picture. Browsers run no scripts of an SVG inside `img`.
fn logo(node: &TomlNode<'_, '_>, around: &Surroundings<'_>) -> Option<Logo> {
    let bytes = around.public_file(node)?;
    if bytes.len() > MAX_LOGO {
        let hint = format!("use one of at most {} KiB: each page carries it", MAX_LOGO >> 10);
        return node.refuse("the picture is too large", hint);
    }
    let Some(media) = media_type(&bytes) else {
        return node.refuse("the file is no picture that browsers show", "use SVG, PNG, JPEG, GIF or WebP");
    };
    Some(Logo { url: format!("data:{media};base64,{}", BASE64_STANDARD.encode(&bytes)) })
}

fn media_type(bytes: &[u8]) -> Option<&'static str> {
    let found = PICTURES.iter().find(|(_, begin)| bytes.starts_with(begin)).map(|(media, _)| *media);
    let is_svg = || std::str::from_utf8(bytes).is_ok_and(|text| text.contains("<svg"));
    found.or_else(|| is_svg().then_some("image/svg+xml"))
}

// === Texts ===

/// Reads the operator's texts: a table for each language.
fn texts(table: &TomlTable<'_, '_>) -> HashMap<(PageLanguage, PageText), String> {
    let mut texts = HashMap::new();
    for (tag, language) in languages() {
        table.section(tag, |table| {
            let own =
                PageText::ALL.into_iter().filter_map(|(key, text)| Some((text, own_text(&table.get(key)?, text)?)));
            texts.extend(own.map(|(text, words)| ((language, text), words)));
            Some(())
        });
    }
    texts
}

fn own_text(node: &TomlNode<'_, '_>, of: PageText) -> Option<String> {
    let words = text(node, MAX_TEXT)?;
    match of.placeholder() {
        Some(value) if !words.contains(value) => {
            node.refuse(format_args!("has no {value}"), format_args!("write {value} where the value belongs"))
        }
        _ => Some(words),
    }
}
