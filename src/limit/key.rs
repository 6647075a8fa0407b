//! The keys by which limits count.

use std::net::IpAddr;

use super::LimitSource;
use super::seeds::HashSeeds;
use super::table::KeyPlaces;

/// What a limit counts by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct LimitKey {
    /// Its parts, each behind its length.
    pub(super) bytes: Vec<u8>,
    /// The client, by [`super::client_key`]; nothing for what belongs to no address.
    pub(super) client: Option<IpAddr>,
}

impl LimitKey {
    /// Makes a key of parts that name something. Other parts are another key.
    pub(crate) fn of(parts: &[&[u8]]) -> Self {
        let mut bytes = Vec::new();
        for part in parts {
            bytes.extend((part.len() as u64).to_be_bytes());
            bytes.extend(*part);
        }
        Self { bytes, client: None }
    }

    /// Returns its places in a table.
    pub(super) fn places(&self, seeds: &HashSeeds) -> KeyPlaces {
        match self.client {
            None => seeds.places(self),
            Some(client) => seeds.places_at(client, self),
        }
    }
}

impl From<&LimitSource> for LimitKey {
    fn from(source: &LimitSource) -> Self {
        let (kind, credential) = source.parts();
        let address = source.client.to_string();
        Self { client: Some(source.client), ..Self::of(&[kind.as_bytes(), address.as_bytes(), credential]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_other_parts_are_others() {
        let sources = [
            LimitSource::address([192, 0, 2, 1].into()),
            LimitSource::address([192, 0, 2, 2].into()),
            LimitSource::elsewhere([192, 0, 2, 1].into()),
            LimitSource::credential([192, 0, 2, 1].into(), [1; 32]),
            LimitSource::credential([192, 0, 2, 1].into(), [2; 32]),
        ];
        let mut keys: Vec<_> = sources.iter().map(LimitKey::from).collect();
        keys.extend([LimitKey::of(&[b"a", b"b"]), LimitKey::of(&[b"ab"]), LimitKey::of(&[b"a", b"b", b""])]);
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[..index].contains(key), "{key:?}");
        }
    }
}
