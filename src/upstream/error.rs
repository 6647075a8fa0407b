//! Why an upstream gave no answer.

use std::io;
use std::sync::Arc;

use super::http1::Http1Error;
use super::lookup::LookupError;
use crate::message::framing::Unclear;
use crate::observe::metrics::ConnectResult;

/// Why an upstream gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// No connection could be opened.
    #[error("cannot connect to {to}")]
    Connect {
        /// The endpoint that was tried last.
        to: Arc<str>,
        /// The cause there.
        source: ConnectError,
    },
    /// All connections that `max_connections` permits are in use, and none became free in time.
    #[error("all connections that max_connections permits are in use")]
    Full,
    /// The credentials of the request prove a connection that another exchange is using, and it did not become free in
    /// time.
    #[error("the connection that these credentials prove is busy")]
    BoundConnectionBusy,
    /// The connection broke, or the answer was not HTTP.
    #[error("no valid answer")]
    Broken(#[source] Http1Error),
    /// The answer broke a rule on which its framing or meaning depends.
    #[error("the answer cannot be trusted: {0}")]
    BadResponse(&'static str),
    /// The framing of the answer has two readings.
    #[error("the framing of the answer has two readings")]
    AmbiguousResponse(#[from] Unclear),
    /// The first byte of the answer did not arrive in time.
    #[error("no answer in time")]
    Timeout,
    /// The body of the client's request paused for too long.
    #[error("the request body paused too long")]
    ClientStalled,
    /// The body of the client's request broke off or was malformed.
    #[error("the request body broke off")]
    ClientGone,
}

impl Error {
    /// Returns the result of an attempt to connect that failed with this error.
    pub(crate) const fn connect_result(&self) -> ConnectResult {
        match self {
            Self::Connect { source: ConnectError::Timeout, .. } => ConnectResult::Timeout,
            Self::Full => ConnectResult::Full,
            _ => ConnectResult::Failed,
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The host has no addresses.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// The connection is refused, or TLS failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Connecting took too long.
    #[error("no connection in time")]
    Timeout,
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn a_refused_connection_is_named_once_in_the_error() {
        let error = ConnectError::from(io::Error::from(io::ErrorKind::ConnectionRefused));
        assert_eq!((error.to_string().as_str(), error.source().is_none()), ("connection refused", true));
    }
}
