//! `[pbx] auto`: logins that begin at a page of the PBX.

use crate::model::session_state::SessionMarkers;

/// Automatic logins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AutoConfig {
    /// Where the login is asked for.
    pub at: LoginOrigin,
    /// `logged_in`: how the PBX's description shows that a session is alive.
    pub markers: SessionMarkers,
}

/// The origin at which `/auth/pbx` knows the browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginOrigin {
    /// The host of the page itself.
    Own,
    /// Another host of callgate.
    Other {
        /// The name, in lower case.
        host: String,
        /// The port.
        port: u16,
        /// The origin as browsers write it (RFC 6454 §6.2).
        origin: String,
    },
}
