//! Whose quota a request counts against.

use std::net::IpAddr;

use super::client_key;
use crate::model::digest::Digest;

/// Where a request comes from, as limits tell it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LimitSource {
    /// The client, by [`client_key`].
    pub(super) client: IpAddr,
    kind: SourceKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum SourceKind {
    /// All requests of the address.
    Address,
    /// What pages of other sites make the browsers of the address do.
    Elsewhere,
    /// The requests with one credential that was good at this address before.
    Credential(Digest),
}

impl LimitSource {
    /// Counts among all requests of an address.
    #[must_use]
    pub fn address(ip: IpAddr) -> Self {
        Self { client: client_key(ip), kind: SourceKind::Address }
    }

    /// Counts apart: pages of other sites send the browsers of this address here.
    #[must_use]
    pub fn elsewhere(ip: IpAddr) -> Self {
        Self { client: client_key(ip), kind: SourceKind::Elsewhere }
    }

    /// Counts apart: a credential, by its digest, at an address.
    #[must_use]
    pub fn credential(ip: IpAddr, credential: Digest) -> Self {
        Self { client: client_key(ip), kind: SourceKind::Credential(credential) }
    }
}
