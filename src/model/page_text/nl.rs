//! The texts in Dutch.

use super::PageText;

pub(super) const fn text(text: PageText) -> &'static str {
    match text {
        PageText::Continue => "Doorgaan",
        PageText::Home => "Naar de startpagina",
        PageText::LogIn => "Inloggen",
        PageText::LogInAgain => "Opnieuw inloggen",
        PageText::LogInWithPassword => "Inloggen met een wachtwoord",
        PageText::OtherAccount => "Ander account gebruiken",
        PageText::LogOut => "Uitloggen",
        PageText::TryAgain => "Opnieuw proberen",
        PageText::Wait => "Probeer het over {wait} opnieuw.",
        PageText::Soon => "Probeer het zo meteen opnieuw.",
        PageText::Support => "Blijft dit gebeuren, geef dan dit nummer door aan uw beheerder:",
        PageText::Help => "Hulp:",
        PageText::OneMoment => "Een ogenblik …",
        PageText::OpenTelephone => "De telefoon openen",
        PageText::LinkWorksOnce => "Met deze link logt u in. De link werkt één keer.",
        PageText::WhichAccount => "Welk account?",
        PageText::LogInWith => "Inloggen met",
        PageText::LogOutQuestion => "Wilt u uitloggen?",
        PageText::LogOutOfTelephoneQuestion => "Wilt u uitloggen uit het telefoonsysteem?",
        PageText::LoggedOut => "U bent uitgelogd",
        PageText::CloseWindow => "U kunt dit venster sluiten.",
        PageText::PasswordQuestion => "Hebt u bij {host} met een wachtwoord ingelogd?",
        PageText::LogOutThere => "Daar ook uitloggen",
        PageText::LogOutOfLoginService => "Ook bij de inlogdienst uitloggen",
        PageText::LogoutUnconfirmed => "Mogelijk bent u nog ingelogd bij het telefoonsysteem",
        PageText::LogoutUnconfirmedAdvice => "Het heeft het uitloggen niet bevestigd. Log daar zo meteen opnieuw uit.",
        PageText::LogInFirst => "Log eerst in",
        PageText::LogInFirstAdvice => "Log in op deze site en volg de link opnieuw.",
        PageText::NoAccess => "U hebt geen toegang",
        PageText::NoAccessAdvice => {
            "Bij uw login hoort hier geen telefoon. Klopt dat niet, neem dan contact op met uw beheerder."
        }
        PageText::LoginUsed => "Deze login is al gebruikt of duurde te lang",
        PageText::LoginUsedAdvice => "Begin opnieuw met inloggen.",
        PageText::Blocked => "Deze pagina kan hier niet worden geopend",
        PageText::BlockedAdvice => "De pagina is alleen te openen vanuit bepaalde netwerken, zoals dat van uw kantoor.",
        PageText::OtherSite => "Een andere site heeft u hierheen gestuurd",
        PageText::OtherSiteAdvice => "Open deze pagina voor uw veiligheid vanuit haar eigen site.",
        PageText::TooMany => "Te veel verzoeken",
        PageText::OpenInBrowser => "Open deze link in een browser",
        PageText::OpenInBrowserAdvice => {
            "De link is vooraf geopend, misschien door een programma dat links controleert. Hij werkt nog."
        }
        PageText::NoAnswer => "De server antwoordt niet",
        PageText::TelephoneDown => "Het telefoonsysteem antwoordt niet",
        PageText::LoginServiceDown => "De inlogdienst antwoordt niet",
        PageText::LoginDenied => "De inlogdienst heeft de login geweigerd",
        PageText::LoginDeniedAdvice => "Log in met een andere gebruiker of neem contact op met uw beheerder.",
        PageText::LoginUnknown => "Deze login is niet bekend",
        PageText::LoginUnknownAdvice => {
            "De login is te oud of al gebruikt, of uw browser bewaart geen cookies van deze site. Begin opnieuw."
        }
        PageText::LoginNotKept => "Uw login bij het telefoonsysteem ging verloren",
        PageText::LoginNotKeptAdvice => {
            "Misschien bewaart uw browser geen cookies van deze site. Sta ze toe en log opnieuw in."
        }
        PageText::NotRecorded => "De login kan nu niet worden vastgelegd",
        PageText::NotFound => "Op dit adres is niets te vinden",
        PageText::NotFoundAdvice => "Controleer het adres of ga terug.",
        PageText::Unreadable => "Het verzoek is niet leesbaar",
        PageText::UnreadableAdvice => "Ga terug en probeer het opnieuw.",
        PageText::TooSlow => "Het verzoek kwam niet op tijd aan",
    }
}
