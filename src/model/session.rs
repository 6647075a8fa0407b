//! The identifier of a PBX session. Its holder is logged in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::secret::Secret;

/// The PBX's name for a session: the name of its cookie, and of the login that turns a token into a session.
pub const SESSION: &str = "session";
/// The parameter by which the PBX's pages take a session over.
pub const SESSION_PARAMETER: &str = "sessId";

/// The text does not have the form of a session id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a session id")]
pub struct NotASession;

/// A session id or token minted by the PBX. Only [`SessionId::expose`] shows it.
#[derive(Clone)]
pub struct SessionId(Secret);

impl SessionId {
    /// Returns the id, for the answer that hands it over.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

/// Why a session of the PBX was ended before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "&'static str")]
pub enum EndReason {
    /// The operator froze its account.
    Freeze,
    /// The app said `PBX-Logout: 1`.
    App,
    /// The person logged out at callgate.
    Logout,
    /// The identity provider said that the person has logged out.
    Backchannel,
    /// The operator ended it.
    Operator,
    /// The WebSocket that it was opened for has ended.
    Socket,
    /// The person logged out at the PBX.
    Pbx,
    /// The login that it was opened for was refused after all.
    Refused,
}

impl EndReason {
    /// All reasons.
    pub const ALL: [Self; 8] = [
        Self::Freeze,
        Self::App,
        Self::Logout,
        Self::Backchannel,
        Self::Operator,
        Self::Socket,
        Self::Pbx,
        Self::Refused,
    ];

    /// Returns the reason as a word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Freeze => "freeze",
            Self::App => "app",
            Self::Logout => "logout",
            Self::Backchannel => "backchannel",
            Self::Operator => "operator",
            Self::Socket => "socket",
            Self::Pbx => "pbx",
            Self::Refused => "refused",
        }
    }
}

impl From<EndReason> for &'static str {
    fn from(reason: EndReason) -> Self {
        reason.as_str()
    }
}

/// Reads the word of a reason. One that another version of callgate knows counts as the operator's.
impl From<String> for EndReason {
    fn from(word: String) -> Self {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word).unwrap_or(Self::Operator)
    }
}

impl FromStr for SessionId {
    type Err = NotASession;

    /// Reads `[A-Za-z0-9]{10,64}`.
    fn from_str(text: &str) -> Result<Self, NotASession> {
        let valid = (10..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if valid { Ok(Self(Secret::new(text.to_owned()))) } else { Err(NotASession) }
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_only_what_the_pbx_mints() {
        for text in ["g7lsrphhrkim1jkvbt88", "ABCdef0123", &"a".repeat(64)] {
            assert_eq!(text.parse::<SessionId>().unwrap().expose(), text);
        }
        for text in
            ["", "false", "null", "short1234", "with-hyphen-1234", "with space 1234", "<html></html>", &"a".repeat(65)]
        {
            assert!(text.parse::<SessionId>().is_err(), "{text}");
        }
    }

    #[test]
    fn does_not_print() {
        let session = "g7lsrphhrkim1jkvbt88".parse::<SessionId>().unwrap();
        assert_eq!(format!("{session:?}"), "***");
    }
}
