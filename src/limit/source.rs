//! The source whose quota a request counts against.

use std::net::IpAddr;

use super::client_key;
use crate::model::digest::Digest;

/// The source of a request, as limits tell it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LimitSource {
    /// The client, by [`client_key`].
    pub(super) client: IpAddr,
    kind: SourceKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum SourceKind {
    /// All requests of the address.
    Address,
    /// Requests of the address that pages of other sites cause.
    Elsewhere,
    /// Requests with one credential that has logged in at this address.
    Credential(Digest),
}

impl LimitSource {
    /// Returns the source of all requests of an address.
    #[must_use]
    pub(crate) fn address(ip: IpAddr) -> Self {
        Self { client: client_key(ip), kind: SourceKind::Address }
    }

    /// Returns the source of requests of an address that pages of other sites cause; it has a quota of its own.
    #[must_use]
    pub(crate) fn elsewhere(ip: IpAddr) -> Self {
        Self { client: client_key(ip), kind: SourceKind::Elsewhere }
    }

    /// Returns the source of a credential at an address, by its digest; it has a quota of its own.
    #[must_use]
    pub(crate) fn credential(ip: IpAddr, credential: Digest) -> Self {
        Self { client: client_key(ip), kind: SourceKind::Credential(credential) }
    }
}
