//! The person that a page is for: a language, and what the operator says in it.

use http::header::{self, HeaderMap};

use crate::config::PagesConfig;
use crate::model::page_language::PageLanguage;
use crate::model::page_text::PageText;

/// The person that a page is for.
#[derive(Debug, Clone, Copy)]
pub(in crate::proxy) struct Reader<'p> {
    /// The operator's settings of pages.
    pub(super) pages: &'p PagesConfig,
    pub(super) language: PageLanguage,
    /// Whether people log in at an identity provider, so that they can log out here.
    pub(super) can_log_out: bool,
}

impl<'p> Reader<'p> {
    /// Returns the reader of a page. `wanted`: the language that the request asks for.
    pub(in crate::proxy) fn new(pages: &'p PagesConfig, wanted: Option<PageLanguage>, can_log_out: bool) -> Self {
        Self { pages, language: wanted.unwrap_or(pages.language), can_log_out }
    }

    /// Returns a text for this reader. It is no markup.
    pub(super) fn text(self, text: PageText) -> &'p str {
        self.pages.text(self.language, text)
    }

    /// Returns a text with a value at its placeholder. It is no markup.
    pub(super) fn text_with(self, text: PageText, value: &str) -> String {
        let words = self.text(text);
        text.placeholder().map_or_else(|| words.to_owned(), |place| words.replace(place, value))
    }
}

/// Finds the language that a request asks for: by `lang` in its address, then by `Accept-Language`.
pub(in crate::proxy) fn wanted_language(query: Option<&str>, headers: &HeaderMap) -> Option<PageLanguage> {
    let named = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("lang="));
    let accepted = || PageLanguage::accepted(headers.get(header::ACCEPT_LANGUAGE)?.to_str().ok()?);
    named.and_then(PageLanguage::of_tag).or_else(accepted)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_address_comes_before_the_browser() {
        let german = HeaderMap::from_iter([(header::ACCEPT_LANGUAGE, HeaderValue::from_static("de-CH,de;q=0.9"))]);
        let of = |query| wanted_language(query, &german).map(PageLanguage::tag);
        assert_eq!(of(None), Some("de"));
        assert_eq!(of(Some("account=40&lang=sp")), Some("es"));
        assert_eq!(of(Some("slang=fr&lang=xx")), Some("de"));
        assert_eq!(wanted_language(Some("lang="), &HeaderMap::new()), None);
    }

    #[test]
    fn the_operators_words_come_before_ours() {
        let mut pages = PagesConfig { language: PageLanguage::Dutch, ..PagesConfig::default() };
        pages.texts.insert((PageLanguage::French, PageText::Wait), "Patience : {wait}".to_owned());
        let french = Reader::new(&pages, Some(PageLanguage::French), false);
        assert_eq!(french.text_with(PageText::Wait, "45 s"), "Patience : 45 s");
        assert_eq!(french.text(PageText::LogIn), "Se connecter");
        assert_eq!(Reader::new(&pages, None, false).text(PageText::LogIn), "Inloggen");
    }
}
