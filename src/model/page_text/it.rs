//! The texts in Italian.

use super::PageText;

pub(super) const fn text(text: PageText) -> &'static str {
    match text {
        PageText::Continue => "Continua",
        PageText::Home => "Vai alla pagina iniziale",
        PageText::LogIn => "Accedi",
        PageText::LogInAgain => "Accedi di nuovo",
        PageText::LogInWithPassword => "Accedi con una password",
        PageText::OtherAccount => "Usa un altro account",
        PageText::LogOut => "Esci",
        PageText::TryAgain => "Riprova",
        PageText::Wait => "Riprovi tra {wait}.",
        PageText::Soon => "Riprovi tra un momento.",
        PageText::Support => "Se il problema continua, comunichi questo numero all’amministratore:",
        PageText::Help => "Assistenza:",
        PageText::OneMoment => "Un momento …",
        PageText::OpenTelephone => "Apri il telefono",
        PageText::LinkWorksOnce => "Questo link effettua l’accesso. Funziona una sola volta.",
        PageText::WhichAccount => "Quale account?",
        PageText::LogInWith => "Accedi con",
        PageText::LogOutQuestion => "Uscire?",
        PageText::LogOutOfTelephoneQuestion => "Uscire dal sistema telefonico?",
        PageText::LoggedOut => "È uscito",
        PageText::CloseWindow => "Può chiudere questa finestra.",
        PageText::PasswordQuestion => "Ha effettuato l’accesso a {host} con una password?",
        PageText::LogOutThere => "Esci anche da lì",
        PageText::LogOutOfLoginService => "Esci anche dal servizio di accesso",
        PageText::LogoutUnconfirmed => "Forse ha ancora accesso al sistema telefonico",
        PageText::LogoutUnconfirmedAdvice => "Non ha confermato l’uscita. Esca di nuovo tra un momento.",
        PageText::LogInFirst => "Effettui prima l’accesso",
        PageText::LogInFirstAdvice => "Acceda a questo sito, poi segua di nuovo il link.",
        PageText::NoAccess => "Non ha accesso",
        PageText::NoAccessAdvice => {
            "Al suo accesso non corrisponde alcun telefono. Se è un errore, avvisi l’amministratore."
        }
        PageText::LoginUsed => "Questo accesso è già stato usato o ha richiesto troppo tempo",
        PageText::LoginUsedAdvice => "Ricominci l’accesso.",
        PageText::Blocked => "Questa pagina non si può aprire da qui",
        PageText::BlockedAdvice => "Si può aprire solo da certe reti, come quella dell’ufficio.",
        PageText::OtherSite => "Un altro sito l’ha inviata qui",
        PageText::OtherSiteAdvice => "Per la sua sicurezza, apra questa pagina dal suo sito.",
        PageText::TooMany => "Troppe richieste",
        PageText::OpenInBrowser => "Apra questo link in un browser",
        PageText::OpenInBrowserAdvice => {
            "È stato aperto in anticipo, forse da un programma che controlla i link. Funziona ancora."
        }
        PageText::NoAnswer => "Il server non risponde",
        PageText::TelephoneDown => "Il sistema telefonico non risponde",
        PageText::LoginServiceDown => "Il servizio di accesso non risponde",
        PageText::LoginDenied => "Il servizio di accesso ha rifiutato l’accesso",
        PageText::LoginDeniedAdvice => "Acceda con un altro utente o avvisi l’amministratore.",
        PageText::LoginUnknown => "Questo accesso non è noto",
        PageText::LoginUnknownAdvice => {
            "È troppo vecchio, è già stato usato o il browser non conserva i cookie di questo sito. Ricominci."
        }
        PageText::LoginNotKept => "L’accesso al sistema telefonico non è stato conservato",
        PageText::LoginNotKeptAdvice => {
            "Forse il browser non conserva i cookie di questo sito. Li consenta, poi acceda di nuovo."
        }
        PageText::NotRecorded => "Ora l’accesso non può essere registrato",
        PageText::NotFound => "A questo indirizzo non c’è nulla",
        PageText::NotFoundAdvice => "Controlli l’indirizzo o torni indietro.",
        PageText::Unreadable => "La richiesta non è leggibile",
        PageText::UnreadableAdvice => "Torni indietro e riprovi.",
        PageText::TooSlow => "La richiesta non è arrivata in tempo",
    }
}
