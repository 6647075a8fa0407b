//! The keys by which limits count.

use std::borrow::Cow;

use super::LimitSource;
use super::seeds::HashSeed;
use super::table::{KeyPlaces, TableKey};

/// What a limit counts by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LimitKey {
    /// The source of a request.
    Source(LimitSource),
    /// What belongs to no address: the parts that name it, each behind its length.
    Parts(Vec<u8>),
}

impl LimitKey {
    /// Makes a key of parts that name something. Other parts are another key.
    pub(crate) fn of(parts: &[&[u8]]) -> Self {
        Self::Parts(joined(parts))
    }

    /// Returns its name at the engine that members share.
    pub(super) fn name(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Source(source) => {
                let (kind, credential) = source.parts();
                joined(&[kind.as_bytes(), source.client.to_string().as_bytes(), credential]).into()
            }
            Self::Parts(parts) => parts.into(),
        }
    }
}

impl TableKey for LimitKey {
    fn places(&self, seed: HashSeed) -> KeyPlaces {
        match self {
            Self::Source(source) => source.places(seed),
            Self::Parts(parts) => seed.places(&**parts),
        }
    }
}

/// Joins parts, each behind its length.
fn joined(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(parts.iter().map(|part| size_of::<u64>() + part.len()).sum());
    for part in parts {
        bytes.extend((part.len() as u64).to_be_bytes());
        bytes.extend(*part);
    }
    bytes
}

impl From<&LimitSource> for LimitKey {
    fn from(source: &LimitSource) -> Self {
        Self::Source(*source)
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
