//! The texts in Spanish.

use super::PageText;

pub(super) const fn text(text: PageText) -> &'static str {
    match text {
        PageText::Continue => "Continuar",
        PageText::Home => "Ir a la página de inicio",
        PageText::LogIn => "Iniciar sesión",
        PageText::LogInAgain => "Iniciar sesión de nuevo",
        PageText::LogInWithPassword => "Iniciar sesión con contraseña",
        PageText::OtherAccount => "Usar otra cuenta",
        PageText::LogOut => "Cerrar sesión",
        PageText::TryAgain => "Intentar de nuevo",
        PageText::Wait => "Inténtelo de nuevo en {wait}.",
        PageText::Soon => "Inténtelo de nuevo en un momento.",
        PageText::Support => "Si el problema continúa, indique este número a su administrador:",
        PageText::Help => "Ayuda:",
        PageText::OneMoment => "Un momento …",
        PageText::OpenTelephone => "Abrir el teléfono",
        PageText::LinkWorksOnce => "Este enlace inicia su sesión. Funciona una sola vez.",
        PageText::WhichAccount => "¿Qué cuenta?",
        PageText::LogInWith => "Iniciar sesión con",
        PageText::LogOutQuestion => "¿Cerrar sesión?",
        PageText::LogOutOfTelephoneQuestion => "¿Cerrar la sesión del sistema telefónico?",
        PageText::LoggedOut => "Ha cerrado la sesión",
        PageText::CloseWindow => "Puede cerrar esta ventana.",
        PageText::PasswordQuestion => "¿Inició sesión en {host} con una contraseña?",
        PageText::LogOutThere => "Cerrar sesión también allí",
        PageText::LogOutOfLoginService => "Cerrar sesión también en el servicio de acceso",
        PageText::LogoutUnconfirmed => "Quizás su sesión en el sistema telefónico siga abierta",
        PageText::LogoutUnconfirmedAdvice => "No confirmó el cierre de sesión. Ciérrela de nuevo en un momento.",
        PageText::LogInFirst => "Inicie sesión primero",
        PageText::LogInFirstAdvice => "Inicie sesión en este sitio y siga el enlace de nuevo.",
        PageText::NoAccess => "No tiene acceso",
        PageText::NoAccessAdvice => {
            "Su usuario no tiene un teléfono aquí. Si debería tenerlo, avise a su administrador."
        }
        PageText::LoginUsed => "Este inicio de sesión ya se usó o tardó demasiado",
        PageText::LoginUsedAdvice => "Empiece el inicio de sesión de nuevo.",
        PageText::Blocked => "Esta página no se puede abrir desde aquí",
        PageText::BlockedAdvice => "Solo se puede abrir desde ciertas redes, como la de su oficina.",
        PageText::OtherSite => "Otro sitio lo envió aquí",
        PageText::OtherSiteAdvice => "Por su seguridad, abra esta página desde su propio sitio.",
        PageText::TooMany => "Demasiadas solicitudes",
        PageText::OpenInBrowser => "Abra este enlace en un navegador",
        PageText::OpenInBrowserAdvice => {
            "Se abrió por adelantado, quizás por un programa que revisa enlaces. Todavía funciona."
        }
        PageText::NoAnswer => "El servidor no responde",
        PageText::TelephoneDown => "El sistema telefónico no responde",
        PageText::LoginServiceDown => "El servicio de acceso no responde",
        PageText::LoginDenied => "El servicio de acceso rechazó el inicio de sesión",
        PageText::LoginDeniedAdvice => "Inicie sesión con otro usuario o avise a su administrador.",
        PageText::LoginUnknown => "Este inicio de sesión es desconocido",
        PageText::LoginUnknownAdvice => {
            "Es demasiado antiguo, ya se usó o su navegador no guarda las cookies de este sitio. Empiece de nuevo."
        }
        PageText::LoginNotKept => "Su sesión en el sistema telefónico no se conservó",
        PageText::LoginNotKeptAdvice => {
            "Quizás su navegador no guarda las cookies de este sitio. Permítalas e inicie sesión de nuevo."
        }
        PageText::NotRecorded => "El inicio de sesión no se puede registrar ahora",
        PageText::NotFound => "No hay nada en esta dirección",
        PageText::NotFoundAdvice => "Compruebe la dirección o vuelva atrás.",
        PageText::Unreadable => "La solicitud no se puede leer",
        PageText::UnreadableAdvice => "Vuelva atrás e inténtelo de nuevo.",
        PageText::TooSlow => "La solicitud no llegó a tiempo",
    }
}
