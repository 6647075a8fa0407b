//! The source whose quota a request counts against.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use super::client_key;
use super::seeds::{Fingerprint, HashSeed};
use super::table::{KeyPlaces, TableKey};
use crate::model::digest::Digest;

/// The source of a request, as limits tell it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitSource {
    /// The client, by [`client_key`].
    pub(super) client: IpAddr,
    kind: SourceKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SourceKind {
    /// All requests of the address.
    Address,
    /// Requests of the address that pages of other sites cause.
    Elsewhere,
    /// Requests with one credential that has logged in at this address.
    Credential(Digest),
}

/// Returns a hash by which a process finds out whether it hashes sources as the one before it does, which another version may
/// not.
pub(super) fn probe(seed: HashSeed) -> Fingerprint {
    let address = [192, 0, 2, 1].into();
    seed.fingerprint(&[
        LimitSource::address(address),
        LimitSource::elsewhere(std::net::Ipv6Addr::LOCALHOST.into()),
        LimitSource::credential(address, [7; 32]),
    ])
}

impl TableKey for LimitSource {
    fn places(&self, seed: HashSeed) -> KeyPlaces {
        seed.places_at(self.client, self)
    }
}

/// Written in one piece, which hashes faster than part by part.
impl Hash for LimitSource {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let address = match self.client {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(network) => network.octets(),
        };
        let mut bytes = [0; 1 + 16 + 32];
        bytes[1..17].copy_from_slice(&address);
        let length = match &self.kind {
            SourceKind::Address => 17,
            SourceKind::Elsewhere => {
                bytes[0] = 1;
                17
            }
            SourceKind::Credential(digest) => {
                bytes[0] = 2;
                bytes[17..].copy_from_slice(digest);
                bytes.len()
            }
        };
        state.write(&bytes[..length]);
    }
}

impl LimitSource {
    /// Returns the source of all requests of an address.
    #[must_use]
    pub fn address(ip: IpAddr) -> Self {
        Self { client: client_key(ip), kind: SourceKind::Address }
    }

    /// Returns the source of requests of an address that pages of other sites cause; it has a quota of its own.
    #[must_use]
    pub(crate) fn elsewhere(ip: IpAddr) -> Self {
        Self { client: client_key(ip), kind: SourceKind::Elsewhere }
    }

    /// Returns the kind of the source, and the credential if it is one.
    pub(super) fn parts(&self) -> (&'static str, &[u8]) {
        match &self.kind {
            SourceKind::Address => ("address", &[]),
            SourceKind::Elsewhere => ("elsewhere", &[]),
            SourceKind::Credential(digest) => ("credential", digest),
        }
    }

    /// Returns the source of a credential at an address, by its digest; it has a quota of its own.
    #[must_use]
    pub(crate) fn credential(ip: IpAddr, credential: Digest) -> Self {
        Self { client: client_key(ip), kind: SourceKind::Credential(credential) }
    }
}
