//! The texts in French.

use super::PageText;

pub(super) const fn text(text: PageText) -> &'static str {
    match text {
        PageText::Continue => "Continuer",
        PageText::Home => "Aller à la page d’accueil",
        PageText::LogIn => "Se connecter",
        PageText::LogInAgain => "Se reconnecter",
        PageText::LogInWithPassword => "Se connecter avec un mot de passe",
        PageText::OtherAccount => "Utiliser un autre compte",
        PageText::LogOut => "Se déconnecter",
        PageText::TryAgain => "Réessayer",
        PageText::Wait => "Réessayez dans {wait}.",
        PageText::Soon => "Réessayez dans un instant.",
        PageText::Support => "Si le problème persiste, communiquez ce numéro à votre administrateur :",
        PageText::Help => "Aide :",
        PageText::OneMoment => "Un instant …",
        PageText::OpenTelephone => "Ouvrir le téléphone",
        PageText::LinkWorksOnce => "Ce lien vous connecte. Il fonctionne une seule fois.",
        PageText::WhichAccount => "Quel compte ?",
        PageText::LogInWith => "Se connecter avec",
        PageText::LogOutQuestion => "Voulez-vous vous déconnecter ?",
        PageText::LogOutOfTelephoneQuestion => "Voulez-vous vous déconnecter du système téléphonique ?",
        PageText::LoggedOut => "Vous êtes déconnecté",
        PageText::CloseWindow => "Vous pouvez fermer cette fenêtre.",
        PageText::PasswordQuestion => "Vous êtes-vous connecté à {host} avec un mot de passe ?",
        PageText::LogOutThere => "Se déconnecter là aussi",
        PageText::LogOutOfLoginService => "Se déconnecter aussi du service de connexion",
        PageText::LogoutUnconfirmed => "Vous êtes peut-être encore connecté au système téléphonique",
        PageText::LogoutUnconfirmedAdvice => {
            "Il n’a pas confirmé la déconnexion. Déconnectez-vous de nouveau dans un instant."
        }
        PageText::LogInFirst => "Connectez-vous d’abord",
        PageText::LogInFirstAdvice => "Connectez-vous à ce site, puis suivez de nouveau le lien.",
        PageText::NoAccess => "Vous n’avez pas accès",
        PageText::NoAccessAdvice => {
            "Aucun téléphone n’est associé à votre connexion. Si c’est une erreur, contactez votre administrateur."
        }
        PageText::LoginUsed => "Cette connexion a déjà servi ou a duré trop longtemps",
        PageText::LoginUsedAdvice => "Recommencez la connexion.",
        PageText::Blocked => "Cette page ne peut pas être ouverte d’ici",
        PageText::BlockedAdvice => "Elle s’ouvre seulement depuis certains réseaux, comme celui de votre bureau.",
        PageText::OtherSite => "Un autre site vous a envoyé ici",
        PageText::OtherSiteAdvice => "Pour votre sécurité, ouvrez cette page depuis son propre site.",
        PageText::TooMany => "Trop de demandes",
        PageText::OpenInBrowser => "Ouvrez ce lien dans un navigateur",
        PageText::OpenInBrowserAdvice => {
            "Il a été ouvert à l’avance, peut-être par un programme qui vérifie les liens. Il fonctionne encore."
        }
        PageText::NoAnswer => "Le serveur ne répond pas",
        PageText::TelephoneDown => "Le système téléphonique ne répond pas",
        PageText::LoginServiceDown => "Le service de connexion ne répond pas",
        PageText::LoginDenied => "Le service de connexion a refusé la connexion",
        PageText::LoginDeniedAdvice => "Connectez-vous avec un autre utilisateur ou contactez votre administrateur.",
        PageText::LoginUnknown => "Cette connexion est inconnue",
        PageText::LoginUnknownAdvice => {
            "Elle est trop ancienne, a déjà servi, ou votre navigateur ne garde pas les cookies de ce site. Recommencez."
        }
        PageText::LoginNotKept => "Votre connexion au système téléphonique n’a pas été conservée",
        PageText::LoginNotKeptAdvice => {
            "Votre navigateur ne garde peut-être pas les cookies de ce site. Autorisez-les, puis reconnectez-vous."
        }
        PageText::NotRecorded => "La connexion ne peut pas être enregistrée pour le moment",
        PageText::NotFound => "Il n’y a rien à cette adresse",
        PageText::NotFoundAdvice => "Vérifiez l’adresse ou revenez en arrière.",
        PageText::Unreadable => "La demande est illisible",
        PageText::UnreadableAdvice => "Revenez en arrière et réessayez.",
        PageText::TooSlow => "La demande n’est pas arrivée à temps",
    }
}
