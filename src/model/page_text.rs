//! The words that people meet on callgate's own pages, in each language.

mod de;
mod en;
mod es;
mod fr;
mod it;
mod ja;
mod nl;
mod pt;

use super::page_language::PageLanguage;

/// A text of a page: plain, without markup. A name in braces stands for a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the words in `en.rs` say what each is")]
pub enum PageText {
    // What a link or a button says.
    Continue,
    Home,
    LogIn,
    LogInAgain,
    LogInWithPassword,
    OtherAccount,
    LogOut,
    TryAgain,

    // What every page of an error may say.
    /// `{wait}`: such as "45 s".
    Wait,
    Soon,
    Support,
    Help,

    // On the way.
    OneMoment,
    OpenTelephone,
    LinkWorksOnce,
    WhichAccount,
    LogInWith,

    // Logouts.
    LogOutQuestion,
    LogOutOfTelephoneQuestion,
    LoggedOut,
    CloseWindow,
    /// `{host}`: a host of the telephone system.
    PasswordQuestion,
    LogOutThere,
    LogOutOfLoginService,
    LogoutUnconfirmed,
    LogoutUnconfirmedAdvice,

    // Errors: what happened, and what a person can do.
    LogInFirst,
    LogInFirstAdvice,
    NoAccess,
    NoAccessAdvice,
    LoginUsed,
    LoginUsedAdvice,
    Blocked,
    BlockedAdvice,
    OtherSite,
    OtherSiteAdvice,
    TooMany,
    OpenInBrowser,
    OpenInBrowserAdvice,
    NoAnswer,
    TelephoneDown,
    LoginServiceDown,
    LoginDenied,
    LoginDeniedAdvice,
    LoginUnknown,
    LoginUnknownAdvice,
    LoginNotKept,
    LoginNotKeptAdvice,
    NotRecorded,
    NotFound,
    NotFoundAdvice,
    Unreadable,
    UnreadableAdvice,
    TooSlow,
}

impl PageText {
    /// All of them, each with the key under which an operator replaces it.
    pub const ALL: [(&'static str, Self); 54] = [
        ("continue", Self::Continue),
        ("home", Self::Home),
        ("log_in", Self::LogIn),
        ("log_in_again", Self::LogInAgain),
        ("log_in_with_password", Self::LogInWithPassword),
        ("other_account", Self::OtherAccount),
        ("log_out", Self::LogOut),
        ("try_again", Self::TryAgain),
        ("wait", Self::Wait),
        ("soon", Self::Soon),
        ("support", Self::Support),
        ("help", Self::Help),
        ("one_moment", Self::OneMoment),
        ("open_telephone", Self::OpenTelephone),
        ("link_works_once", Self::LinkWorksOnce),
        ("which_account", Self::WhichAccount),
        ("log_in_with", Self::LogInWith),
        ("log_out_question", Self::LogOutQuestion),
        ("log_out_of_telephone_question", Self::LogOutOfTelephoneQuestion),
        ("logged_out", Self::LoggedOut),
        ("close_window", Self::CloseWindow),
        ("password_question", Self::PasswordQuestion),
        ("log_out_there", Self::LogOutThere),
        ("log_out_of_login_service", Self::LogOutOfLoginService),
        ("logout_unconfirmed", Self::LogoutUnconfirmed),
        ("logout_unconfirmed_advice", Self::LogoutUnconfirmedAdvice),
        ("log_in_first", Self::LogInFirst),
        ("log_in_first_advice", Self::LogInFirstAdvice),
        ("no_access", Self::NoAccess),
        ("no_access_advice", Self::NoAccessAdvice),
        ("login_used", Self::LoginUsed),
        ("login_used_advice", Self::LoginUsedAdvice),
        ("blocked", Self::Blocked),
        ("blocked_advice", Self::BlockedAdvice),
        ("other_site", Self::OtherSite),
        ("other_site_advice", Self::OtherSiteAdvice),
        ("too_many", Self::TooMany),
        ("open_in_browser", Self::OpenInBrowser),
        ("open_in_browser_advice", Self::OpenInBrowserAdvice),
        ("no_answer", Self::NoAnswer),
        ("telephone_down", Self::TelephoneDown),
        ("login_service_down", Self::LoginServiceDown),
        ("login_denied", Self::LoginDenied),
        ("login_denied_advice", Self::LoginDeniedAdvice),
        ("login_unknown", Self::LoginUnknown),
        ("login_unknown_advice", Self::LoginUnknownAdvice),
        ("login_not_kept", Self::LoginNotKept),
        ("login_not_kept_advice", Self::LoginNotKeptAdvice),
        ("not_recorded", Self::NotRecorded),
        ("not_found", Self::NotFound),
        ("not_found_advice", Self::NotFoundAdvice),
        ("unreadable", Self::Unreadable),
        ("unreadable_advice", Self::UnreadableAdvice),
        ("too_slow", Self::TooSlow),
    ];

    /// Returns it in a language.
    #[must_use]
    pub const fn in_language(self, language: PageLanguage) -> &'static str {
        match language {
            PageLanguage::English => en::text(self),
            PageLanguage::German => de::text(self),
            PageLanguage::French => fr::text(self),
            PageLanguage::Spanish => es::text(self),
            PageLanguage::Italian => it::text(self),
            PageLanguage::Portuguese => pt::text(self),
            PageLanguage::Dutch => nl::text(self),
            PageLanguage::Japanese => ja::text(self),
        }
    }

    /// Returns the value that it must have a place for, in braces.
    #[must_use]
    pub const fn placeholder(self) -> Option<&'static str> {
        match self {
            Self::Wait => Some("{wait}"),
            Self::PasswordQuestion => Some("{host}"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_text_has_one_key_and_its_placeholder_in_every_language() {
        let keys: HashSet<_> = PageText::ALL.iter().map(|(key, _)| key).collect();
        let texts: HashSet<_> = PageText::ALL.iter().map(|(_, text)| text).collect();
        assert_eq!((keys.len(), texts.len()), (PageText::ALL.len(), PageText::ALL.len()));
        for language in PageLanguage::ALL {
            for (key, text) in PageText::ALL {
                let words = text.in_language(language);
                let braces = words.split(['{', '}']).nth(1).map(|name| format!("{{{name}}}"));
                assert_eq!(braces.as_deref(), text.placeholder(), "{language} {key}: {words}");
                assert!(!words.is_empty() && words.trim() == words && !words.contains(['<', '&']), "{language} {key}");
            }
        }
    }

    #[test]
    fn no_language_has_the_words_of_another() {
        let of = |language| PageText::ALL.map(|(_, text)| text.in_language(language));
        for (index, language) in PageLanguage::ALL.into_iter().enumerate() {
            for other in PageLanguage::ALL.into_iter().skip(index + 1) {
                let same = of(language).iter().zip(of(other)).filter(|(one, two)| **one == *two).count();
                assert!(same <= 2, "{language} and {other} share {same} texts");
            }
        }
    }
}
