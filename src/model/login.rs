//! A login: what it opens and how it ended. A logout: who asked for it and how far it came.

use serde::{Deserialize, Serialize};

/// What a login opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoginKind {
    /// A session of the PBX.
    Pbx,
    /// An answer to a Voximplant one-time key.
    Ott,
}

impl LoginKind {
    /// Returns the word that the audit log and the metrics use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pbx => "pbx_session",
            Self::Ott => "voximplant_token",
        }
    }
}

/// How a login ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginOutcome {
    /// The caller received the session or the answer.
    Granted,
    /// The caller received neither.
    Refused,
    /// The caller received a ticket, with which the PBX's host opens a session.
    Ticket,
}

/// Who asks for a logout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogoutKind {
    /// The person, with their browser.
    Person,
    /// The identity provider, by a logout token.
    Provider,
}

impl LogoutKind {
    /// Returns the word that the audit log and the metrics use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Person => "logout",
            Self::Provider => "provider_logout",
        }
    }
}

/// How a logout ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogoutOutcome {
    /// All that it names has ended.
    Done,
    /// The PBX did not confirm the end of a session. What callgate keeps has ended.
    Unconfirmed,
    /// Nothing has ended.
    Refused,
}
