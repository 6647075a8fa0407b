//! The page of an error: what happened, in words for a person, and the ways on. The operator's words are in the log.

use super::audience::Audience;
use super::page::Page;
use super::reader::Reader;
use super::{Error, login};
use crate::auth::OidcError;
use crate::model::page_text::PageText;
use crate::model::path::LOGOUT_PATH;

/// Makes the page of an error. `wait`: how long the person should wait before the next try, in seconds.
pub(super) fn of<'p>(error: &Error, wait: Option<u64>, audience: &Audience, reader: Reader<'p>) -> Page<'p> {
    let (status, _) = error.status();
    let Words { title, advice } = words(error);
    let page = Page::new(reader, title).with_status(status);
    let page = match (advice, wait) {
        (Advice::Text(text), _) => page.with_text(text),
        (Advice::Later, Some(wait)) if wait > 1 => page.with_text_of(PageText::Wait, &spelled(wait)),
        (Advice::Later, _) => page.with_text(PageText::Soon),
    };
    let page = match advice {
        // An empty address is that of the page itself.
        Advice::Later if audience.is_repeatable => page.with_link("", PageText::TryAgain),
        _ => page,
    };
    let page = ways_on(error).into_iter().fold(page, |page, (address, text)| page.with_link(address, text));
    let cause = match error {
        Error::LoginAgain(cause, _) => cause,
        error => error,
    };
    let page = match cause {
        Error::Forbidden | Error::UnknownUser if reader.can_log_out => page.with_link(LOGOUT_PATH, PageText::LogOut),
        Error::Misdirected => return page.with_number(audience.request_id.as_str(), status),
        _ => page,
    };
    page.with_link(&reader.pages.home, PageText::Home).with_number(audience.request_id.as_str(), status)
}

/// Spells a time with a unit that each language knows.
fn spelled(seconds: u64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h", seconds.div_ceil(3600)),
    }
}

/// Returns the addresses at which a person goes on, each with what its link says.
fn ways_on(error: &Error) -> Vec<(&str, PageText)> {
    match error {
        Error::LoginAgain(error, address) => match **error {
            Error::Forbidden => vec![(address, PageText::OtherAccount)],
            _ => vec![(address, PageText::LogInAgain)],
        },
        Error::LoginNotKept(ways) => {
            vec![(&ways.again, PageText::LogIn), (&ways.password, PageText::LogInWithPassword)]
        }
        error => login(error).map(|address| (address, PageText::LogIn)).into_iter().collect(),
    }
}

/// The words for a person.
struct Words {
    title: PageText,
    advice: Advice,
}

#[derive(Clone, Copy)]
enum Advice {
    Text(PageText),
    /// To try again: soon, or after `Retry-After`.
    Later,
}

fn words(error: &Error) -> Words {
    use PageText as Text;
    let advised = |title, advice| Words { title, advice: Advice::Text(advice) };
    let later = |title| Words { title, advice: Advice::Later };
    match error {
        Error::ForListedOrigin(error, _) | Error::LoginAgain(error, _) => words(error),
        Error::Unauthenticated { .. } => advised(Text::LogInFirst, Text::LogInFirstAdvice),
        Error::Forbidden | Error::UnknownUser | Error::Choose(_) => advised(Text::NoAccess, Text::NoAccessAdvice),
        Error::StaleTicket => advised(Text::LoginUsed, Text::LoginUsedAdvice),
        Error::Blocked => advised(Text::Blocked, Text::BlockedAdvice),
        Error::CrossSite => advised(Text::OtherSite, Text::OtherSiteAdvice),
        Error::Limited(_) => later(Text::TooMany),
        Error::Prefetch => advised(Text::OpenInBrowser, Text::OpenInBrowserAdvice),
        Error::Upstream(_) | Error::App(_) => later(Text::NoAnswer),
        Error::Pbx(_) | Error::NewUser(_) => later(Text::TelephoneDown),
        Error::Keys(_) => later(Text::LoginServiceDown),
        Error::Oidc(error, _) => match error {
            OidcError::Unavailable(_) | OidcError::BadResponse(_) => later(Text::LoginServiceDown),
            OidcError::Denied(_) => advised(Text::LoginDenied, Text::LoginDeniedAdvice),
            OidcError::UnknownLogin(_) => advised(Text::LoginUnknown, Text::LoginUnknownAdvice),
        },
        Error::LoginNotKept(_) => advised(Text::LoginNotKept, Text::LoginNotKeptAdvice),
        Error::LogoutUnconfirmed(_) => advised(Text::LogoutUnconfirmed, Text::LogoutUnconfirmedAdvice),
        Error::NotStored(_) | Error::NotAudited(_) => later(Text::NotRecorded),
        Error::NotFound | Error::Misdirected => advised(Text::NotFound, Text::NotFoundAdvice),
        Error::RequestTimeout => later(Text::TooSlow),
        Error::Malformed(_)
        | Error::Violation(_)
        | Error::MethodNotAllowed(_)
        | Error::UpgradeRequired(_)
        | Error::UnsupportedProtocol
        | Error::ContentTooLarge
        | Error::UnsupportedMediaType
        | Error::CertificatePolicyChanged
        | Error::LogoutToken(_) => advised(Text::Unreadable, Text::UnreadableAdvice),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt;

    use super::super::render;
    use super::*;
    use crate::config::PagesConfig;
    use crate::model::page_language::PageLanguage;
    use crate::pbx;

    #[tokio::test]
    async fn a_page_says_what_a_person_can_do() {
        let pages = PagesConfig::default();
        let of = async |error: &Error, language, can_log_out| {
            let audience = Audience::person();
            let response = render(error, &audience, Reader::new(&pages, Some(language), can_log_out));
            let page = response.into_body().collect().await.unwrap().to_bytes();
            String::from_utf8(page.to_vec()).unwrap()
        };
        let english = PageLanguage::English;
        let wait = |seconds| Error::Pbx(pbx::Error::Open { retry_after: Duration::from_secs(seconds) });
        for (error, expected) in [
            (Error::Unauthenticated { login: None }, "<p>Log in on this site, then follow the link again.</p>"),
            (Error::Forbidden, "<p><a href=\"/auth/callgate/logout\">Log out</a></p>"),
            (Error::RequestTimeout, "<p>Try again in a moment.</p>"),
            (Error::Prefetch, "It still works."),
            (wait(45), "<p>Try again in 45 s.</p>"),
            (wait(150), "<p>Try again in 3 min.</p>"),
            (wait(7201), "<p>Try again in 3 h.</p>"),
            (Error::LoginAgain(Box::new(Error::StaleTicket), "/a".to_owned()), "<a href=\"/a\">Log in again</a>"),
            (Error::LoginAgain(Box::new(Error::Forbidden), "/a".to_owned()), "<a href=\"/a\">Use another account</a>"),
            (Error::LoginAgain(Box::new(Error::Forbidden), "/a".to_owned()), "/auth/callgate/logout\">Log out</a>"),
            (wait(45), "<p><a href=\"\">Try again</a></p>"),
            (Error::NotFound, "<p><a href=\"/\">Go to the start page</a></p>"),
        ] {
            let page = of(&error, english, true).await;
            assert!(page.contains(expected), "{error}: {page}");
        }
        assert!(!of(&Error::Forbidden, english, false).await.contains("logout"), "no login to leave");
        assert!(!of(&Error::Misdirected, english, true).await.contains("start page"), "this host has none");
        let german = of(&wait(45), PageLanguage::German, true).await;
        assert!(german.contains("<html lang=\"de\">") && german.contains("in 45 s erneut."), "{german}");
    }
}
