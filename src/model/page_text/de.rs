//! The texts in German.

use super::PageText;

pub(super) const fn text(text: PageText) -> &'static str {
    match text {
        PageText::Continue => "Weiter",
        PageText::Home => "Zur Startseite",
        PageText::LogIn => "Anmelden",
        PageText::LogInAgain => "Neu anmelden",
        PageText::LogInWithPassword => "Mit Passwort anmelden",
        PageText::OtherAccount => "Anderes Konto verwenden",
        PageText::LogOut => "Abmelden",
        PageText::TryAgain => "Erneut versuchen",
        PageText::Wait => "Versuchen Sie es in {wait} erneut.",
        PageText::Soon => "Versuchen Sie es gleich noch einmal.",
        PageText::Support => "Wenn das öfter geschieht, nennen Sie Ihrem Administrator diese Nummer:",
        PageText::Help => "Hilfe:",
        PageText::OneMoment => "Einen Moment …",
        PageText::OpenTelephone => "Telefon öffnen",
        PageText::LinkWorksOnce => "Dieser Link meldet Sie an. Er funktioniert einmal.",
        PageText::WhichAccount => "Welches Konto?",
        PageText::LogInWith => "Anmelden mit",
        PageText::LogOutQuestion => "Möchten Sie sich abmelden?",
        PageText::LogOutOfTelephoneQuestion => "Möchten Sie sich von der Telefonanlage abmelden?",
        PageText::LoggedOut => "Sie sind abgemeldet",
        PageText::CloseWindow => "Sie können dieses Fenster schließen.",
        PageText::PasswordQuestion => "Haben Sie sich bei {host} mit einem Passwort angemeldet?",
        PageText::LogOutThere => "Auch dort abmelden",
        PageText::LogOutOfLoginService => "Auch vom Anmeldedienst abmelden",
        PageText::LogoutUnconfirmed => "Sie sind vielleicht noch an der Telefonanlage angemeldet",
        PageText::LogoutUnconfirmedAdvice => {
            "Sie hat die Abmeldung nicht bestätigt. Melden Sie sich dort gleich noch einmal ab."
        }
        PageText::LogInFirst => "Melden Sie sich zuerst an",
        PageText::LogInFirstAdvice => "Melden Sie sich auf dieser Website an und folgen Sie dem Link erneut.",
        PageText::NoAccess => "Sie haben keinen Zugang",
        PageText::NoAccessAdvice => {
            "Zu Ihrer Anmeldung gehört hier kein Telefon. Wenn das nicht stimmt, wenden Sie sich an Ihren Administrator."
        }
        PageText::LoginUsed => "Diese Anmeldung wurde schon benutzt oder hat zu lange gedauert",
        PageText::LoginUsedAdvice => "Beginnen Sie die Anmeldung von vorn.",
        PageText::Blocked => "Diese Seite lässt sich von hier aus nicht öffnen",
        PageText::BlockedAdvice => "Sie lässt sich nur aus bestimmten Netzen öffnen, zum Beispiel aus dem Ihres Büros.",
        PageText::OtherSite => "Eine andere Website hat Sie hierher geschickt",
        PageText::OtherSiteAdvice => "Öffnen Sie diese Seite zu Ihrer Sicherheit von ihrer eigenen Website aus.",
        PageText::TooMany => "Zu viele Anfragen",
        PageText::OpenInBrowser => "Öffnen Sie diesen Link in einem Browser",
        PageText::OpenInBrowserAdvice => {
            "Er wurde im Voraus geöffnet, vielleicht von einem Programm, das Links prüft. Er funktioniert weiterhin."
        }
        PageText::NoAnswer => "Der Server antwortet nicht",
        PageText::TelephoneDown => "Die Telefonanlage antwortet nicht",
        PageText::LoginServiceDown => "Der Anmeldedienst antwortet nicht",
        PageText::LoginDenied => "Der Anmeldedienst hat die Anmeldung abgelehnt",
        PageText::LoginDeniedAdvice => {
            "Melden Sie sich mit einem anderen Benutzer an, oder wenden Sie sich an Ihren Administrator."
        }
        PageText::LoginUnknown => "Diese Anmeldung ist nicht bekannt",
        PageText::LoginUnknownAdvice => {
            "Sie ist zu alt oder schon benutzt, oder Ihr Browser speichert keine Cookies dieser Website. Beginnen Sie von vorn."
        }
        PageText::LoginNotKept => "Ihre Anmeldung an der Telefonanlage ging verloren",
        PageText::LoginNotKeptAdvice => {
            "Vielleicht speichert Ihr Browser keine Cookies dieser Website. Erlauben Sie diese, und melden Sie sich neu an."
        }
        PageText::NotRecorded => "Die Anmeldung kann gerade nicht aufgezeichnet werden",
        PageText::NotFound => "Unter dieser Adresse gibt es nichts",
        PageText::NotFoundAdvice => "Prüfen Sie die Adresse, oder gehen Sie zurück.",
        PageText::Unreadable => "Die Anfrage ist nicht lesbar",
        PageText::UnreadableAdvice => "Gehen Sie zurück, und versuchen Sie es erneut.",
        PageText::TooSlow => "Die Anfrage kam nicht rechtzeitig an",
    }
}
