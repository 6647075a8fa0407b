//! `[pages]`: the operator's name, logo, help and words.

use super::*;
use crate::config::PagesConfig;
use crate::model::page_language::PageLanguage;
use crate::model::page_text::PageText;

fn read(lines: &str) -> PagesConfig {
    accepted(&format!("{TOP}{BOTH}[pages]\n{lines}")).pages
}

#[test]
fn the_operator_has_a_name_a_logo_and_words() {
    assert_eq!(read(""), PagesConfig::default());
    let pages = read(
        "language = \"de\"\nname = \"Acme\"\nlogo = \"pages/logo.svg\"\nhome = \"https://www.example.com/\"\n\
         contact = \"mailto:help@example.com?subject=a\"\n\
         texts = { de = { no_access = \"Leider nein\" }, ja = { wait = \"{wait}\" } }",
    );
    assert_eq!((pages.language, pages.name.as_deref()), (PageLanguage::German, Some("Acme")));
    assert_eq!(pages.home, "https://www.example.com/");
    assert_eq!(pages.contact.as_ref().unwrap().label(), "help@example.com");
    assert!(pages.logo.as_ref().unwrap().url.starts_with("data:image/svg+xml;base64,"), "{pages:?}");
    assert_eq!(pages.text(PageLanguage::German, PageText::NoAccess), "Leider nein");
    assert_eq!(pages.text(PageLanguage::German, PageText::LogIn), "Anmelden");
    assert_eq!(pages.text(PageLanguage::English, PageText::NoAccess), "You have no access");
}

#[test]
fn help_is_found_at_an_address_that_people_can_read() {
    for (contact, label) in [
        ("https://help.example.com/", "help.example.com"),
        ("https://example.com/help?a=b", "example.com/help"),
        ("tel:+492115550100", "+492115550100"),
    ] {
        let pages = read(&format!("contact = \"{contact}\""));
        assert_eq!(pages.contact.unwrap().label(), label);
    }
}
