//! Interim answers (RFC 9110 §15.2).

use http::StatusCode;
use http::header::HeaderMap;

/// An interim answer for the client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Interim {
    /// Any 1xx except 100 and 101, which are about the connection.
    pub status: StatusCode,
    /// Its fields as they arrived.
    pub fields: HeaderMap,
}

/// Called with each interim answer, if they are wanted.
pub(crate) type OnInterim<'c> = Option<&'c dyn Fn(Interim)>;
