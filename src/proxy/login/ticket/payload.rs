//! The meaning of a ticket, as the store keeps it.

use crate::model::account::Language;
use crate::model::freeze_target::FreezeTarget;
use crate::model::secret::Secret;
use crate::model::session::SessionId;

/// The meaning of a ticket, which the store keeps.
pub(super) struct TicketPayload {
    pub(super) token: SessionId,
    pub(super) language: Option<Language>,
    /// The host that the ticket is for, without port.
    pub(super) host: String,
    pub(super) step: HandOverStep,
    /// The account of the session: freezes are checked by it even if a restart has forgotten the session.
    pub(super) owner: FreezeTarget,
}

/// The steps of a hand-over. A browser is named by the SHA-256 of its cookie, in hexadecimal.
pub(super) enum HandOverStep {
    /// A server with a key sends a browser, and vouches for it.
    Sent,
    /// A browser began at the host `at`, where it has a cookie.
    Begun { browser: String, at: String },
    /// The browser has a cookie of the PBX's host `to` too, and goes back.
    Back { browser: String, there: String, to: String },
    /// The browser has shown the cookie of its beginning.
    Known { there: String },
}

impl HandOverStep {
    /// Writes the step as one word.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Sent => "sent".to_owned(),
            Self::Begun { browser, at } => format!("begun|{browser}|{at}"),
            Self::Back { browser, there, to } => format!("back|{browser}|{there}|{to}"),
            Self::Known { there } => format!("known|{there}"),
        }
    }

    pub(super) fn read(text: &str) -> Option<Self> {
        let parts: Vec<_> = text.split('|').collect();
        let own = |part: &str| part.to_owned();
        match parts.as_slice() {
            ["sent"] => Some(Self::Sent),
            ["begun", browser, at] => Some(Self::Begun { browser: own(browser), at: own(at) }),
            ["back", browser, there, to] => Some(Self::Back { browser: own(browser), there: own(there), to: own(to) }),
            ["known", there] => Some(Self::Known { there: own(there) }),
            _ => None,
        }
    }
}

impl TicketPayload {
    /// Writes the payload as one text. Only the last part may contain spaces, so that the parts cannot be confused.
    pub(super) fn text(&self) -> Secret {
        let language = self.language.as_ref().map_or("-", Language::as_str);
        let (token, step) = (self.token.expose(), self.step.text());
        Secret::new(format!("{token} {language} {} {step} {}", self.host, self.owner))
    }

    pub(super) fn read(text: &Secret) -> Option<Self> {
        let mut parts = text.expose().splitn(5, ' ');
        let (token, language, host) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?.to_owned());
        let language = if language == "-" { None } else { Some(language.parse().ok()?) };
        let step = HandOverStep::read(parts.next()?)?;
        Some(Self { token, language, host, step, owner: parts.next()?.parse().ok()? })
    }
}
