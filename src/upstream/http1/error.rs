//! Why there is no whole answer over HTTP/1.1.

use std::io;

/// Why there is no whole answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Http1Error {
    /// The connection broke.
    #[error(transparent)]
    Io(io::Error),
    /// The same, or the answer is not valid, for a request of callgate's own that hyper sent.
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    /// The connection was closed before the answer was complete.
    #[error("the connection was closed before the answer was complete")]
    Incomplete,
    /// The head is not HTTP/1.1.
    #[error("the head of the answer is not valid")]
    Head(#[from] httparse::Error),
    /// A rule on which the meaning of the answer depends is broken.
    #[error("{0}")]
    Invalid(&'static str),
    /// The body of the client's request broke off, or has another length than its head says.
    #[error("the request broke off")]
    Client,
}
