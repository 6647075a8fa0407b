//! `[pages]`: the pages that people meet.

use std::collections::HashMap;
use std::fmt;

use crate::model::page_language::PageLanguage;
use crate::model::page_text::PageText;

/// `[pages]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PagesConfig {
    /// The language for readers whose browser asks for none of ours.
    pub language: PageLanguage,
    /// The name of the service, which stands above each page.
    pub name: Option<String>,
    /// The picture above each page.
    pub logo: Option<Logo>,
    /// Where the link to the start page leads: an absolute URL, or a path of the same host.
    pub home: String,
    /// Where people find help.
    pub contact: Option<Contact>,
    /// The operator's own texts.
    pub texts: HashMap<(PageLanguage, PageText), String>,
}

impl Default for PagesConfig {
    fn default() -> Self {
        Self {
            language: PageLanguage::English,
            name: None,
            logo: None,
            home: "/".to_owned(),
            contact: None,
            texts: HashMap::new(),
        }
    }
}

impl PagesConfig {
    /// Returns a text in a language, in the operator's words if there are any.
    #[must_use]
    pub fn text(&self, language: PageLanguage, text: PageText) -> &str {
        self.texts.get(&(language, text)).map_or_else(|| text.in_language(language), String::as_str)
    }
}

/// A picture that stands in the page itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Logo {
    /// The URL of scheme `data` (RFC 2397) with the whole picture.
    pub url: String,
}

impl fmt::Debug for Logo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logo").field("bytes", &self.url.len()).finish()
    }
}

/// Where people find help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// A URL of scheme `https`, `mailto` or `tel`.
    pub url: String,
}

impl Contact {
    /// Returns the part of the URL that a person can read: an address, a number, or a host with its path.
    #[must_use]
    pub fn label(&self) -> &str {
        let rest = self.url.split_once(':').map_or(&*self.url, |(_, rest)| rest);
        rest.trim_start_matches('/').split('?').next().unwrap_or_default().trim_end_matches('/')
    }
}
