//! The texts in Portuguese.

use super::PageText;

pub(super) const fn text(text: PageText) -> &'static str {
    match text {
        PageText::Continue => "Avançar",
        PageText::Home => "Ir para a página inicial",
        PageText::LogIn => "Entrar",
        PageText::LogInAgain => "Entrar novamente",
        PageText::LogInWithPassword => "Entrar com palavra-passe",
        PageText::OtherAccount => "Usar outra conta",
        PageText::LogOut => "Sair",
        PageText::TryAgain => "Tentar novamente",
        PageText::Wait => "Tente novamente dentro de {wait}.",
        PageText::Soon => "Tente novamente dentro de momentos.",
        PageText::Support => "Se isto continuar a acontecer, indique este número ao seu administrador:",
        PageText::Help => "Ajuda:",
        PageText::OneMoment => "Um momento …",
        PageText::OpenTelephone => "Abrir o telefone",
        PageText::LinkWorksOnce => "Este link inicia a sua sessão. Funciona uma única vez.",
        PageText::WhichAccount => "Que conta?",
        PageText::LogInWith => "Entrar com",
        PageText::LogOutQuestion => "Deseja sair?",
        PageText::LogOutOfTelephoneQuestion => "Deseja sair do sistema telefónico?",
        PageText::LoggedOut => "Saiu da sua sessão",
        PageText::CloseWindow => "Pode fechar esta janela.",
        PageText::PasswordQuestion => "Entrou em {host} com uma palavra-passe?",
        PageText::LogOutThere => "Sair também daí",
        PageText::LogOutOfLoginService => "Sair também do serviço de autenticação",
        PageText::LogoutUnconfirmed => "Talvez ainda tenha uma sessão no sistema telefónico",
        PageText::LogoutUnconfirmedAdvice => "Ele não confirmou a saída. Saia novamente dentro de momentos.",
        PageText::LogInFirst => "Entre primeiro",
        PageText::LogInFirstAdvice => "Entre neste site e siga o link novamente.",
        PageText::NoAccess => "Não tem acesso",
        PageText::NoAccessAdvice => {
            "O seu utilizador não tem aqui um telefone. Se devia ter, avise o seu administrador."
        }
        PageText::LoginUsed => "Este início de sessão já foi usado ou demorou demasiado",
        PageText::LoginUsedAdvice => "Comece a sessão novamente.",
        PageText::Blocked => "Esta página não pode ser aberta a partir daqui",
        PageText::BlockedAdvice => "Só pode ser aberta a partir de certas redes, como a do seu escritório.",
        PageText::OtherSite => "Outro site enviou-o para aqui",
        PageText::OtherSiteAdvice => "Para sua segurança, abra esta página a partir do próprio site.",
        PageText::TooMany => "Demasiados pedidos",
        PageText::OpenInBrowser => "Abra este link num navegador",
        PageText::OpenInBrowserAdvice => {
            "Foi aberto antecipadamente, talvez por um programa que verifica links. Ainda funciona."
        }
        PageText::NoAnswer => "O servidor não responde",
        PageText::TelephoneDown => "O sistema telefónico não responde",
        PageText::LoginServiceDown => "O serviço de autenticação não responde",
        PageText::LoginDenied => "O serviço de autenticação recusou a entrada",
        PageText::LoginDeniedAdvice => "Entre com outro utilizador ou avise o seu administrador.",
        PageText::LoginUnknown => "Este início de sessão não é conhecido",
        PageText::LoginUnknownAdvice => {
            "É demasiado antigo, já foi usado ou o seu navegador não guarda os cookies deste site. Comece novamente."
        }
        PageText::LoginNotKept => "A sua sessão no sistema telefónico não se manteve",
        PageText::LoginNotKeptAdvice => {
            "Talvez o seu navegador não guarde os cookies deste site. Permita-os e entre novamente."
        }
        PageText::NotRecorded => "Neste momento a entrada não pode ser registada",
        PageText::NotFound => "Não há nada neste endereço",
        PageText::NotFoundAdvice => "Verifique o endereço ou volte atrás.",
        PageText::Unreadable => "O pedido não pode ser lido",
        PageText::UnreadableAdvice => "Volte atrás e tente novamente.",
        PageText::TooSlow => "O pedido não chegou a tempo",
    }
}
