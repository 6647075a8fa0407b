//! The languages of pages that people meet, and the choice among them.

use std::fmt;

/// A language of callgate's own pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PageLanguage {
    /// English.
    English,
    /// German.
    German,
    /// French.
    French,
    /// Spanish.
    Spanish,
    /// Italian.
    Italian,
    /// Portuguese.
    Portuguese,
    /// Dutch.
    Dutch,
    /// Japanese.
    Japanese,
}

impl PageLanguage {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::English,
        Self::German,
        Self::French,
        Self::Spanish,
        Self::Italian,
        Self::Portuguese,
        Self::Dutch,
        Self::Japanese,
    ];

    /// Returns its tag (BCP 47), as in the attribute `lang` of HTML.
    #[must_use]
    pub const fn tag(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::German => "de",
            Self::French => "fr",
            Self::Spanish => "es",
            Self::Italian => "it",
            Self::Portuguese => "pt",
            Self::Dutch => "nl",
            Self::Japanese => "ja",
        }
    }

    /// Finds the language of a tag such as `pt-BR`. The PBX writes `sp` for Spanish.
    #[must_use]
    pub fn of_tag(tag: &str) -> Option<Self> {
        let primary = tag.split('-').next().unwrap_or_default();
        let primary = if primary.eq_ignore_ascii_case("sp") { "es" } else { primary };
        Self::ALL.into_iter().find(|language| language.tag().eq_ignore_ascii_case(primary))
    }

    /// Finds the language that a reader likes best, by the value of `Accept-Language` (RFC 9110 §12.5.4): of equal weights
    /// the first one. A range that is no language of ours, `*` included, says nothing.
    #[must_use]
    pub fn accepted(value: &str) -> Option<Self> {
        let mut best = None;
        for range in value.split(',').take(MOST_RANGES) {
            let mut parts = range.split(';');
            let language = Self::of_tag(parts.next().unwrap_or_default().trim());
            let weight = parts.find_map(|part| part.trim().strip_prefix("q=")).map_or(1000, weight);
            if let Some(language) = language
                && weight > best.map_or(0, |(_, weight)| weight)
            {
                best = Some((language, weight));
            }
        }
        best.map(|(language, _)| language)
    }
}

impl fmt::Display for PageLanguage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.tag())
    }
}

/// The most ranges of one `Accept-Language` that are read.
const MOST_RANGES: usize = 20;

/// Reads a weight as thousandths (RFC 9110 §12.4.2); 0, which refuses, for any other text.
fn weight(text: &str) -> u16 {
    let text = text.trim();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_short = fraction.len() <= 3 && fraction.bytes().all(|byte| byte.is_ascii_digit());
    match whole {
        "0" if is_short => format!("{fraction:0<3}").parse().unwrap_or(0),
        "1" if is_short => 1000,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::PageLanguage::{self, *};

    #[test]
    fn the_reader_likes_one_best() {
        #[track_caller]
        fn check(value: &str, expected: Option<PageLanguage>) {
            assert_eq!(PageLanguage::accepted(value), expected, "{value}");
        }
        check("de", Some(German));
        check("de-AT, en;q=0.5", Some(German));
        check("en;q=0.5, PT-br;q=0.8, fr;q=0.7", Some(Portuguese));
        check("sv, da;q=0.9, nl;q=0.1", Some(Dutch));
        check("ja;q=1.000,es", Some(Japanese));
        check("fr;q=0, it;q=0.001", Some(Italian));
        check("fr;q=nonsense", None);
        check("*", None);
        check("", None);
        check(",;q=1,;;,", None);
        check(&format!("{}de", "sv,".repeat(40)), None);
    }

    #[test]
    fn the_pbx_has_a_tag_of_its_own_for_spanish() {
        assert_eq!(PageLanguage::of_tag("sp"), Some(Spanish));
        assert_eq!(PageLanguage::of_tag("es-MX"), Some(Spanish));
        assert_eq!(PageLanguage::of_tag("english"), None);
    }
}
