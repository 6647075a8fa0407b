//! The texts in English.

use super::PageText;

pub(super) const fn text(text: PageText) -> &'static str {
    match text {
        PageText::Continue => "Continue",
        PageText::Home => "Go to the start page",
        PageText::LogIn => "Log in",
        PageText::LogInAgain => "Log in again",
        PageText::LogInWithPassword => "Log in with a password",
        PageText::OtherAccount => "Use another account",
        PageText::LogOut => "Log out",
        PageText::TryAgain => "Try again",
        PageText::Wait => "Try again in {wait}.",
        PageText::Soon => "Try again in a moment.",
        PageText::Support => "If this keeps happening, send this number to your administrator:",
        PageText::Help => "Help:",
        PageText::OneMoment => "One moment …",
        PageText::OpenTelephone => "Open the telephone",
        PageText::LinkWorksOnce => "This link logs you in. It works once.",
        PageText::WhichAccount => "Which account?",
        PageText::LogInWith => "Log in with",
        PageText::LogOutQuestion => "Log out?",
        PageText::LogOutOfTelephoneQuestion => "Log out of the telephone system?",
        PageText::LoggedOut => "You are logged out",
        PageText::CloseWindow => "You can close this window.",
        PageText::PasswordQuestion => "Did you log in at {host} with a password?",
        PageText::LogOutThere => "Log out there, too",
        PageText::LogOutOfLoginService => "Log out of the login service, too",
        PageText::LogoutUnconfirmed => "You may still be logged in at the telephone system",
        PageText::LogoutUnconfirmedAdvice => "It did not confirm the logout. Log out there again in a moment.",
        PageText::LogInFirst => "Log in first",
        PageText::LogInFirstAdvice => "Log in on this site, then follow the link again.",
        PageText::NoAccess => "You have no access",
        PageText::NoAccessAdvice => "Your login has no telephone here. If it should have one, tell your administrator.",
        PageText::LoginUsed => "This login was used, or took too long",
        PageText::LoginUsedAdvice => "Begin the login again.",
        PageText::Blocked => "This page cannot be opened from here",
        PageText::BlockedAdvice => "It can be opened only from certain networks, such as that of your office.",
        PageText::OtherSite => "Another site sent you here",
        PageText::OtherSiteAdvice => "For your safety, open this page from its own site.",
        PageText::TooMany => "Too many requests",
        PageText::OpenInBrowser => "Open this link in a browser",
        PageText::OpenInBrowserAdvice => {
            "It was opened in advance, perhaps by a program that checks links. It still works."
        }
        PageText::NoAnswer => "The server does not answer",
        PageText::TelephoneDown => "The telephone system does not answer",
        PageText::LoginServiceDown => "The login service does not answer",
        PageText::LoginDenied => "The login service refused the login",
        PageText::LoginDeniedAdvice => "Log in with another user, or tell your administrator.",
        PageText::LoginUnknown => "This login is not known",
        PageText::LoginUnknownAdvice => {
            "It is too old, or used already, or your browser keeps no cookies of this site. Begin it again."
        }
        PageText::LoginNotKept => "Your login to the telephone system did not last",
        PageText::LoginNotKeptAdvice => {
            "Perhaps your browser keeps no cookies of this site. Permit them, then log in again."
        }
        PageText::NotRecorded => "The login cannot be recorded now",
        PageText::NotFound => "There is nothing at this address",
        PageText::NotFoundAdvice => "Check the address, or go back.",
        PageText::Unreadable => "The request cannot be read",
        PageText::UnreadableAdvice => "Go back, and try it again.",
        PageText::TooSlow => "The request did not arrive in time",
    }
}
